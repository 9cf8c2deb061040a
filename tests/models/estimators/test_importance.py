import math

import pytest
import torch
from exact_models import LinearGaussian
from model_helpers import is_of_images
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from models import MODELS
from models.estimators.importance import active_units, fit_tails, importance, pareto_k, tail_size
from models.objectives import elbo, ess, iwae

DENSITIES = [name for name, model in MODELS.items() if hasattr(model, "log_weights")]


class Scripted(nn.Module):
    """A model with given log weights `(K, B)`, which records the requested numbers of samples."""

    def __init__(self, log_w):
        super().__init__()
        self.log_w, self.asked, self.posteriors, self.start = log_w, [], 0, 0

    def posterior(self, x, y=None):
        self.posteriors += 1
        return ("posterior", y)

    def log_weights(self, x, K, y=None, posterior=None):
        assert posterior == ("posterior", y)
        assert not self.training
        self.asked.append(K)
        self.start += K
        return self.log_w[self.start - K : self.start]


def images(n):
    return torch.randn(n, 1, 2, 2)


# Comparison with the exact log p(x)


@pytest.mark.parametrize("chunk", [100, 20_000])
def test_importance_against_the_exact_log_p(chunk):
    model, x, K = LinearGaussian(exact=False), images(20), 20_000
    estimate = importance(model, x, K, chunk)
    error = (1 / estimate.ess - 1 / K).sqrt()  # of the logarithm of a mean
    assert (error < 0.02).all()
    assert (error > 1e-3).all()  # the weights vary
    assert ((estimate.log_px - model.log_p(x)).abs() < 4 * error).all()


def test_the_elbo_is_below_log_p_by_the_kl_to_the_true_posterior():
    model, x = LinearGaussian(exact=False), images(20)
    gap = kl_divergence(model.posterior(x), model.true_posterior(x))
    assert (gap > 0.05).all()
    torch.testing.assert_close(importance(model, x, 20_000).elbo, model.log_p(x) - gap, atol=0.04, rtol=0)


def test_fewer_samples_give_a_looser_bound():
    model, x = LinearGaussian(exact=False), images(1).expand(4000, -1, -1, -1)
    truth = model.log_p(x[:1]).item()
    means = [importance(model, x, K).log_px.mean().item() for K in (1, 5, 50)]
    assert means[0] + 0.02 < means[1] < truth
    assert means[1] + 0.01 < means[2] < truth + 0.005


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
def test_with_the_exact_posterior_every_chunk_batch_and_order_gives_log_p(chunk):
    model, x, K = LinearGaussian(exact=True), images(12), 100
    truth = model.log_p(x)
    whole = importance(model, x, K, chunk)
    for values in (whole.log_px, whole.elbo):
        torch.testing.assert_close(values, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.ess, torch.full((12,), 100.0, dtype=torch.float64), atol=1e-3, rtol=0)
    parts = torch.cat([importance(model, part, K, chunk).log_px for part in x.split(5)])
    torch.testing.assert_close(parts, truth, atol=1e-4, rtol=0)
    order = torch.randperm(12)
    torch.testing.assert_close(importance(model, x[order], K, chunk).log_px, truth[order], atol=1e-4, rtol=0)


# Accumulation over chunks


@pytest.mark.parametrize(("K", "chunk", "asked"), [
    (10, 4, [4, 4, 2]), (10, 1, [1] * 10), (10, 100, [10]), (10, 10, [10]), (10, 5, [5, 5]), (1, 1, [1]),
])  # fmt: skip
def test_chunks_give_the_same_estimate_and_respect_the_chunk_size(K, chunk, asked):
    log_w = torch.randn(K, 3, dtype=torch.float64) * 5 - 700
    model = Scripted(log_w)
    estimate = importance(model, images(3), K, chunk)
    assert model.asked == asked
    assert model.posteriors == 1
    assert torch.equal(estimate.largest, log_w.sort(0, descending=True).values[: tail_size(K) + 1].T)
    for actual, objective in zip(estimate[:3], (iwae, elbo, ess), strict=True):
        torch.testing.assert_close(actual, objective(log_w), rtol=1e-10, atol=1e-10)


def test_accumulation_is_in_float64():
    log_w = torch.full((5000, 2), -1000.1)  # float32
    log_w[1::2] += 0.5
    estimate = importance(Scripted(log_w), images(2), 5000, chunk=1)
    for actual, objective in zip(estimate[:3], (iwae, elbo, ess), strict=True):
        assert actual.dtype == torch.float64
        torch.testing.assert_close(actual, objective(log_w.double()), rtol=1e-9, atol=0)


def test_a_dominating_sample_in_any_chunk():
    for place in (0, 4, 9):
        log_w = torch.full((10, 1), -1e5)
        log_w[place] = -100.0
        estimate = importance(Scripted(log_w), images(1), 10, chunk=3)
        assert estimate.log_px.item() == pytest.approx(-100 - math.log(10), abs=1e-9)
        assert estimate.ess.item() == pytest.approx(1)


def test_labels_reach_the_model():
    class Labelled(Scripted):
        def log_weights(self, x, K, y=None, posterior=None):
            assert torch.equal(y, torch.tensor([3, 4]))
            assert torch.equal(posterior[1], y)
            return torch.zeros(K, 2)

    importance(Labelled(None), images(2), 5, chunk=2, y=torch.tensor([3, 4]))


@pytest.mark.parametrize("name", [name for name in DENSITIES if name not in ("M1M2", "DRAW")])
def test_the_encoder_runs_once_and_chunks_bound_the_memory(make, binary, monkeypatch, name):
    model, (x, y) = make(name), binary(3)
    encoded, decoded = [], []
    first = getattr(model, "aux_encoder", model.encoder)  # the one that `posterior` runs
    first.register_forward_hook(lambda module, args, output: encoded.append(len(output)))
    if name == "LadderVAE":  # whose decoder also runs for p(z_l|z_l+1); its rows are those of all samples and images
        model.decoder.to_image.register_forward_hook(lambda module, args, output: decoded.append(len(output) // 3))
    else:
        model.decoder.register_forward_hook(lambda module, args, output: decoded.append(len(output)))
    estimate = importance(model, x, 23, chunk=5, y=y)
    assert encoded == [3]
    assert decoded == [5] * 4 + [3]  # leading dimensions (k, B)
    assert all(values.shape == (3,) and values.isfinite().all() for values in estimate[:3])
    assert estimate.largest.shape == (3, 5)


@pytest.mark.parametrize("name", DENSITIES)
def test_16_bits_round_the_decoder_and_not_the_encoder(make, binary, monkeypatch, name):
    model, (x, y) = make(name), binary(8)
    y = y if MODELS[name].is_conditional else None
    posterior, encoded = model.posterior, []

    def watched(*args):
        encoded.append(torch.is_autocast_enabled("cpu"))
        return posterior(*args)

    monkeypatch.setattr(model, "posterior", watched)
    exact = importance(model, x, 30, y=y)
    rounded = importance(model, x, 30, y=y, precision="bf16")
    assert encoded == [False, False]
    assert rounded.log_px.dtype == torch.float64
    difference = (rounded.log_px - exact.log_px).abs()
    assert (difference > 0).any()
    assert (difference < 0.5).all()


def test_an_unknown_precision_is_refused(make, binary):
    with pytest.raises(ValueError, match="Unknown precision 'fp8': choose one of fp32, bf16"):
        importance(make("VAE"), binary(2)[0], 5, precision="fp8")


@pytest.mark.parametrize("name", DENSITIES)
def test_ess_and_bounds_of_any_model(make, binary, name):
    x, y = binary(20)
    y = y if MODELS[name].is_conditional else None
    estimate = importance(make(name), x, 200, chunk=64, y=y)
    assert (estimate.elbo < estimate.log_px).all()
    assert ((estimate.ess >= 1 - 1e-9) & (estimate.ess <= 200 + 1e-9)).all()
    one = importance(make(name), x, 1, y=y)
    torch.testing.assert_close(one.elbo, one.log_px)


@pytest.mark.parametrize(("name", "z_dim"), [
    ("VAE", 2), ("IWAE", 2), ("AffineVAE", 8), ("HierarchicalVAE", [2, 2]), ("HierarchicalVAE", [3, 2, 2]),
    ("LadderVAE", [3, 2, 2]), ("DRAW", 2),
])  # fmt: skip
def test_p_of_all_binary_images_sums_to_1(make, squares, name, z_dim):
    model = make(name, (1, 2, 2), z_dim=z_dim)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.6 if is_of_images(key) else 0.1)
    p = importance(model, squares, 20_000, chunk=3000).log_px.exp()
    assert p.sum().item() == pytest.approx(1, abs=0.02)


# Restored state


@pytest.mark.parametrize("name", DENSITIES)
def test_mode_random_state_and_gradients_are_restored(make, binary, name):
    model, (x, y) = make(name, batch_norm=True), binary(6)
    model.log_weights(x, 2, y)
    expected = importance(model.eval(), x, 10, y=y)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    torch.manual_seed(7)
    again = importance(model, x, 10, y=y)
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), after)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(again.log_px, expected.log_px)
    assert not again.log_px.requires_grad


def test_the_seed_decides_the_noise(make, binary):
    model, (x, _) = make("VAE"), binary(3)
    first = importance(model, x, 10, seed=1).log_px
    assert torch.equal(importance(model, x, 10, seed=1).log_px, first)
    assert not torch.equal(importance(model, x, 10, seed=2).log_px, first)


@pytest.mark.parametrize(("K", "chunk"), [(0, 10), (-1, 10), (10, 0)])
def test_K_below_1_is_refused(make, binary, K, chunk):
    with pytest.raises(ValueError, match="at least 1"):
        importance(make("VAE"), binary(2)[0], K, chunk)


# The tail of the weights


def tail(log_w):
    """Return the largest of log weights `(K, B)`, as in `Estimate.largest`."""
    return log_w.topk(tail_size(len(log_w)) + 1, dim=0).values.T


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0, 1.5])
def test_k_hat_is_the_shape_of_a_pareto_tail(k):
    """U^-k has a Pareto tail of shape k; the prior of the estimate shrinks it slightly towards 1/2."""
    u = torch.rand(20_000, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = pareto_k(tail(-k * u.log() - 700), 20_000)
    assert found.dtype == torch.float64
    assert found.mean().item() == pytest.approx(k, abs=0.05)
    assert found.std() < 0.15


def test_k_hat_of_the_largest_weights_is_that_of_all():
    from arviz_stats.base import array_stats

    log_w = torch.randn(3000, 4, dtype=torch.float64) * 3
    expected = array_stats.psislw(-log_w.T.numpy())[1]
    torch.testing.assert_close(pareto_k(tail(log_w), 3000), torch.tensor(expected))
    assert tail_size(3000) == 164


def test_k_hat_of_light_tails_equal_weights_and_few_samples():
    assert (pareto_k(tail(torch.rand(5000, 3, dtype=torch.float64)), 5000) < 0.3).all()
    assert torch.equal(pareto_k(tail(torch.zeros(5000, 2)), 5000), torch.zeros(2, dtype=torch.float64))
    assert pareto_k(tail(torch.randn(24, 2)), 24).isnan().all()
    assert pareto_k(tail(torch.randn(25, 2)), 25).isfinite().all()


@pytest.mark.parametrize("K", [25, 225, 226, 1000, 5000])
def test_k_hat_of_all_images_at_once_is_that_of_arviz(K):
    """As on a GPU."""
    noise = torch.randn(K, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(K))
    log_w = noise * torch.tensor([0.1, 1, 3, 10, 30, 0]) - 700
    torch.testing.assert_close(fit_tails(tail(log_w)), pareto_k(tail(log_w), K), atol=1e-9, rtol=1e-9)


def test_k_hat_is_low_for_the_exact_and_high_for_a_narrow_posterior():
    x = images(10)
    exact = importance(LinearGaussian(exact=True), x, 2000).largest
    assert (pareto_k(exact, 2000) < 0.7).all()
    narrow = LinearGaussian(exact=False)
    narrow.posterior = lambda x, y=None: Independent(Normal(narrow.true_posterior(x).mean, 0.1 * torch.ones(2)), 1)
    assert (pareto_k(importance(narrow, x, 2000).largest, 2000) > 0.7).all()


# Active units


def test_active_units_are_those_whose_mean_varies():
    # standard deviations 0.09 (variance 0.0081), 0.11 (0.0121), 1; a mean far from 0 does not count
    means = torch.tensor([0.0, 100.0, 0.0, 5.0]) + torch.tensor([0.09, 0.11, 1.0, 0.0]) * torch.randn(20_000, 4)
    assert active_units(means) == 2
    assert active_units(means, threshold=0.5) == 1
    assert active_units(means.half().float() * 0) == 0
