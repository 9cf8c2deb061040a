"""Figures of models with classes: analogies, samples of each class, confusion matrix, error."""

import pytest
import torch

from callbacks import (
    Analogies,
    ClassSamples,
    ConfusionMatrix,
    ErrorCurve,
    Interpolations,
    Reconstructions,
    RunCheckpoint,
)
from callbacks.confusion_matrix import class_probabilities, confusion
from figures import charts, grids


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every figure that is drawn, by its name."""
    calls = {}

    def spy(name):
        room = grids if hasattr(grids, name) else charts
        draw = getattr(room, name)
        monkeypatch.setattr(
            room, name, lambda *args, **kwargs: calls.setdefault(name, []).append(args) or draw(*args, **kwargs)
        )

    for name in (
        "analogies", "class_samples", "confusion_matrix", "error_curve", "interpolations", "reconstructions"
    ):  # fmt: skip
        spy(name)
    return calls


@pytest.mark.parametrize("name", ["M2", "M1M2", "SDGM"])
def test_analogies_of_the_first_test_image_of_each_class(fit, make_model, data, drawn, name):
    model = make_model(name)
    fit(model, [Analogies()], max_epochs=1)
    [(x, images, *_)] = drawn["analogies"]
    everything, y = data.images("test", grey=name == "M1M2")
    first = [int((y == label).nonzero()[0]) for label in range(10)]
    assert torch.equal(x, everything[first])
    assert images.shape == (10, 10, 1, 8, 8)
    assert torch.equal(images, model.eval().analogies(x))


@pytest.mark.parametrize("name", ["CVAE", "M2", "M1M2", "SDGM"])
def test_samples_of_each_class(fit, make_model, drawn, name):
    fit(make_model(name), [ClassSamples(num_images=3)], max_epochs=1)
    assert drawn["class_samples"][0][0].shape == (3, 10, 1, 8, 8)


def test_confusion_counts_known_labels_true_by_predicted():
    class Parity:
        def classify(self, x):  # says 1 for images that are on, 0 for others
            return torch.stack([1 - x, x, -x], 1)

    x, y = torch.tensor([1.0, 1, 0, 0, 1]), torch.tensor([1, 0, 0, 2, -1])
    assert confusion(class_probabilities(Parity(), x), y).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("name", ["M2", "M1M2", "SDGM"])
def test_confusion_matrix_of_all_validation_images(fit, make_model, data, drawn, memory, name):
    log = memory()
    fit(make_model(name), [ConfusionMatrix()], max_epochs=1, logger=log)
    [(counts, of, *_)] = drawn["confusion_matrix"]
    assert (counts.sum(), of) == (250, "validation")
    assert counts.sum(1).tolist() == data.val.y.bincount(minlength=10).tolist()
    assert log.of("val/error")[-1][2] == pytest.approx(1 - counts.trace().item() / 250)


def test_error_curve_has_every_epoch_also_those_before_it_was_resumed(fit, make_model, drawn, memory, tmp_path):
    log = memory()
    fit(make_model("M2"), [ErrorCurve(), RunCheckpoint(tmp_path, seed=0)], max_epochs=3, logger=log)
    resumed = {"max_epochs": 5, "ckpt_path": tmp_path / "checkpoints" / "last.ckpt"}
    fit(make_model("M2"), [ErrorCurve(), RunCheckpoint(tmp_path, seed=0)], logger=log, **resumed)
    expected = {epoch + 1: value for _, epoch, value in log.of("val/error")}
    assert list(expected) == [1, 2, 3, 4, 5]
    assert drawn["error_curve"][-1][0] == pytest.approx(expected)


def test_without_validation_there_is_no_error_curve(fit, make_model, drawn):
    fit(make_model("M2"), [ErrorCurve()], max_epochs=1, limit_val_batches=0)
    assert not drawn


def test_a_conditional_model_receives_the_labels(fit, make_model, data, drawn):
    model = make_model("CVAE")
    fit(model, [Reconstructions(num_images=5), Interpolations(num_pairs=2, num_steps=4)], max_epochs=1)
    model.eval()
    x, y = data.images("test", 5)
    assert torch.equal(drawn["reconstructions"][0][1], model.reconstruct(x, y))
    x, y = data.images("test", 4)
    images, *ends = drawn["interpolations"][0]
    assert torch.equal(images, model.interpolate(x[:2], x[2:], 4, "linear", y[:2], y[2:]))
    assert torch.equal(torch.cat(ends), x)
