"""Figures of constant data and codes, or of very few images, are drawn without warnings (warnings are errors here)."""

import pytest
import torch

from callbacks import FigureCallback, LatentCodes, LatentCodesTSNE, for_model
from callbacks.codes import active_dimensions, in_plane
from figures import charts
from figures.animation import Animation
from models import MODELS, evaluating

SAME = r"The codes of all \d+ images are the same"


class Few:
    """Data that repeat one test image."""

    def __init__(self, count, label=0):
        self.count, self.label = count, label

    def images(self, split, n=None, device="cpu", grey=False):
        x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(self.count, -1, -1, -1)
        return x[:n], torch.full((self.count,), self.label)[:n]

    def stored_images(self, split, chunk):
        return self.images(split)[0].split(chunk)


@pytest.mark.filterwarnings("ignore:The codes of all:UserWarning")
@pytest.mark.parametrize(("count", "label"), [(1, 0), (2, -1), (5, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_every_figure_of_few_images_that_are_the_same(make_model, name, count, label):
    model = make_model(name)
    data = Few(count, max(label, 0) if model.is_conditional else label)
    for callback in for_model(model):
        if isinstance(callback, FigureCallback):
            with evaluating(model):
                for drawing in callback.draw(model, data).values():
                    for figure in drawing.frames() if isinstance(drawing, Animation) else [drawing]:
                        figure.draw_without_rendering()


@pytest.mark.parametrize("value", [0.0, 1.7, -1e6])
def test_constant_codes_are_projected_to_zero_with_a_warning(value):
    with pytest.warns(UserWarning, match=SAME):
        points, axes = in_plane(torch.full((5, 3), value))
    assert points.tolist() == [[0, 0]] * 5
    assert not any("nan" in name for name in axes)


def test_small_differences_are_not_constant():
    z = torch.tensor([[0.0, 1, 1], [1e-4, 1, 1], [0, 1, 1.001]])
    _, axes = in_plane(z)
    assert all("% of variance" in name for name in axes)


def test_constant_codes_have_a_scatter_plot_but_no_tsne(make_model):
    model, data = make_model().eval(), Few(5)
    with pytest.warns(UserWarning, match=SAME):
        assert list(LatentCodes().draw(model, data)) == ["latent_codes"]
    with pytest.warns(UserWarning, match=SAME):
        assert LatentCodesTSNE().draw(model, data) == {}


def test_kl_that_is_zero_or_not_finite():
    none = charts.kl_per_dimension([torch.zeros(3)], [torch.zeros(3) > 0])
    assert none.axes[0].get_ylim() == (0, 1)
    figure = charts.kl_per_dimension([torch.tensor([torch.nan, 1.0, torch.inf])], [torch.ones(3) > 0])
    figure.draw_without_rendering()
    assert figure.axes[0].get_title(loc="left").endswith("1.0 nats in all (2 not finite, drawn as 0)")


def test_an_error_of_zero_has_an_axis():
    figure = charts.error_curve({1: 0.0})
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim() == (0, 1)


def test_active_dimensions(make_model):
    z = torch.tensor([[0.0, 0, 0], [1, 0.1, 0.01]])  # variances 0.25, 0.0025, ...
    assert active_dimensions(make_model(), z).tolist() == [True, False, False]
    z = torch.tensor([[0.0, 0, 0], [100, 20, 1]])  # without a prior, of the largest
    assert active_dimensions(make_model("AE"), z).tolist() == [True, True, False]
