import pytest
import torch

from callbacks import Traversals, traversals
from callbacks.codes import QUANTILES
from callbacks.traversals import dimension_names, moved
from figures import grids
from models import VAE, evaluating


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the figure."""
    calls = []
    draw = grids.traversals
    monkeypatch.setattr(grids, "traversals", lambda *args: calls.append(args) or draw(*args))
    return calls


def by_variance(model, data):
    x, y = data.images("test")
    z = model.encode(x, *model.condition_args(y))
    return z, z.var(0).argsort(descending=True)


def test_one_dimension_moves_at_a_time():
    codes = moved(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0]), torch.tensor([[7.0, 8.0], [9.0, 10.0]]))
    assert codes.tolist() == [[[1, 2, 7], [1, 2, 8]], [[9, 2, 3], [10, 2, 3]]]


@pytest.mark.parametrize("name", ["VAE", "CVAE", "AffineVAE"])
def test_from_minus_three_to_three_with_the_rest_at_the_code(make_model, data, drawn, name):
    model = make_model(name).eval()
    Traversals(num_dims=3).draw(model, data)
    [(image, images, rows, columns, title)] = drawn
    z, order = by_variance(model, data)
    y = model.condition_args(data.images("test", 1)[1])
    assert torch.equal(image, data.images("test", 1)[0][0])
    assert images.shape == (3, 11, 1, 8, 8)
    for row, dim in enumerate(order[:3].tolist()):
        for column, value in enumerate(torch.linspace(-3, 3, 11)):
            code = z[:1].clone()
            code[0, dim] = value
            torch.testing.assert_close(images[row, column], model.decode(code, *y)[0])
    assert rows == [dimension_names(model)[dim] for dim in order[:3].tolist()]
    assert columns == ["-3.0", "-2.4", "-1.8", "-1.2", "-0.6", "0.0", "0.6", "1.2", "1.8", "2.4", "3.0"]
    assert "standard deviations of the prior" in title


@pytest.mark.parametrize("name", ["AE", "HierarchicalVAE"])
def test_without_a_prior_of_the_code_along_its_quantiles(make_model, data, drawn, name):
    start = {"init": "glorot"} if name == "HierarchicalVAE" else {}  # every dimension is active from the start
    model = make_model(name, **start).eval()
    Traversals().draw(model, data)
    [(_, images, rows, columns, title)] = drawn
    z, order = by_variance(model, data)
    code = z[0].clone()
    code[order[1]] = z[:, order[1]].quantile(0.99)
    torch.testing.assert_close(images[1, -1], model.decode(code))
    assert rows == [f"z{dim + 1}" for dim in order.tolist()]
    assert columns == [f"{part:.0%}" for part in QUANTILES]
    assert "quantiles of the codes" in title


def test_at_most_sixteen_rows_and_the_image_in_the_corner(make_model, data):
    [figure] = Traversals().draw(make_model(z_dim=20).eval(), data).values()
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape[:2] == (16 * 74 - 2, 12 * 74 - 2 + grids.BREAK - grids.GAP)
    labels = [text.get_text() for text in axes.texts]
    assert len(labels) == 16 + 12 + 1
    assert labels[16:18] == ["input", "-3.0"]


class Sparse(VAE):
    """Its codes vary in the first `used` dimensions only."""

    used = 2

    def encode(self, x, y=None):
        z = torch.linspace(-1, 1, len(x))[:, None] * torch.arange(4.0, 0, -1)[: self.hparams.z_dim]
        return z * (torch.arange(self.hparams.z_dim) < self.used)


@pytest.mark.parametrize(("used", "rows"), [(2, ["z1", "z2"]), (1, ["z1"]), (0, 1)])
def test_only_active_dimensions_have_a_row_and_the_title_counts_them(make_model, data, drawn, monkeypatch, used, rows):
    monkeypatch.setattr(Sparse, "used", used)
    Traversals().draw(make_model(kind=Sparse).eval(), data)
    [(_, images, names, _, title)] = drawn
    assert names == rows or len(names) == rows  # at least one
    assert len(images) == len(names)
    assert f"{used} of 4 dimensions {'is' if used == 1 else 'are'} active" in title


def test_the_title_says_how_many_active_dimensions_are_shown(make_model, data, drawn, monkeypatch):
    monkeypatch.setattr(Sparse, "used", 4)
    Traversals(num_dims=3).draw(make_model(kind=Sparse).eval(), data)
    assert "4 of 4 dimensions are active, 3 shown" in drawn[0][-1]


def test_the_last_dimensions_of_an_affine_model_are_its_transform(make_model):
    assert dimension_names(make_model("AffineVAE")) == ["z1", "z2", "z3", "p1", "p2", "p3", "p4", "p5", "p6"]
    assert dimension_names(make_model("AffineVAE", transforms=["shift"], z_dim=3)) == ["z1", "p1", "p2"]
    assert (
        dimension_names(make_model("HierarchicalVAE")) == dimension_names(make_model("AE")) == ["z1", "z2", "z3", "z4"]
    )


def test_dimensions_with_little_variance_are_not_drawn(make_model, data, monkeypatch):
    model = make_model(z_dim=4)
    codes = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.8, 0.15])
    monkeypatch.setattr(traversals, "codes_of_test_images", lambda *args: (codes, torch.zeros(200)))
    calls = []
    monkeypatch.setattr(traversals.grids, "traversals", lambda *args: calls.append(args))
    with evaluating(model):
        Traversals().draw(model, data)
    ((_, _, rows, _, title),) = calls
    assert rows == ["z1", "z3"]  # the others are active by Burda's measure
    assert "4 of 4 dimensions are active, 2 shown" in title


def test_dimensions_of_codes_with_several_layers_are_named_by_layer(make_model):
    assert dimension_names(make_model("LadderVAE", z_dim=[3, 1])) == ["z1.1", "z1.2", "z1.3", "z2.1"]
    assert dimension_names(make_model("DRAW", z_dim=2, steps=2)) == ["z1.1", "z1.2", "z2.1", "z2.2"]
