import pytest
import torch

from callbacks import Attributes, Canonical
from figures import grids


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every figure that is drawn, by its name."""
    calls = {}
    for name in ("attributes", "canonical"):
        draw = getattr(grids, name)
        monkeypatch.setattr(
            grids, name, lambda *args, name=name, draw=draw: calls.setdefault(name, args) and draw(*args)
        )
    return calls


@pytest.mark.parametrize("name", ["VAE", "IWAE", "CVAE", "HierarchicalVAE"])
def test_the_mean_code_of_a_class_is_added_step_by_step(make_model, data, drawn, name):
    model = make_model(name).eval()
    [(figure_name, figure)] = Attributes(label=3).draw(model, data).items()
    assert figure_name == "attributes"
    originals, images, weights, title, rows = drawn["attributes"]
    x, y = data.images("test")
    mean = model.encode(x[y == 3], *model.given(y[y == 3])).mean(0)
    first = torch.tensor([int((y == label).nonzero()[0]) for label in range(10)])
    assert torch.equal(originals, x[first])
    assert images.shape == (8, 10, 1, 8, 8)
    assert weights == pytest.approx([i / 7 for i in range(8)])
    labels = model.given(y[first])
    for weight, row in zip(weights, images, strict=True):
        torch.testing.assert_close(row, model.decode(model.encode(x[first], *labels) + weight * mean, *labels))
    torch.testing.assert_close(images[0], model.reconstruct(x[first], *labels))
    assert "mean code of class 3" in title
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:10] == rows == list("0123456789")
    assert texts[10:19] == ["original", "0.00", "0.14", "0.29", "0.43", "0.57", "0.71", "0.86", "1.00"]
    size = 10 * 74 - 2, 9 * 74 - 2 + grids.BREAK - grids.GAP
    assert figure.axes[0].images[0].get_array().shape[:2] == size


def test_a_class_without_images_draws_nothing(make_model, data):
    assert Attributes(label=10).draw(make_model().eval(), data) == {}


def test_input_reconstruction_and_canonical_image_of_each_class_in_blocks(make_model, data, drawn):
    model = make_model("AffineVAE").eval()
    [(name, figure)] = Canonical().draw(model, data).items()
    assert name == "canonical"
    x, x_hat, without, title = drawn["canonical"]
    first = [int((data.test.y == label).nonzero()[0]) for label in range(10)]
    assert torch.equal(x[:10], data.images("test")[0][first])
    assert len(x) == 20
    torch.testing.assert_close(x_hat, model.reconstruct(x))
    torch.testing.assert_close(without, model.canonical(x))
    assert not torch.allclose(x_hat, without)
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape[:2] == (6 * 74 - 2 + grids.BREAK - grids.GAP, 10 * 74 - 2)
    labels = [text.get_text() for text in axes.texts if text.get_text()]
    assert labels.pop() == title
    assert labels == ["input", "reconstruction", "canonical"] * 2
