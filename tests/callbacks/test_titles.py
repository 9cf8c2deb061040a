from types import SimpleNamespace

import pytest

from callbacks import Samples
from callbacks.titles import class_name, class_names, many_classes, subject
from models import from_checkpoint

NAMED = SimpleNamespace(class_names=["T-shirt/top", "\u4e00", " two  words "])


def test_names_of_classes_or_their_numbers():
    assert class_names(object(), 3) == ["0", "1", "2"]
    assert class_names(SimpleNamespace(class_names=None), 1) == ["0"]
    assert class_names(NAMED, 4) == ["T-shirt/top", "1", "two words", "3"]  # without a glyph or a name, the number
    assert (class_name(NAMED, 0), class_name(NAMED, 1)) == ('"T-shirt/top"', "class 1")


def test_title_text_if_only_some_classes_are_shown():
    assert many_classes(10, range(10)) == ""
    assert many_classes(50, range(20)) == " (20 of 50 classes)"


def test_the_epoch_is_known_in_training_and_from_a_checkpoint(fit, make_model, data):
    model = make_model()
    assert subject(model, data) == "VAE on Digits"
    fit(model, [], max_epochs=2)
    assert subject(model, data) == "VAE on Digits, epoch 2"
    checkpoint = {"model": "VAE", "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict(), "epoch": 1}
    assert subject(from_checkpoint(checkpoint), data) == "VAE on Digits, epoch 2"


@pytest.mark.parametrize("name", ["VAE", "M2"])
def test_title_of_samples(make_model, data, name):
    model = make_model(name).eval()
    [figure] = Samples(num_images=4).draw(model, data).values()
    texts = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert texts == [f"Samples from the prior: {name} on Digits"]
