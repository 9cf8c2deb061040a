import math

import pytest
import torch
from torch import nn

from models import VAE
from models.estimators.gradient_snr import signal_to_noise
from models.objectives import SURROGATES, ciwae, elbo, ess, iwae, make_bound, miwae

LOG_W = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 3  # (K, B)
OPTIONS = {"miwae": {"num_groups": 5}, "piwae": {"num_groups": 5}, "ciwae": {"ciwae_beta": 0.3}}


def bound_of(objective):
    return make_bound(objective, **{"num_groups": None, "ciwae_beta": None} | OPTIONS.get(objective, {}))


ALL = [bound_of(objective) for objective in VAE.objectives]


def test_bounds_match_their_definitions():
    w = LOG_W.exp()
    torch.testing.assert_close(elbo(LOG_W), LOG_W.sum(0) / 50)
    torch.testing.assert_close(iwae(LOG_W), (w.sum(0) / 50).log())
    torch.testing.assert_close(ess(LOG_W), w.sum(0) ** 2 / (w**2).sum(0))
    groups = [(w[start : start + 10].sum(0) / 10).log() for start in range(0, 50, 10)]
    torch.testing.assert_close(miwae(LOG_W, 5), sum(groups) / 5)
    torch.testing.assert_close(ciwae(LOG_W, 0.3), 0.3 * LOG_W.mean(0) + 0.7 * (w.sum(0) / 50).log())


def test_miwae_and_ciwae_have_elbo_and_iwae_as_limits():
    torch.testing.assert_close(miwae(LOG_W, 50), elbo(LOG_W))
    torch.testing.assert_close(miwae(LOG_W, 1), iwae(LOG_W))
    torch.testing.assert_close(ciwae(LOG_W, 1.0), elbo(LOG_W))
    torch.testing.assert_close(ciwae(LOG_W, 0.0), iwae(LOG_W))
    bounds = torch.stack([miwae(LOG_W, groups).mean() for groups in (50, 25, 10, 5, 2, 1)])
    assert (bounds.diff() > 0).all()


@pytest.mark.parametrize("objective", [*ALL, ess])
def test_bounds_have_one_value_per_image(objective):
    assert objective(LOG_W).shape == (8,)


def test_all_bounds_agree_for_one_sample_and_for_equal_weights():
    for bound in ALL:
        torch.testing.assert_close(bound(LOG_W[:1].expand(20, -1)), LOG_W[0])
    for bound in (elbo, iwae):
        torch.testing.assert_close(bound(LOG_W[:1]), LOG_W[0])
    for K in (1, 20):
        torch.testing.assert_close(ess(LOG_W[:1].expand(K, -1)), torch.full((8,), float(K), dtype=torch.float64))


def test_elbo_is_below_iwae():
    assert (elbo(LOG_W) < iwae(LOG_W)).all()


def test_ess_lies_between_1_and_the_number_of_samples():
    assert ((ess(LOG_W) > 1) & (ess(LOG_W) < 50)).all()
    one_dominates = torch.zeros(50, 1)
    one_dominates[7] = 60.0
    torch.testing.assert_close(ess(one_dominates), torch.ones(1))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_weights_that_overflow_floating_point(shift):
    torch.testing.assert_close(iwae(LOG_W + shift), iwae(LOG_W) + shift)
    torch.testing.assert_close(ess(LOG_W + shift), ess(LOG_W))
    assert ess((LOG_W + shift).float()).isfinite().all()


def test_the_gradient_of_iwae_is_the_normalised_weight():
    log_w = LOG_W.clone().requires_grad_()
    iwae(log_w).sum().backward()
    torch.testing.assert_close(log_w.grad, LOG_W.softmax(0))


def test_a_zero_weight_counts_as_a_sample():
    log_w = torch.tensor([[0.0], [-math.inf]])
    torch.testing.assert_close(iwae(log_w), torch.tensor([math.log(0.5)]))
    torch.testing.assert_close(ess(log_w), torch.ones(1))


# Gradients of a small model; q(z|x) is wider than the true posterior and shifted


X = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)


def small(objective, K, **options):
    torch.manual_seed(0)
    model = VAE((1, 2, 2), z_dim=2, hidden=[3], objective=objective, num_samples=K, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    output = model.encoder.output
    nn.init.zeros_(output.weight[2:].detach())
    nn.init.constant_(output.bias[2:].detach(), 0.2)  # log sigma: under a narrow q the weights would have no variance
    return model


def gradients(model, seed=0, copies=1):
    """Return the gradients of the loss on copies of one image for encoder and decoder, each as a vector."""
    torch.manual_seed(seed)
    parts = [[*part.parameters()] for part in (model.encoder, model.decoder)]
    found = torch.autograd.grad(model.loss(X.expand(copies, -1, -1, -1), torch.zeros(copies)), [*parts[0], *parts[1]])
    return [torch.cat([g.flatten() for g in part]) for part in (found[: len(parts[0])], found[len(parts[0]) :])]


def many(model, n, copies=1):
    """Return `n` samples of the gradients for encoder and decoder, each `(n, parameters)`."""
    parts = zip(*(gradients(model, seed, copies) for seed in range(n)), strict=True)
    return [torch.stack(part).double() for part in parts]


def z_scores(one, other):
    """Return the differences between two means in units of their standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return ((one.mean(0) - other.mean(0)) / error.clamp(min=1e-9)).abs()


@pytest.mark.parametrize(("surrogate", "bound"), [("dreg", "iwae"), ("stl", "elbo")])
def test_surrogate_gradients_are_unbiased_and_less_noisy(surrogate, bound):
    K, n, copies = 8, 200, 100
    (encoder, decoder), (reference, of_decoder) = (many(small(name, K), n, copies) for name in (surrogate, bound))
    assert z_scores(encoder, reference).max() < 4.5
    assert z_scores(decoder, of_decoder).max() < 4.5
    assert (reference.mean(0).abs() > 10 * reference.std(0) / n**0.5).any()  # the gradient is not zero
    if surrogate == "dreg":
        assert encoder.var(0).sum() < 0.5 * reference.var(0).sum()


def test_the_decoder_gradient_of_a_surrogate_equals_that_of_its_bound():
    for surrogate, (_, bound) in SURROGATES.items():
        options = {"num_groups": 2} if surrogate == "piwae" else {}
        reference = small("iwae" if bound == "iwae" else "miwae", 8, **({} if bound == "iwae" else {"num_groups": 8}))
        torch.testing.assert_close(gradients(small(surrogate, 8, **options))[1], gradients(reference)[1])


def test_stl_has_zero_gradient_at_the_exact_posterior():
    """At q(z|x) = p(z|x) every sample of its encoder gradient is 0; for the ELBO only the expectation is 0."""
    noise = {}
    for objective in ("stl", "miwae"):
        model = small(objective, 4, **({"num_groups": 4} if objective == "miwae" else {}))
        for parameter in (*model.decoder.parameters(), *model.encoder.rest[-1].parameters()):
            nn.init.zeros_(parameter)  # x does not depend on z, so the posterior is the prior
        noise[objective] = gradients(model)[0].abs().max()
    assert noise["stl"] < 1e-6 < 1e-2 < noise["miwae"]


def test_piwae_trains_the_encoder_on_groups_and_the_decoder_on_all():
    encoder, decoder = gradients(small("piwae", 12, num_groups=3))
    torch.testing.assert_close(encoder, gradients(small("miwae", 12, num_groups=3))[0])
    torch.testing.assert_close(decoder, gradients(small("iwae", 12))[1])
    assert not torch.allclose(encoder, gradients(small("iwae", 12))[0], rtol=1e-3)


@pytest.mark.parametrize("behind", [0.0, 60.0, 120.0, 1000.0])
def test_piwae_trains_the_encoder_on_a_group_of_tiny_weights(behind):
    leaf = torch.zeros(4, 1, 1, requires_grad=True)
    z = leaf * 1.0
    log_w = z[..., 0] + torch.tensor([[1.0], [0.0], [1.0 - behind], [-behind]])
    surrogate = SURROGATES["piwae"][0](log_w, z, torch.zeros(4, 1), 2)
    of_z = torch.autograd.grad(surrogate.sum(), leaf)[0].flatten()
    share = torch.tensor([1.0, 0.0]).softmax(0) / 2
    torch.testing.assert_close(of_z, torch.cat([share, share]))


def of_encoder(objective, K):
    """Return signal and noise of the encoder gradient."""
    return signal_to_noise(small(objective, K), X, torch.zeros(1), n=200, parts=("encoder",))["encoder"]


def test_encoder_snr_falls_with_K_for_iwae_but_not_for_dreg():
    """Rainforth et al. (2018): IWAE's signal-to-noise ratio falls as 1/sqrt(K); Tucker et al. (2018): DReG's grows."""
    found = [(of_encoder("dreg", K), of_encoder("iwae", K)) for K in (1, 16, 256)]
    # both have the same expected gradient, and DReG estimates it better
    falls, grows = torch.tensor([[dreg.signal / iwae.noise, dreg.ratio] for dreg, iwae in found]).T
    assert (falls[1:] < 0.5 * falls[:-1]).all()
    assert (grows[1:] > 2 * grows[:-1]).all()


@pytest.mark.parametrize("objective", SURROGATES)
def test_the_value_of_a_surrogate_is_never_logged(objective):
    options = OPTIONS.get(objective, {})
    model, reference = small(objective, 10, **options), small(SURROGATES[objective][1], 10)
    y = torch.zeros(1)
    torch.manual_seed(3)
    loss = model.loss(X, y)
    torch.manual_seed(3)
    log_w = reference.log_weights(X, 10)
    torch.testing.assert_close(loss, -bound_of(objective)(log_w).mean())
    torch.manual_seed(3)
    torch.testing.assert_close(model.measure(X, y)["bound"], bound_of(objective)(log_w))
