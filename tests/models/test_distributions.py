import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from models.distributions import (
    LATENT_LIMIT,
    SCALE_LIMIT,
    bernoulli_image,
    cache_sized_chunks,
    diagonal_normal,
    normal_image,
    soft_clip,
    standard_normal,
)


def log_normal(x, mu, sigma):
    return -0.5 * ((x - mu) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)


def test_soft_clip_is_the_identity_near_zero_and_within_its_limit():
    near = torch.linspace(-0.1, 0.1, 11)
    torch.testing.assert_close(soft_clip(near, 7.0), near, rtol=1e-3, atol=1e-6)
    far = torch.tensor([-math.inf, -1e30, -100.0, 100.0, 1e30, math.inf])
    torch.testing.assert_close(soft_clip(far, 7.0), 7.0 * far.sign())
    grid = soft_clip(torch.linspace(-20, 20, 101), 7.0)
    assert (grid.diff() > 0).all()


def test_diagonal_normal_reads_mu_then_log_sigma():
    parameters, z = torch.randn(5, 6), torch.randn(4, 5, 3)
    q = diagonal_normal(parameters)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    mu, raw = parameters[:, :3], parameters[:, 3:]
    sigma = (LATENT_LIMIT * (raw / LATENT_LIMIT).tanh()).exp()
    torch.testing.assert_close(q.log_prob(z), log_normal(z, mu, sigma).sum(-1))
    assert diagonal_normal(torch.zeros(1, 2)).stddev.item() == 1  # a network that outputs 0 means N(0, 1)


def test_standard_normal():
    z = torch.randn(4, 5, 3)
    p = standard_normal(3, like=z)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    torch.testing.assert_close(p.log_prob(z), (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1))


def test_bernoulli_image_sums_over_channels_rows_and_columns():
    logits, x = torch.randn(4, 5, 2, 3, 3), torch.rand(5, 2, 3, 3).round()
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((-1, -2, -3))  # (4, 5)
    torch.testing.assert_close(bernoulli_image(logits).log_prob(x), expected)


def test_bernoulli_image_is_finite_where_probabilities_round_to_0_or_1():
    logits = torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1)
    wrong = bernoulli_image(logits).log_prob(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(wrong, torch.tensor([-1e4, -1e4]))


@pytest.mark.parametrize("raw", [-0.5, 0.0, 0.3])
def test_normal_image(raw):
    logits, x = torch.randn(4, 5, 2, 3, 3), torch.rand(5, 2, 3, 3)
    p = normal_image(logits, torch.tensor(raw))
    assert (p.batch_shape, p.event_shape) == ((4, 5), (2, 3, 3))
    expected = log_normal(x, logits.sigmoid(), p.base_dist.scale).sum((-1, -2, -3))
    torch.testing.assert_close(p.log_prob(x), expected)
    assert p.base_dist.scale.unique().item() == pytest.approx(math.exp(raw), rel=0.01)


def test_a_learned_scale_cannot_collapse_or_explode():
    logits, x = torch.randn(1, 1, 2, 2), torch.rand(1, 1, 2, 2)
    for raw, scale in ((-1e9, 1 / 256), (1e9, 256)):
        log_scale = torch.tensor(raw, requires_grad=True)
        p = normal_image(logits, log_scale)
        torch.testing.assert_close(p.base_dist.scale.unique(), torch.tensor([float(scale)]))
        p.log_prob(x).sum().backward()
        assert log_scale.grad.isfinite()
    assert math.exp(SCALE_LIMIT) == pytest.approx(256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_become_single_precision_densities(dtype):
    half = torch.randn(2, 4).to(dtype)
    assert diagonal_normal(half).rsample().dtype == torch.float32
    assert bernoulli_image(half.view(2, 1, 2, 2)).log_prob(torch.ones(2, 1, 2, 2)).dtype == torch.float32
    assert normal_image(half.view(2, 1, 2, 2), torch.tensor(0.0)).mean.dtype == torch.float32


def test_closed_form_kl_against_monte_carlo():
    q, p = diagonal_normal(torch.randn(3, 8)), standard_normal(4, torch.zeros(1))
    z = q.sample((100_000,))
    draws = q.log_prob(z) - p.log_prob(z)  # (100000, 3)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((kl_divergence(q, p) - draws.mean(0)).abs() < 4.5 * error).all()
    assert (error < 0.05).all()


def test_argument_validation_is_disabled():
    Normal(torch.tensor(0.0), torch.tensor(-1.0))  # raises if validation is enabled


# The chunked Bernoulli likelihood for large inputs on a CPU


@pytest.mark.parametrize(
    ("shape", "x_shape"),
    [
        ((7, 5, 1, 28, 28), (5, 1, 28, 28)),
        ((3, 1, 31, 31), (3, 1, 31, 31)),  # a prime number of pixels in each row
        ((2, 1, 5, 3), (4, 1, 1, 5, 3)),  # x is broadcast, too
        ((1, 8, 8), (1, 8, 8)),  # no batch dimension
        ((1, 8, 8), (6, 1, 8, 8)),
        ((1, 9, 1, 8, 8), (9, 1, 8, 8)),
    ],
)
@pytest.mark.parametrize("piece", [1, 200, 10**9])
def test_large_inputs_have_the_same_log_prob_and_gradient(monkeypatch, shape, x_shape, piece):
    logits = (30 * torch.randn(shape)).requires_grad_()
    x = torch.rand(x_shape).round()
    exact = logits.detach().double().requires_grad_()
    expected = Independent(Bernoulli(logits=exact), 3).log_prob(x.double())
    weights = torch.randn(expected.shape, dtype=torch.float64)
    (weights * expected).sum().backward()
    monkeypatch.setattr("models.distributions.CHUNK_SIZE", piece)
    monkeypatch.setattr("models.distributions.LARGE_SIZE", 0)
    value = bernoulli_image(logits).log_prob(x)
    assert value.shape == expected.shape
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-3)
    (weights * value).sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 5, 784), (1, 35, 784), (1, 1, 35, 784), (35, 784)])
def test_chunks_are_no_larger_than_the_chunk_size(monkeypatch, shape):
    monkeypatch.setattr("models.distributions.CHUNK_SIZE", 5 * 784)
    values = torch.randn(shape)
    parts = [part for part, _ in cache_sized_chunks(values, torch.zeros(*shape[:-1], 1))]
    assert [part.numel() for part in parts] == 7 * [5 * 784]
    assert torch.equal(torch.cat([part.flatten() for part in parts]), values.flatten())


def test_the_gradient_with_respect_to_the_pixels_is_kept(monkeypatch):
    monkeypatch.setattr("models.distributions.LARGE_SIZE", 0)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    logits = torch.randn(2, 1, 8, 8)
    bernoulli_image(logits).log_prob(x).sum().backward()
    torch.testing.assert_close(x.grad, logits)


def test_bernoulli_image_can_be_expanded():
    assert bernoulli_image(torch.zeros(2, 1, 8, 8)).expand((3, 2)).batch_shape == (3, 2)


def test_a_product_of_factors_never_overflows(monkeypatch):
    monkeypatch.setattr("models.distributions.LARGE_SIZE", 0)
    logits, x = torch.zeros(2, 1, 28, 28), torch.ones(2, 1, 28, 28)  # each factor has its maximum, 2
    torch.testing.assert_close(bernoulli_image(logits).log_prob(x), torch.full((2,), -784 * math.log(2)))
    far = torch.full((2, 1, 28, 28), 1e30)
    torch.testing.assert_close(bernoulli_image(far).log_prob(x), torch.zeros(2))


def test_kl_to_the_standard_normal_is_that_of_torch():
    q, p = diagonal_normal(3 * torch.randn(2, 5, 8)), standard_normal(4, torch.zeros(1))
    expected = kl_divergence(q.base_dist, p.base_dist).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), expected)
    assert kl_divergence(q, p).shape == (2, 5)


@pytest.mark.parametrize("shape", [(3, 5, 1, 4, 6), (2, 3, 8, 8), (1, 2, 2)])
def test_small_bernoulli_images_have_the_bits_of_torchs_distribution(shape):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) * 10).requires_grad_()
    x = (torch.rand(shape[-4:], generator=generator) < 0.5).float()
    log_p, expected = bernoulli_image(logits).log_prob(x), Independent(Bernoulli(logits=logits), 3).log_prob(x)
    assert torch.equal(log_p, expected)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (log_p, expected)]
    assert torch.equal(*gradients)
