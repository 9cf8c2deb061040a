"""Measures of content and pose: on models that know everything, or nothing, about how an image lies."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from datamodules import Digits
from datamodules.transforms import PoseLimits, draw_poses
from evaluation import disentanglement as measured
from models import AE, VAE, AffineVAE

LIMITS = PoseLimits(20, 2, 0.1)


class Told(nn.Module):
    """A model of images that say in their pixels what they are and how they lie: `told` of it ends up in the pose."""

    code_dim, is_conditional = 2, False

    def __init__(self, told=1.0, leak=0.0):
        super().__init__()
        self.told, self.leak = told, leak

    @classmethod
    def can(cls, capability):
        return callable(getattr(cls, capability, None))

    def encode(self, x):
        y, angle = x[:, 0, 0, 4:5], x[:, 0, 0, :1]
        return torch.cat([y, y.square() + self.leak * angle, angle], 1)

    def pose(self, x):
        angle, right, down, factor = (*(self.told * x[:, 0, 0, :3]).double().T, x[:, 0, 0, 3].double())
        angle = angle.deg2rad() + 0.3  # every image has a pose of its own before it is moved: here the same
        cos, sin = factor * angle.cos(), factor * angle.sin()
        side = 8
        return torch.stack([cos, -sin, right * 2 / side, sin, cos, down * 2 / side], 1).unflatten(1, (2, 3))

    def canonical(self, x):
        return 0.5 * x

    def reconstruct(self, x):
        return x


class Data:
    """Images of five pixels: angle, shift right, shift down, factor, label."""

    image_shape, limits, variant = (1, 1, 8), LIMITS, "moved"

    def __init__(self, n=400):
        self.test = SimpleNamespace(y=torch.arange(n) % 4)

    def transformed_test_images(self, limits, draw="test images"):
        generator = torch.Generator().manual_seed(len(draw))
        poses = draw_poses(len(self.test.y), limits, generator)
        x = torch.cat([poses, self.test.y[:, None], torch.zeros(len(poses), 3)], 1)
        return x[:, None, None].float(), poses


def test_a_model_that_knows_every_pose():
    result = measured.disentanglement(Told(), Data())
    for key in ("angle_correlation", "shift_correlation", "scale_correlation", "kmeans_accuracy"):
        assert result[key] == pytest.approx(1, abs=1e-4)
    assert result["change_correlation"] == pytest.approx(1, abs=1e-4)
    assert result["equivariance_error"] == pytest.approx(0, abs=1e-3)
    assert result["canonical_variance"] == pytest.approx(0.25)
    assert result["reconstruction_variance"] == pytest.approx(1)
    assert result["angle_r2"] < 0.05


def test_a_model_that_knows_no_pose():
    result = measured.disentanglement(Told(told=0.0), Data())
    assert result["angle_correlation"] == result["shift_correlation"] == result["change_correlation"] == 0
    # the mean of |a - b| for two angles that are uniform between -20 and 20
    assert result["equivariance_error"] == pytest.approx(40 / 3, rel=0.1)


def test_an_angle_in_the_content_is_found():
    assert measured.disentanglement(Told(leak=1.0), Data())["angle_r2"] > 0.9


def test_data_that_are_not_moved_are_moved_for_it():
    data = Data()
    data.limits = PoseLimits()
    assert measured.moves(data) == PoseLimits(20, 0.6, 0.1)  # a fourteenth of 8 pixels
    assert measured.disentanglement(Told(), data)["angle_correlation"] == pytest.approx(1, abs=1e-4)


def test_what_was_not_applied_is_not_measured():
    data = Data()
    data.limits = PoseLimits(shift=2)
    result = measured.disentanglement(Told(), data)
    assert {"angle_correlation", "scale_correlation", "angle_r2", "equivariance_error"}.isdisjoint(result)
    assert result["shift_correlation"] == pytest.approx(1, abs=1e-4)


def test_unknown_labels_have_no_clusters():
    data = Data()
    data.test.y[:] = -1
    assert "kmeans_accuracy" not in measured.disentanglement(Told(), data)


@pytest.mark.parametrize(("angle", "factor", "right", "down"), [(30, 1.2, 1, -2), (-170, 0.9, 0, 3), (0, 1, 0, 0)])
def test_poses_in_pixels(angle, factor, right, down):
    turn = math.radians(angle)
    rows = [[math.cos(turn), -math.sin(turn), right / 4], [math.sin(turn), math.cos(turn), down / 4]]
    M = torch.tensor(rows, dtype=torch.float64) * torch.tensor([factor, factor, 1])
    expected = torch.tensor([[angle, right, down, factor]], dtype=torch.float64)
    torch.testing.assert_close(measured.in_pixels(M[None], side=8), expected)


def test_circular_correlation():
    a = torch.linspace(-3, 3, 50, dtype=torch.float64)
    b = a + 0.3 * a.cos()
    means = [math.atan2(np.sin(v.numpy()).mean(), np.cos(v.numpy()).mean()) for v in (a, b)]
    sines = [np.sin(v.numpy() - mean) for v, mean in zip((a, b), means, strict=True)]
    expected = (sines[0] * sines[1]).sum() / math.sqrt((sines[0] ** 2).sum() * (sines[1] ** 2).sum())
    assert measured.circular_correlation(a, b) == pytest.approx(expected)
    assert measured.circular_correlation(a, b + 2 * math.pi) == pytest.approx(expected)
    assert measured.circular_correlation(a, a + 1) == pytest.approx(1)
    assert measured.circular_correlation(a, -a) == pytest.approx(-1)


def test_angles_wrap_around():
    assert measured.wrapped(torch.tensor([190.0, -350.0, 20.0])).tolist() == [-170, 10, 20]
    turned = measured.equivariance(torch.tensor([179.0, -170.0]), torch.tensor([-179.0, -170.0]))
    assert turned["equivariance_error"] == pytest.approx(1)


def test_kmeans_accuracy_does_not_care_for_the_names_of_clusters():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    content = np.array([[0, 0], [9, 0], [0, 9]])[(y + 1) % 3] + rng.normal(size=(300, 2))
    assert measured.kmeans_accuracy(content, y) == 1
    assert measured.kmeans_accuracy(content, np.where(y == 1, (y + 1) * (np.arange(300) % 2), y)) < 1
    known = np.where(np.arange(300) < 30, y, -1)
    assert measured.kmeans_accuracy(content, known) == 1


@pytest.mark.parametrize(("kind", "moved", "expected"), [
    (AffineVAE, False, True), (AffineVAE, True, True), (VAE, True, True), (VAE, False, False), (AE, True, True),
])  # fmt: skip
def test_who_is_measured(kind, moved, expected):
    data = Digits(max_rotation=10.0 * moved)
    data.setup()
    assert measured.is_measured(kind(image_shape=(1, 8, 8)), data) is expected


def test_a_real_model_on_real_data():
    data = Digits(max_shift=1, max_rotation=10)
    data.setup()
    model = AffineVAE((1, 8, 8), num_classes=10, decoder_hidden=[8], hidden=[8])
    state = torch.random.get_rng_state()
    result = measured.disentanglement(model, data)
    assert result == measured.disentanglement(model, data)
    assert (torch.random.get_rng_state() == state).all()
    assert 0 < result["kmeans_accuracy"] <= 1
    assert "scale_correlation" not in result
    assert model.training


def test_what_has_no_meaning_is_left_out():
    few = Data(n=40)
    few.limits = LIMITS
    assert not measured.is_measured(AffineVAE((1, 8, 8)), few)
    assert measured.disentanglement(Told(leak=math.nan), Data()) == {}
    alike = Data()
    alike.transformed_test_images = lambda limits, draw="": (torch.zeros(400, 1, 1, 8), torch.zeros(400, 4))
    assert measured.disentanglement(Told(), alike) == {}


def test_labels_need_not_be_neighbours():
    content = np.array([[0.0], [9.0]])[np.arange(100) % 2]
    assert measured.kmeans_accuracy(content, np.array([3, 5000])[np.arange(100) % 2]) == 1
