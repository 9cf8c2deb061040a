"""Rate of each layer of latents, and calibration of the class probabilities of a model."""

import numpy as np
import pytest
import torch

from evaluation.metrics import calibration_error, classification, likelihood_summary, likelihoods
from models import M2, MODELS


@pytest.mark.parametrize(("name", "options"), [
    ("HierarchicalVAE", {"z_dim": [4, 3], "hidden": [8], "inner_hidden": [8]}),
    ("LadderVAE", {"z_dim": [4, 3, 2], "hidden": [8]}),
    ("DRAW", {"z_dim": 2, "steps": 3, "rnn_size": 8}),
])  # fmt: skip
def test_rates_of_several_layers_are_per_image_and_sum_to_the_rate(data, name, options):
    model, (x, y) = MODELS[name](image_shape=(1, 8, 8), **options), data.images("test", 70)  # 50 images and 20
    values = likelihoods(model, x, y, 20)
    assert values["rate_of_layers"].shape == (70, len(model.latent_sizes))
    np.testing.assert_allclose(values["rate_of_layers"].sum(1), values["rate"], rtol=1e-4, atol=1e-4)
    summary = likelihood_summary(values)
    np.testing.assert_allclose(summary["kl_per_layer"], values["rate_of_layers"].mean(0))
    assert sum(summary["kl_per_layer"]) == pytest.approx(summary["rate"], rel=1e-5)


@pytest.mark.parametrize("name", ["VAE", "CVAE", "M2"])
def test_a_single_layer_has_no_rate_of_its_own(make_model, data, name):
    values = likelihoods(make_model(name).eval(), *data.images("test", 5), 5)
    assert "rate_of_layers" not in values
    assert "kl_per_layer" not in likelihood_summary(values)


def naive(qy, y, bins=15):
    """Expected calibration error, image by image, with the last bin closed."""
    confidence, right = qy.max(1), qy.argmax(1) == y
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for number in range(bins):
        inside = place == number
        if inside.any():
            error += inside.sum() * abs(confidence[inside].mean() - right[inside].mean())
    return error / len(y)


@pytest.mark.parametrize(("classes", "scale"), [(10, 1.0), (10, 4.0), (2, 1.0)])
def test_the_calibration_error_is_that_of_its_definition(classes, scale):
    generator = torch.Generator().manual_seed(0)
    qy = (scale * torch.randn(3000, classes, generator=generator)).softmax(1)
    y = torch.randint(classes, (3000,), generator=generator)
    expected = naive(qy.double().numpy(), y.numpy())
    assert expected > 0.1
    assert calibration_error(qy, y) == pytest.approx(expected, abs=1e-5)


def test_calibrated_probabilities_have_nearly_no_error():
    """The labels are drawn from the probabilities themselves."""
    generator = torch.Generator().manual_seed(0)
    qy = (2 * torch.randn(100_000, 10, generator=generator)).softmax(1)
    y = torch.multinomial(qy, 1, generator=generator)[:, 0]
    assert calibration_error(qy, y) < 0.005
    assert calibration_error((3 * qy.log()).softmax(1), y) > 0.1, "the same classes with too much confidence"


@pytest.mark.parametrize("certain", [1.0, 1 + 2**-23])
def test_certainty_is_in_the_last_bin(certain):
    """In a bin of their own, half of these images would have an error of 2 percent and the others of 1 percent."""
    qy = torch.tensor([[certain, 0.0], [0.97, 0.03]]).repeat_interleave(50, 0)
    y = torch.zeros(100, dtype=torch.long)
    y[0] = 1
    y[50:51] = 1
    assert calibration_error(qy, y) == pytest.approx(abs((1 + 0.97) / 2 - 0.98), abs=1e-6)


def test_unlabelled_images_do_not_count():
    qy = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    y = torch.tensor([0, 1, -1])
    assert calibration_error(qy, y) == pytest.approx(0.15)


def test_a_diverged_model_has_no_finite_calibration_error():
    assert np.isnan(calibration_error(torch.full((5, 2), torch.nan), torch.zeros(5, dtype=torch.long)))


def test_classification_has_error_and_calibration():
    class Known(M2):
        def classify(self, x):
            return torch.tensor([[0.9, 0.1], [0.2, 0.8]]).repeat(len(x) // 2, 1)

    model = Known(image_shape=(1, 2, 2), num_classes=2, labelled_fraction=1.0, z_dim=2, hidden=[4])
    found = classification(model, torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 0]))
    assert found["test_error"] == 0.25
    assert found["calibration_error"] == pytest.approx((0.1 * 2 + (0.8 - 0.5) * 2) / 4)
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert classification(model, torch.zeros(2, 1, 2, 2), torch.tensor([-1, -1])) == {}
