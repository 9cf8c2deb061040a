"""M2, ADGM and SDGM with `classify_grey`: they predict labels from the images before binarization."""

import pytest
import torch

from callbacks.step_rng import StepRNG
from datamodules import DATAMODULES
from models import MODELS

SMALL = {"M2": {}, "ADGM": {"a_dim": 3, "classifier_samples": 5}, "SDGM": {"a_dim": 3, "classifier_samples": 5}}
names = pytest.mark.parametrize("name", SMALL)


def digits(**options):
    data = DATAMODULES["Digits"](batch_size=200, num_labels=50, **options)
    data.setup()
    return data


def new(name, data, **options):
    torch.manual_seed(0)
    return MODELS[name].for_data(data, hidden=[16], z_dim=4, lr=1e-2, **SMALL[name], **options)


@pytest.fixture
def fitted(trainer):
    """Return a function that trains a model for two epochs and returns it with the logged metrics and its data."""

    def run(name, **options):
        data = digits()
        data.run_seed = 3
        model, fitter = new(name, data, **options), trainer(max_epochs=2, callbacks=[StepRNG(3)])
        fitter.fit(model, datamodule=data)
        return model.eval(), fitter.callback_metrics, data

    return run


@names
def test_validation_predicts_labels_from_grey_images(fitted, name):
    model, metrics, data = fitted(name, classify_grey=True)
    assert model.classifies_grey
    errors = {}
    for grey in (True, False):
        x, y = data.images("val", grey=grey)
        errors[grey] = (model.classify(x).argmax(1) != y).double().mean().item()
    assert metrics["val/error"].item() == pytest.approx(errors[True])
    assert errors[True] != errors[False]


@names
def test_training_and_bounds_do_not_depend_on_the_option(fitted, name):
    (grey, metrics, _), (binarized, others, _) = (fitted(name, classify_grey=value) for value in (True, False))
    expected = binarized.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in grey.state_dict().items())
    for key in ("val/bound", "val/labelled_bound", "val/rate", "val/distortion"):
        assert torch.equal(metrics[key], others[key])


def test_data_without_binarized_or_without_grey_pixels_are_refused():
    with pytest.raises(ValueError, match="classify_grey needs binarized images, but these are grey: leave it out"):
        new("M2", digits(binarization="grey"), likelihood="gaussian", classify_grey=True)
    data = digits()
    data.has_grey_levels = False
    with pytest.raises(ValueError, match=r"Digits has no grey levels: leave out --model\.classify_grey"):
        new("M2", data, classify_grey=True)
