import math

import pytest
import torch
from exact_models import LinearGaussian
from model_helpers import is_of_images
from torch import nn
from torch.distributions import kl_divergence

from models import MODELS
from models.estimators.importance import importance
from models.estimators.pareto import tail_size
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
