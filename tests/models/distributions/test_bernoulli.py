import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from models.distributions import bernoulli_image
from models.distributions.bernoulli import cache_sized_chunks


def test_bernoulli_image_sums_over_channels_rows_and_columns():
    logits, x = torch.randn(4, 5, 2, 3, 3), torch.rand(5, 2, 3, 3).round()
    p = logits.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((-1, -2, -3))  # (4, 5)
    torch.testing.assert_close(bernoulli_image(logits).log_prob(x), expected)


def test_bernoulli_image_is_finite_where_probabilities_round_to_0_or_1():
    logits = torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1)
    wrong = bernoulli_image(logits).log_prob(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(wrong, torch.tensor([-1e4, -1e4]))


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
    monkeypatch.setattr("models.distributions.bernoulli.CHUNK_SIZE", piece)
    monkeypatch.setattr("models.distributions.bernoulli.LARGE_SIZE", 0)
    value = bernoulli_image(logits).log_prob(x)
    assert value.shape == expected.shape
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-3)
    (weights * value).sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 5, 784), (1, 35, 784), (1, 1, 35, 784), (35, 784)])
def test_chunks_are_no_larger_than_the_chunk_size(monkeypatch, shape):
    monkeypatch.setattr("models.distributions.bernoulli.CHUNK_SIZE", 5 * 784)
    values = torch.randn(shape)
    parts = [part for part, _ in cache_sized_chunks(values, torch.zeros(*shape[:-1], 1))]
    assert [part.numel() for part in parts] == 7 * [5 * 784]
    assert torch.equal(torch.cat([part.flatten() for part in parts]), values.flatten())


def test_the_gradient_with_respect_to_the_pixels_is_kept(monkeypatch):
    monkeypatch.setattr("models.distributions.bernoulli.LARGE_SIZE", 0)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    logits = torch.randn(2, 1, 8, 8)
    bernoulli_image(logits).log_prob(x).sum().backward()
    torch.testing.assert_close(x.grad, logits)


def test_bernoulli_image_can_be_expanded():
    assert bernoulli_image(torch.zeros(2, 1, 8, 8)).expand((3, 2)).batch_shape == (3, 2)


def test_a_product_of_factors_never_overflows(monkeypatch):
    monkeypatch.setattr("models.distributions.bernoulli.LARGE_SIZE", 0)
    logits, x = torch.zeros(2, 1, 28, 28), torch.ones(2, 1, 28, 28)  # each factor has its maximum, 2
    torch.testing.assert_close(bernoulli_image(logits).log_prob(x), torch.full((2,), -784 * math.log(2)))
    far = torch.full((2, 1, 28, 28), 1e30)
    torch.testing.assert_close(bernoulli_image(far).log_prob(x), torch.zeros(2))


@pytest.mark.parametrize("shape", [(3, 5, 1, 4, 6), (2, 3, 8, 8), (1, 2, 2)])
def test_small_bernoulli_images_have_the_bits_of_torchs_distribution(shape):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) * 10).requires_grad_()
    x = (torch.rand(shape[-4:], generator=generator) < 0.5).float()
    log_p, expected = bernoulli_image(logits).log_prob(x), Independent(Bernoulli(logits=logits), 3).log_prob(x)
    assert torch.equal(log_p, expected)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (log_p, expected)]
    assert torch.equal(*gradients)
