import math

import torch
from torch.distributions import kl_divergence

from models.distributions import diagonal_normal, standard_normal


def test_closed_form_kl_against_monte_carlo():
    q, p = diagonal_normal(torch.randn(3, 8)), standard_normal(4, torch.zeros(1))
    z = q.sample((100_000,))
    draws = q.log_prob(z) - p.log_prob(z)  # (100000, 3)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((kl_divergence(q, p) - draws.mean(0)).abs() < 4.5 * error).all()
    assert (error < 0.05).all()


def test_kl_to_the_standard_normal_is_that_of_torch():
    q, p = diagonal_normal(3 * torch.randn(2, 5, 8)), standard_normal(4, torch.zeros(1))
    expected = kl_divergence(q.base_dist, p.base_dist).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p), expected)
    assert kl_divergence(q, p).shape == (2, 5)
