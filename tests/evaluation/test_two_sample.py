"""evaluation/two_sample.py and digit_features.py: samples against test images."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from datamodules import DATAMODULES
from evaluation import digit_features, two_sample
from evaluation.digit_features import DigitClassifier, Features, from_arrays, to_arrays, train_classifier
from evaluation.two_sample import (
    MEASURES,
    Comparison,
    draw,
    feature_distances,
    nearest_neighbour_errors,
    unbiased_mmd2,
)
from models.mmd import mmd2


@pytest.fixture(scope="module")
def grey():
    digits = DATAMODULES["Digits"](batch_size=50, binarization="grey")
    digits.setup()
    return digits


@pytest.fixture(scope="module")
def classifier(grey):
    return train_classifier(*grey.images("train"), num_classes=10)


def naive_errors(real, samples):
    """Loop over all images; each is classified by its nearest other image."""
    points = [(image.flatten(), kind) for kind, images in enumerate((real, samples)) for image in images]
    wrong = {0: [], 1: []}
    for index, (point, kind) in enumerate(points):
        others = [(float((point - other).square().sum()), k) for i, (other, k) in enumerate(points) if i != index]
        wrong[kind].append(min(others)[1] != kind)
    return [sum(wrong[kind]) / len(wrong[kind]) for kind in (0, 1)]


def test_nearest_neighbour_errors_are_those_of_a_naive_loop(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(two_sample, "ROWS_PER_PASS", 7)
    real, samples = torch.randn(30, 1, 2, 2), torch.randn(30, 1, 2, 2) + 0.5
    found = nearest_neighbour_errors(real, samples)
    assert [found["nn_error_real"], found["nn_error_samples"]] == naive_errors(real, samples)
    assert found["nn_error"] == sum(naive_errors(real, samples)) / 2


def test_nearest_neighbour_errors_of_known_cases():
    torch.manual_seed(0)
    real, alike = torch.randn(1000, 1, 2, 2), torch.randn(1000, 1, 2, 2)
    assert nearest_neighbour_errors(real, alike)["nn_error"] == pytest.approx(0.5, abs=0.05)
    assert nearest_neighbour_errors(real, alike + 20)["nn_error"] == 0
    # A model that copies: the nearest image of each is its copy in the other set.
    assert nearest_neighbour_errors(real, real)["nn_error"] == 1
    # Samples that are collapsed near the middle: every real image is nearest to one of them, in many dimensions.
    wide = torch.randn(200, 1, 20, 20)
    collapsed = nearest_neighbour_errors(wide, 0.01 * torch.randn(200, 1, 20, 20))
    assert (collapsed["nn_error_real"], collapsed["nn_error_samples"]) == (1, 0)
    # Ties count half.
    zeros = torch.zeros(5, 1, 2, 2)
    assert nearest_neighbour_errors(zeros, zeros)["nn_error"] == 0.5


def test_ties_of_binary_images_count_half():
    torch.manual_seed(0)
    real, samples = (torch.rand(300, 1, 4, 4) < 0.2).float(), (torch.rand(300, 1, 4, 4) < 0.2).float()
    own, other = ((real[:, None] - images[None]).flatten(2).square().sum(2) for images in (real, samples))
    own.fill_diagonal_(torch.inf)
    own, other = own.min(1).values, other.min(1).values
    expected = (other < own).double() + (other == own).double() / 2
    assert (other == own).double().mean() > 0.3
    assert nearest_neighbour_errors(real, samples)["nn_error_real"] == expected.mean().item()


def test_mmd_in_parts_is_that_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(two_sample, "ROWS_PER_PASS", 7)
    x, y, widths = torch.rand(30, 1, 3, 3), torch.rand(25, 1, 3, 3) + 0.1, [0.2, 1.0]
    assert unbiased_mmd2(x, y, widths) == pytest.approx(mmd2(x, y, widths, unbiased=True).item(), abs=1e-5)


class Pixels(torch.nn.Module):
    """Features that are the pixels themselves."""

    num_features = 3

    def forward(self, x):
        return x.flatten(1).double()


def frechet(x, y):
    """Fréchet distance by an eigendecomposition of symmetric matrices."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    a, b = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross


def test_distances_in_features_against_their_definitions():
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 1, 3), torch.rand(60, 1, 1, 3) * 0.5 + 0.2
    found = feature_distances(Pixels(), x, y)
    assert found["frechet"] == pytest.approx(frechet(x, y).item(), abs=1e-9)
    kernels = [((a.flatten(1) @ b.flatten(1).T).double() / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = [(k.sum() - k.trace()) / (60 * 59) for k in kernels[:2]]
    assert found["kernel"] == pytest.approx((sum(within) - 2 * kernels[2].mean()).item(), abs=1e-6)
    assert math.isnan(found["kernel_sd"])  # one subset of all images


def test_distances_between_gaussians_are_known():
    torch.manual_seed(0)
    x = MultivariateNormal(torch.zeros(3), torch.eye(3)).sample((20_000,)).view(-1, 1, 1, 3)
    y = (2 * x.flip(0) + 1).clone()
    # |mean|^2 + tr(I + 4 I - 2 * 2 I) = 3 + 3
    assert feature_distances(Pixels(), x, y)["frechet"] == pytest.approx(6, abs=0.2)


def test_the_classifier_has_the_same_bits_twice_and_leaves_the_noise_as_it_was(grey, classifier):
    state = torch.get_rng_state()
    again = train_classifier(*grey.images("train"), num_classes=10)
    assert torch.equal(torch.get_rng_state(), state)
    for name, values in classifier.state_dict().items():
        assert torch.equal(values, again.state_dict()[name])
    x, y = grey.images("test")
    assert (digit_features.predicted_classes(classifier, x) != y).double().mean() < 0.1
    stored = from_arrays(to_arrays(classifier), (1, 8, 8), 10)
    assert torch.equal(stored(x), classifier(x))


def test_features_are_standardised_on_training_images(grey, classifier):
    features = Features(classifier)(grey.images("train")[0])
    assert features.shape == (len(grey.train.y), Features.num_features)
    assert features.dtype == torch.float64
    assert features.mean(0).abs().max() < 0.3
    assert (features.std(0) - 1).abs().max() < 0.3


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 20), (3, 5, 7)])
def test_the_classifier_takes_any_shape(shape):
    assert DigitClassifier(shape, 4).eval()(torch.rand(2, *shape)).shape == (2, 4)


def test_samples_of_a_binary_protocol_are_binary_and_those_of_grey_images_are_means(make_model):
    labels = torch.zeros(1, dtype=torch.int64)
    binary = make_model("VAE")
    assert set(draw(binary, 20, labels, with_noise=True).unique().tolist()) == {0.0, 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.randint(1, (20,))
        means = binary.eval().sample(20)
    assert torch.equal(draw(binary, 20, labels, with_noise=False), means)
    gaussian = make_model("VAE", likelihood="gaussian", scale=0.3)
    without, noisy = (draw(gaussian, 200, labels, with_noise=noise) for noise in (False, True))
    assert noisy.var() - without.var() == pytest.approx(0.09, rel=0.1)
    assert torch.equal(noisy, draw(gaussian, 200, labels, with_noise=True))


SAMPLED = ["CVAE", "M2", "M1M2", "ADGM", "SDGM", "HierarchicalVAE", "LadderVAE", "AffineVAE", "IWAE"]


@pytest.mark.parametrize("name", SAMPLED)
def test_all_models_that_sample_can_be_measured(make_model, name):
    labels = torch.tensor([0, 3, 3])
    samples = draw(make_model(name), 10, labels, with_noise=True)
    assert samples.shape == (10, 1, 8, 8)
    assert set(samples.unique().tolist()) <= {0.0, 1.0}


def test_a_conditional_model_gets_labels_as_frequent_as_in_training(make_model, monkeypatch):
    model, seen = make_model("CVAE"), []
    simulate = type(model).ais_simulate
    monkeypatch.setattr(type(model), "ais_simulate", lambda self, z, y: seen.append(y) or simulate(self, z, y))
    draw(model, 2000, torch.tensor([0, 0, 0, 5]), with_noise=True)
    shares = torch.cat(seen).bincount(minlength=10) / 2000
    assert shares[0] == pytest.approx(0.75, abs=0.05)
    assert shares[5] == pytest.approx(0.25, abs=0.05)


def test_images_are_drawn_from_the_whole_split(grey):
    x, chosen = grey.images("test")[0].flatten(1), two_sample.random_images(grey, "test", 100).flatten(1)
    assert torch.equal(chosen, two_sample.random_images(grey, "test", 100).flatten(1))
    places = [int((x == image).all(1).nonzero()[0]) for image in chosen]
    assert len(set(places)) > 95  # a few images of the digits are equal
    assert max(places) > 200


def test_real_images_are_a_perfect_model(grey, classifier):
    test, val, train = (grey.images(split, 250)[0] for split in ("test", "val", "train"))
    comparison = Comparison(test, [10.0], classifier)
    perfect, noise = comparison.measure(val), comparison.measure(torch.rand_like(test))
    assert tuple(perfect) == MEASURES
    assert perfect["nn_error"] == pytest.approx(0.5, abs=0.1)
    assert abs(perfect["mmd2"]) < 0.01
    assert perfect["frechet"] < noise["frechet"] / 10
    assert perfect["kernel"] < noise["kernel"] / 10
    assert noise["nn_error"] < 0.01
    assert perfect == comparison.measure(val)
    without = Comparison(test, [10.0], None).measure(train)
    assert "frechet" not in without
