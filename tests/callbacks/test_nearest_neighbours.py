"""Nearest training images of samples."""

import pytest
import torch

from callbacks import NearestNeighbours, for_model, nearest_neighbours
from callbacks.nearest_neighbours import nearest
from datamodules import DATAMODULES
from models import evaluating


@pytest.fixture
def data(grey_data):
    return grey_data


@pytest.mark.parametrize("chunk", [1, 7, 100, 5000])
def test_neighbours_are_those_of_a_full_search(data, monkeypatch, chunk):
    monkeypatch.setattr(nearest_neighbours, "CHUNK", chunk)
    x, train = torch.rand(4, 1, 8, 8), data.train.x / 255
    distances = (x[:, None] - train).square().flatten(2).sum(2)
    expected = train[distances.argsort(dim=1)[:, :3]]
    assert torch.equal(nearest(x, data, 3), expected)


def test_a_memorised_image_is_its_own_neighbour(data):
    x = data.train.x[[3, 500, 1200]] / 255
    assert torch.equal(nearest(x, data, 1)[:, 0], x)


def test_there_are_at_most_as_many_neighbours_as_images(data):
    class Two:
        def stored_images(self, split, chunk):
            return data.images(split, 2)[0].split(chunk)

    assert nearest(torch.rand(3, 1, 8, 8), Two(), 5).shape == (3, 2, 1, 8, 8)


def test_sampled_pixels_are_compared_by_their_grey_values():
    dynamic = DATAMODULES["Digits"](binarization="dynamic")
    dynamic.setup()
    stored = torch.cat(list(dynamic.stored_images("train", 400)))
    assert torch.equal(stored, dynamic.train.x / 255)
    assert ((stored > 0) & (stored < 1)).any()


def test_the_figure_shows_samples_above_their_neighbours(make_model, data, monkeypatch):
    drawn = []
    draw = nearest_neighbours.grids.nearest_neighbours
    monkeypatch.setattr(nearest_neighbours.grids, "nearest_neighbours", lambda *args: drawn.append(args) or draw(*args))
    with evaluating(model := make_model("GAN")):
        assert list(NearestNeighbours().draw(model, data)) == ["nearest_neighbours"]
    x, neighbours, _ = drawn[0]
    assert (x.shape, neighbours.shape) == ((10, 1, 8, 8), (10, 3, 1, 8, 8))
    assert torch.equal(neighbours, nearest(x, data, 3))


def test_it_is_a_default_of_models_without_a_likelihood_only(make_model):
    for name, expected in (("GAN", True), ("VAE", False)):
        kinds = [type(callback) for callback in for_model(make_model(name))]
        assert (NearestNeighbours in kinds) is expected
        assert NearestNeighbours.unsupported_reason(make_model(name)) is None
