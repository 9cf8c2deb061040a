"""What simple classifiers read from codes."""

import pytest
import torch

from evaluation.probes import can_be_probed, probes
from models import AE, CVAE, M2, VAE
from models.base import Model


class Pixels(VAE):
    """A model whose codes are the four pixels of an image."""

    def encode(self, x, y=None):
        return x.flatten(1)


class Labels(CVAE):
    """A conditional model whose codes are the labels it is given."""

    def encode(self, x, y):
        return y[:, None].expand(-1, 2).float()


@pytest.fixture
def model():
    return Pixels(image_shape=(1, 2, 2), z_dim=4, hidden=[4])


def clusters(n, seed, scale=0.1):
    """Three classes in three corners."""
    y = torch.arange(n) % 3
    noise = scale * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.eye(4)[y].view(n, 1, 2, 2) + noise, y


def test_separable_codes_have_no_error(model):
    assert probes(model, clusters(90, 0), clusters(60, 1)) == {"knn_error": 0.0, "probe_error": 0.0}


def test_labels_that_mean_nothing_are_read_by_chance(model):
    x, y = clusters(900, 0, scale=1.0)
    shuffled = y[torch.randperm(900, generator=torch.Generator().manual_seed(0))]
    found = probes(model, (x, shuffled), clusters(600, 1, scale=1.0))
    for error in found.values():
        assert error == pytest.approx(2 / 3, abs=0.08)  # four standard errors of 600 draws


def test_errors_are_shares_of_the_test_images_alone(model):
    x, y = clusters(60, 1)
    wrong = torch.where(torch.arange(60) < 15, (y + 1) % 3, y)
    assert probes(model, clusters(90, 0), (x, wrong)) == {"knn_error": 0.25, "probe_error": 0.25}


def test_neighbours_see_scales_and_the_regression_does_not(model):
    """The class is in a dimension that hardly varies, as a dimension that is not in use would."""

    def faint(n, seed):
        x, y = torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 2
        x[:, 0, 0, 0] = (y - 0.5) * 1e-3
        return x, y

    found = probes(model, faint(400, 0), faint(400, 1))
    assert found["probe_error"] < 0.02
    assert found["knn_error"] > 0.3


def test_unknown_test_labels_do_not_count(model):
    x, y = clusters(60, 1, scale=1.0)
    known = y != 0
    found = probes(model, clusters(90, 0), (x, y.where(known, -1)))
    assert found == probes(model, clusters(90, 0), (x[known], y[known]))
    assert found["knn_error"] > 0


def test_images_of_classes_that_never_occur_in_training_do_not_count(model):
    x, y = clusters(60, 1, scale=1.0)
    in_training = y != 0
    renamed = torch.where(in_training, y, 7)  # class 0 becomes a class without training images
    found = probes(model, clusters(90, 0), (x, renamed))
    assert found == probes(model, clusters(90, 0), (x[in_training], y[in_training]))
    assert found["knn_error"] > 0
    assert probes(model, clusters(90, 0), (x, torch.full_like(y, 7))) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_that_are_no_numbers_are_not_probed(model, value):
    train, test = clusters(30, 0), clusters(30, 1)
    broken = test[0].clone()
    broken[7] = value
    assert probes(model, train, (broken, test[1])) == {}
    assert probes(model, (broken, test[1]), train) == {}
    unknown = torch.where(torch.arange(30) == 7, -1, test[1])
    assert probes(model, train, (broken, unknown))  # an image without a label is not looked at


def test_without_known_test_labels_there_is_nothing_to_say(model):
    x, y = clusters(30, 0)
    assert probes(model, (x, y), (x, torch.full_like(y, -1))) == {}


def test_fewer_images_than_neighbours(model):
    x, y = clusters(3, 0)
    assert set(probes(model, (x, y), clusters(30, 1))) == {"knn_error", "probe_error"}


def test_conditional_models_get_the_labels_of_each_image():
    model = Labels(image_shape=(1, 2, 2), num_classes=3, z_dim=2, hidden=[4])
    assert probes(model, clusters(2100, 0), clusters(60, 1)) == {"knn_error": 0.0, "probe_error": 0.0}


def test_the_model_stays_as_it_was(model):
    model.train()
    torch.manual_seed(3)
    probes(model, clusters(90, 0), clusters(60, 1))
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))
    assert model.training


def test_who_can_be_probed(make_model, model):
    y = torch.tensor([0, 1, 2, 1])
    assert can_be_probed(model, y)
    assert all(can_be_probed(make_model(kind.__name__), y) for kind in (AE, M2))
    assert not can_be_probed(make_model("CVAE"), y)  # which is given the label
    assert not can_be_probed(model, torch.tensor([0, 1, -1]))
    assert not can_be_probed(model, torch.full((3,), -1))
    assert not can_be_probed(model, torch.ones(3))
    assert not Model.can("encode")
