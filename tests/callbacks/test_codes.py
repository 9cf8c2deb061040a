import numpy as np
import pytest
import torch

from callbacks import LatentCodes, LatentCodesTSNE, codes, latent_codes_tsne
from callbacks.codes import codes_of_test_images, in_plane
from models import VAE, evaluating


def points_of(figure):
    return np.asarray(figure.axes[0].collections[0].get_offsets())


def test_two_dimensions_stay_as_they_are():
    z = torch.randn(20, 2)
    points, axes = in_plane(z)
    assert torch.equal(points, z)
    assert axes == ["z1", "z2"]


def test_one_dimension_lies_on_a_line():
    points, axes = in_plane(torch.tensor([[3.0], [5.0]]))
    assert points.tolist() == [[3, 0], [5, 0]]
    assert axes == ["z1", ""]


def test_pca_against_the_eigenvectors_of_the_covariance():
    z = torch.randn(200, 5) * torch.tensor([0.5, 3.0, 1.0, 2.0, 0.1]) + 7
    points, axes = in_plane(z)
    values, vectors = torch.linalg.eigh(z.double().T.cov())
    expected = (z.double() - z.double().mean(0)) @ vectors[:, [4, 3]]
    torch.testing.assert_close(points.abs(), expected.abs())  # a component has no sign
    share = values / values.sum()
    assert axes == [f"principal component {i}: {share[-i]:.0%} of variance" for i in (1, 2)]


@pytest.mark.parametrize(
    ("name", "size", "prior"),
    [("AE", 4, False), ("VAE", 4, True), ("AffineVAE", 9, True), ("HierarchicalVAE", 4, False)],
)
def test_size_and_prior_of_codes(make_model, name, size, prior):
    model = make_model(name).eval()
    assert model.latent_dim == model.encode(torch.zeros(1, 1, 8, 8)).shape[1] == size
    assert model.has_standard_normal_prior() == prior


@pytest.mark.parametrize("name", ["VAE", "CVAE"])
def test_codes_of_spread_images_with_their_labels(make_model, data, monkeypatch, name):
    monkeypatch.setattr(codes, "MAX_POINTS", 50)
    monkeypatch.setattr(codes, "CHUNK", 20)
    model = make_model(name).eval()
    z, y = codes_of_test_images(model, data)
    x, labels = data.images("test")
    torch.testing.assert_close(z, model.encode(x[::5], *model.condition_args(labels[::5])))
    assert torch.equal(y, labels[::5])


class Broken(VAE):
    """A model that has no finite code for some images."""

    def encode(self, x, y=None):
        return super().encode(x).where(torch.arange(len(x))[:, None] >= 247, torch.nan)


def test_codes_that_are_not_finite_are_left_out(make_model, data):
    model = make_model(kind=Broken)
    with evaluating(model):
        z, y = codes_of_test_images(model, data)
        assert torch.equal(y, data.test.y[247:])
        assert z.isfinite().all()
        [figure] = LatentCodes().draw(model, data).values()
    assert len(points_of(figure)) == 3


def test_latent_codes_are_those_of_all_test_images(make_model, data):
    model = make_model(z_dim=2).eval()
    [(name, figure)] = LatentCodes().draw(model, data).items()
    assert name == "latent_codes"
    np.testing.assert_allclose(points_of(figure), model.encode(data.images("test")[0]), rtol=1e-5)
    assert [text.get_text() for text in figure.legends[0].texts] == list("0123456789")
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("z1", "z2")
    assert figure.axes[0].get_title("left") == "Codes of 250 test images\nVAE on Digits"


def test_tsne_is_the_same_again_and_keeps_neighbours(make_model, data, monkeypatch):
    groups = torch.arange(30) % 3
    z = torch.eye(3)[groups] * 50 + torch.randn(30, 3)
    monkeypatch.setattr(latent_codes_tsne, "codes_of_test_images", lambda *_: (z, groups))
    first, second = (points_of(LatentCodesTSNE().draw(make_model(), data)["latent_codes_tsne"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1) + np.diag([np.inf] * 30)
    assert (groups.numpy()[distances.argmin(1)] == groups.numpy()).all()
