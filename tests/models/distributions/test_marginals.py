"""models/marginals.py: distributions of single latent dimensions, and the KL between those of posterior and prior."""

import pytest
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from models.distributions import diagonal_normal, kl_per_dimension, marginals, sampled_kl_per_dimension, standard_normal
from models.distributions.marginals import (
    DensityEstimate,
    closed_form_marginals,
    entropy_from_samples,
    estimated_marginals,
    marginal_log_prob,
    without_estimates,
)

MODES = MixtureSameFamily(Categorical(logits=torch.zeros(2)), Normal(torch.tensor([-1.0, 1.0]), torch.tensor(0.1)))


class Opaque(Distribution):
    """A distribution that only samples and has a joint density, like a normalizing flow."""

    def __init__(self, known: Distribution):
        super().__init__(known.batch_shape, known.event_shape)
        self.known, self.drawn = known, 0

    def sample(self, sample_shape=()):
        self.drawn += sample_shape[0]
        return self.known.sample(sample_shape)

    def log_prob(self, value):
        return self.known.log_prob(value)


def mixture(components: int = 3, d: int = 2) -> MixtureSameFamily:
    generator = torch.Generator().manual_seed(0)
    means, scales = (torch.randn(components, d, generator=generator) for _ in range(2))
    logits = torch.randn(components, generator=generator)
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, (scales / 2).exp()), 1))


def posterior(n: int) -> Independent:
    """Narrower than the prior in most dimensions, as the posterior of a trained model is."""
    mean, log_scale = torch.randn(2, n, 2, generator=torch.Generator().manual_seed(1))
    return diagonal_normal(torch.cat([mean, 0.3 * log_scale - 1], -1))


def kl_by_samples(q, p_d, n: int = 200_000) -> torch.Tensor:
    """KL between marginals by plain Monte Carlo, for Gaussian q."""
    z = q.base_dist.sample((n,))
    return (q.base_dist.log_prob(z) - p_d.log_prob(z)).mean(0)


# Marginals in closed form


def test_marginals_of_a_mixture_integrate_to_one_and_agree_with_its_samples():
    p = mixture()
    found = closed_form_marginals(p)
    assert found.batch_shape == (2,)
    grid = torch.linspace(-20, 20, 4001)[:, None]
    torch.testing.assert_close(found.log_prob(grid).exp().sum(0) * 0.01, torch.ones(2))
    torch.testing.assert_close(found.mean, p.mean)
    torch.testing.assert_close(found.variance, p.variance)


def test_marginals_of_dependent_gaussians():
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    found = closed_form_marginals(MultivariateNormal(torch.tensor([1.0, 2.0]), scale_tril=factor))
    torch.testing.assert_close(found.loc, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found.scale, torch.tensor([2.0, 1.25**0.5]))
    components = MultivariateNormal(torch.zeros(3, 2), scale_tril=factor.expand(3, 2, 2))
    p = MixtureSameFamily(Categorical(logits=torch.zeros(3)), components)
    torch.testing.assert_close(closed_form_marginals(p).variance, found.variance)


def test_a_distribution_may_supply_its_marginals():
    p = Opaque(standard_normal(2, torch.zeros(1)))
    assert closed_form_marginals(p) is None
    p.marginals = lambda: Normal(torch.ones(2), torch.ones(2))
    q = diagonal_normal(torch.randn(3, 4))
    torch.testing.assert_close(kl_per_dimension(q, p), kl_divergence(q.base_dist, p.marginals()))


# Estimated marginals


@pytest.mark.parametrize(("known", "limit"), [
    (Normal(0.0, 1.0), 0.003),
    (Normal(50.0, 0.02), 0.003),
    (MODES, 0.01),  # with the bandwidth of a rule of thumb it is 0.2
    (Laplace(0.0, 1.0), 0.02),
    (StudentT(3.0), 0.05),
])  # fmt: skip
def test_estimates_are_close_to_a_known_density(known, limit):
    torch.manual_seed(0)
    estimate = DensityEstimate(known.sample((10_000, 1)))
    z = known.sample((100_000, 1))
    assert -0.003 < (known.log_prob(z) - estimate.log_prob(z)).mean() < limit
    scale = z.std()
    grid = (z.mean() + scale * torch.linspace(-12, 12, 100_001))[:, None].double()
    integral = torch.trapezoid(estimate.log_prob(grid.float())[:, 0].double().exp(), grid[:, 0])
    assert integral.item() == pytest.approx(1, abs=0.01)


def test_an_estimate_does_not_vanish_where_there_are_no_samples():
    torch.manual_seed(0)
    estimate = DensityEstimate(torch.randn(10_000, 1))
    z = torch.tensor([[5.0], [8.0], [20.0]])
    excess = estimate.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    assert (excess.abs() < 20).all()


def test_estimates_are_deterministic_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    z = torch.linspace(-3, 3, 50)[:, None].expand(-1, 2)
    marginals.CACHE.clear()
    first = estimated_marginals(Opaque(mixture())).log_prob(z)
    marginals.CACHE.clear()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(estimated_marginals(Opaque(mixture())).log_prob(z), first)


def test_an_estimate_is_reused_until_the_density_changes():
    marginals.CACHE.clear()
    first, again = Opaque(mixture()), Opaque(mixture())
    assert estimated_marginals(first) is estimated_marginals(again)
    assert (first.drawn, again.drawn) == (1 + marginals.DENSITY_SAMPLES, 1)
    changed = mixture()
    changed.component_distribution.base_dist.loc[0, 0] += 1e-3
    assert estimated_marginals(Opaque(changed)) is not estimated_marginals(first)
    for seed in range(10):
        estimated_marginals(Opaque(mixture(components=seed + 1)))
    assert len(marginals.CACHE) <= marginals.MAX_CACHED


def test_a_prior_that_is_not_finite_gives_no_number_and_no_error():
    p = Opaque(Independent(Normal(torch.tensor([torch.nan, 0.0]), torch.ones(2)), 1))
    kl = kl_per_dimension(diagonal_normal(torch.zeros(3, 4)), p)
    assert kl[:, 0].isnan().all()
    assert kl[:, 1].isfinite().all()


def test_many_values_are_interpolated():
    p, z = mixture(), 3 * torch.randn(10_000, 2)
    torch.testing.assert_close(marginal_log_prob(p, z), closed_form_marginals(p).log_prob(z), atol=1e-3, rtol=1e-4)


# Entropies


@pytest.mark.parametrize(("known", "limit"), [
    (Normal(0.0, 1.0), 0.005),
    (Normal(3.0, 0.001), 0.005),  # some samples are equal in float32
    (Laplace(0.0, 1.0), 0.03),
    (MODES, 0.06),
])  # fmt: skip
def test_entropies_from_few_samples_are_those_of_a_known_density(known, limit):
    torch.manual_seed(1)
    found = entropy_from_samples(known.sample((marginals.POSTERIOR_SAMPLES, 4000))).mean()
    expected = -known.log_prob(known.sample((100_000,))).mean()
    assert (found - expected).abs() < limit


# KL divergences


def test_kl_of_gaussians_to_a_mixture():
    torch.manual_seed(0)
    q, p = posterior(5), mixture()
    torch.testing.assert_close(kl_per_dimension(q, p), kl_by_samples(q, closed_form_marginals(p)), atol=0.01, rtol=0.01)


def test_kl_to_an_estimated_prior_is_that_to_the_known_one():
    q = posterior(200)
    for p in (mixture(), standard_normal(2, torch.zeros(1))):
        exact, found = kl_per_dimension(q, p), kl_per_dimension(q, Opaque(p))
        torch.testing.assert_close(found, exact, atol=0.1, rtol=0.1)
        torch.testing.assert_close(found.mean(0), exact.mean(0), atol=0.03, rtol=0.03)


def test_kl_of_a_full_covariance_to_the_standard_normal_is_exact():
    q = MultivariateNormal(torch.randn(3, 2), scale_tril=torch.tensor([[2.0, 0.0], [1.0, 0.5]]).expand(3, 2, 2))
    p = standard_normal(2, torch.zeros(1))
    torch.testing.assert_close(kl_per_dimension(q, p), kl_divergence(Normal(q.loc, q.stddev), p.base_dist))


def test_kl_of_a_posterior_without_known_marginals():
    q = posterior(400)
    for p in (mixture(), Opaque(mixture()), standard_normal(2, torch.zeros(1))):
        exact, found = kl_per_dimension(q, p), kl_per_dimension(Opaque(q), p)
        assert found.shape == exact.shape
        torch.testing.assert_close(found, exact, atol=0.8, rtol=0.1)  # of one image, from 128 samples
        torch.testing.assert_close(found.mean(0), exact.mean(0), atol=0.05, rtol=0)


def test_kl_of_a_posterior_that_is_not_gaussian():
    torch.manual_seed(0)
    q = Independent(Laplace(torch.randn(300, 2), torch.ones(2)), 1)
    z = q.base_dist.sample((5000,))
    exact = (q.base_dist.log_prob(z) - closed_form_marginals(mixture()).log_prob(z)).mean(0)
    torch.testing.assert_close(kl_per_dimension(q, mixture()).mean(0), exact.mean(0), atol=0.05, rtol=0)


def test_kl_from_given_samples():
    q, p = diagonal_normal(torch.randn(3, 4)), standard_normal(2, torch.zeros(1))
    z = q.sample((16,))
    expected = (q.base_dist.log_prob(z) - p.base_dist.log_prob(z)).mean(0)
    assert torch.equal(sampled_kl_per_dimension(q, p, z), expected)
    assert sampled_kl_per_dimension(Opaque(q), Opaque(p), z).shape == (3, 2)


def test_estimates_can_be_left_out():
    q, p = diagonal_normal(torch.randn(3, 4)), Opaque(mixture())
    with without_estimates():
        assert kl_per_dimension(q, p).isnan().all()
        assert sampled_kl_per_dimension(q, p, q.sample((4,))).shape == (3, 2)
        assert kl_per_dimension(q, standard_normal(2, torch.zeros(1))).isfinite().all()
    assert p.drawn == 0
    assert kl_per_dimension(q, p).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_posterior(dtype):
    q, p = diagonal_normal(torch.randn(3, 4, dtype=dtype)), standard_normal(2, torch.zeros(1, dtype=dtype))
    for other in (p, Opaque(p)):
        assert kl_per_dimension(q, other).dtype == kl_per_dimension(Opaque(q), other).dtype == dtype
