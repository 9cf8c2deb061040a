import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from callbacks import LatentPlane
from callbacks.latent_plane import MASSES, grid, prior_quantiles, sample_cdf
from figures import charts, grids
from models import AE, VAE, evaluating
from models.distributions.marginals import closed_form_marginals

TITLE = "z1 to the right, z2 upwards: "


class Painted(VAE):
    """Its codes are (0.2, 0.7) for all images, and its decoder paints z1 into the left half, z2 into the right one."""

    def encode(self, x, y=None):
        return torch.tensor([[0.2, 0.7]]).expand(len(x), 2)

    def decode(self, z, y=None):
        return painted(torch.special.ndtr(z))


class PaintedAE(AE):
    """Codes from 0 to 1 along z1 and from 0 to 2 along z2, painted as above, as parts of these ranges."""

    def encode(self, x):
        part = torch.linspace(0, 1, len(x))
        return torch.stack([part, 2 * part.flip(0)], -1)

    def decode(self, z):
        return painted(z / torch.tensor([1.0, 2.0]))


def painted(values):
    return values[..., None, None, :].expand(*values.shape[:-1], 1, 8, 2).repeat_interleave(4, -1)


def draw(make_model, data, kind, n):
    found = LatentPlane(num_images=n).draw(make_model(kind=kind, z_dim=2).eval(), data)
    canvas = np.asarray(found["latent_plane"].axes[0].images[0].get_array())[..., 0]
    return found, canvas


def halves(canvas, n, gap):
    """The values that were painted into the left and into the right half of each image, from the top row: `(n, n)`."""
    starts = np.array(grids.cell_offsets(n, 24, gap=gap)[:-1])
    return canvas[np.ix_(starts + 12, starts + 6)], canvas[np.ix_(starts + 12, starts + 18)]


def test_quantiles_of_the_prior():
    np.testing.assert_allclose(prior_quantiles(30), norm.ppf((np.arange(30) + 0.5) / 30), atol=1e-5)


def test_grid_has_z1_along_columns_and_z2_along_rows():
    z = grid(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 6.0]))
    assert z.tolist() == [[[1, 5], [2, 5], [3, 5]], [[1, 6], [2, 6], [3, 6]]]


def test_z1_grows_to_the_right_and_z2_upwards(make_model, data):
    n = 5
    found, canvas = draw(make_model, data, Painted, n)
    assert canvas.shape == (n * 25 - 1, n * 25 - 1)
    z1, z2 = halves(canvas, n, gap=1)
    part = (np.arange(n) + 0.5) / n
    shade = 0.5 / (grids.SHADES - 1) + 1e-4
    np.testing.assert_allclose(z1, np.tile(part, (n, 1)), atol=shade)
    np.testing.assert_allclose(z2, np.tile(part[::-1, None], (1, n)), atol=shade)
    texts = [text.get_text() for text in found["latent_plane"].axes[0].texts]
    assert texts[:5] == ["1.3", "", "", "-0.5", ""]  # z2 from the top
    assert texts[5:10] == ["", "-0.5", "", "", "1.3"]
    assert texts[10:] == [TITLE + "quantiles of the prior\nPainted on Digits"]


def test_without_a_prior_the_grid_covers_the_codes_evenly(make_model, data):
    found, canvas = draw(make_model, data, PaintedAE, 6)
    assert list(found) == ["latent_plane"]
    z1, z2 = halves(canvas, 6, gap=1)
    shade = 0.5 / (grids.SHADES - 1) + 1e-4
    np.testing.assert_allclose(z1[0], np.linspace(0.01, 0.99, 6), atol=shade)
    np.testing.assert_allclose(z2[:, 0], np.linspace(0.99, 0.01, 6), atol=shade)
    title = found["latent_plane"].axes[0].texts[-1].get_text().replace("\n", " ")
    assert title == TITLE + "evenly from 1% to 99% of the codes of test images PaintedAE on Digits"


def test_thirty_images_of_28_pixels_touch_at_their_own_size():
    z = torch.linspace(-1, 1, 30)
    canvas = grids.plane(torch.rand(30, 30, 1, 28, 28), z, z, "title").axes[0].images[0].get_array()
    assert canvas.shape == (30 * 28, 30 * 28, 3)
    assert LatentPlane().num_images == 30


def test_codes_through_the_normal_cdf(make_model, data):
    found, _ = draw(make_model, data, Painted, 3)
    assert sorted(found) == ["latent_cdf", "latent_plane"]
    axes = found["latent_cdf"].axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), norm.cdf([[0.2, 0.7]] * 250), rtol=1e-5)
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("CDF of z1", "CDF of z2")


@pytest.mark.parametrize("name", ["VAE", "AE"])
def test_images_are_those_of_the_decoder(make_model, data, monkeypatch, name):
    drawn = []
    plane = grids.plane
    monkeypatch.setattr(grids, "plane", lambda *args: drawn.append(args) or plane(*args))
    model = make_model(name, z_dim=2).eval()
    LatentPlane(num_images=4).draw(model, data)
    images, z1, z2, _ = drawn[0]
    torch.testing.assert_close(images[3, 1], model.decode(torch.stack([z1[1], z2[3]])))


class WithMixture(VAE):
    """Its codes are samples of its prior, whose dimensions depend on each other and have other scales than 1."""

    def prior(self):
        means, scales = torch.tensor([[0.0, 10.0], [2.0, 30.0]]), torch.tensor([[0.1, 2.0], [0.5, 1.0]])
        return MixtureSameFamily(Categorical(probs=torch.tensor([0.25, 0.75])), Independent(Normal(means, scales), 1))

    def encode(self, x, y=None):
        return self.prior().sample((len(x),))


@pytest.fixture
def with_mixture(make_model, data, monkeypatch):
    """The figures of a model with another prior than N(0, I), and the arguments of the functions that draw them."""
    calls = {}
    for module, name in ((grids, "plane"), (charts, "scatter")):
        draw = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, name=name, draw=draw: calls.setdefault(name, []).append(args) or draw(*args)
        )
    model = make_model(kind=WithMixture, z_dim=2)
    with evaluating(model):
        return model, LatentPlane(num_images=10).draw(model, data), calls


def test_the_grid_divides_another_prior_into_equal_masses_along_each_axis(with_mixture):
    model, found, calls = with_mixture
    assert list(found) == ["latent_cdf", "latent_density", "latent_plane"]
    [(_, z1, z2, title)] = calls["plane"]
    expected = ((torch.arange(10) + 0.5) / 10)[:, None].expand(-1, 2)
    cdf = closed_form_marginals(model.prior()).cdf(torch.stack([z1, z2], -1))
    torch.testing.assert_close(cdf, expected, atol=0.02, rtol=0)
    assert title == TITLE + "quantiles of the prior, of each dimension\nWithMixture on Digits"


def test_codes_that_follow_another_prior_are_uniform_through_its_cdf(with_mixture):
    _, _, calls = with_mixture
    ([panel], *_), _ = calls["scatter"]
    assert panel.limits == (0, 1)
    assert "through the CDFs of the prior" in panel.title
    for points in panel.points.T:
        ordered, n = points.sort().values, len(points)
        assert (ordered - (torch.arange(n) + 0.5) / n).abs().max() < 1.63 / n**0.5  # Kolmogorov-Smirnov, 1%


def test_contours_contain_the_stated_masses_of_the_prior(with_mixture):
    model, found, calls = with_mixture
    _, ([panel], *_) = calls["scatter"]
    x, y, density, levels = panel.contours
    torch.testing.assert_close(density[3, 7], model.prior().log_prob(torch.stack([x[7], y[3]])))
    cell = (x[1] - x[0]) * (y[1] - y[0])
    masses = [(density.exp() * (density > level)).sum() * cell for level in levels]
    torch.testing.assert_close(torch.stack(masses), torch.tensor(MASSES), atol=0.03, rtol=0)
    assert panel.xlabel == "z1\ncontours contain 10, 30, 50, 70, 90, 99% of the prior"
    assert len(found["latent_density"].axes[0].collections) > 2  # contours and points


def test_cdf_of_samples():
    samples = torch.tensor([[3.0, 30.0], [1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    z = torch.tensor([[0.5, 25.0], [2.5, 50.0]])
    assert sample_cdf(samples, z).tolist() == [[0.0, 0.5], [0.5, 1.0]]
