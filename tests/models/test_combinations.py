"""Every prior with every posterior: the same exact likelihood behind all, and gradients through both."""

import math

import pytest
import torch

from models.base import evaluating
from models.distributions import FullNormal, closed_form_kl, rsample_with_kl, standard_normal
from models.posteriors import POSTERIORS
from models.priors import PRIORS

PRIOR_OPTIONS = {
    "standard": {"prior": "standard"},
    "mixture": {"prior": "mixture", "prior_components": 4},
    "vamp": {"prior": "vamp", "prior_components": 6},
    "nsf": {"prior": "flow", "prior_hidden": [8]},
    "maf": {"prior": "flow", "prior_flow": "maf", "prior_hidden": [8]},
}
SMALL_FLOW = {"posterior": "flow", "posterior_hidden": [8], "posterior_context": 3}
POSTERIOR_OPTIONS = {
    "diagonal": {"posterior": "diagonal"},
    "full": {"posterior": "full"},
    "iaf": {"posterior_flow": "iaf", **SMALL_FLOW},
    "nsf": {"posterior_flow": "nsf", **SMALL_FLOW},
}
every_prior = pytest.mark.parametrize("prior", list(PRIOR_OPTIONS))
every_posterior = pytest.mark.parametrize("posterior", list(POSTERIOR_OPTIONS))


def test_every_part_is_tested():
    assert {options["prior"] for options in PRIOR_OPTIONS.values()} == set(PRIORS)
    assert {options["posterior"] for options in POSTERIOR_OPTIONS.values()} == set(POSTERIORS)


@pytest.fixture
def combined(make):
    """Return a VAE of 2x2 images with two latents, with random parameters: no part is as at the start of training."""

    def build(prior, posterior, **options):
        parts = PRIOR_OPTIONS[prior] | POSTERIOR_OPTIONS[posterior]
        model = make("VAE", (1, 2, 2), z_dim=2, hidden=[8], init="glorot", **parts, **options)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
                if name.startswith("decoder"):
                    parameter.mul_(1.5)
            model.encoder.output.weight.mul_(0.3)  # wide q, so that weights vary little
            model.encoder.output.bias[2:4] += 0.6  # log scales
        return model

    return build


@every_prior
@every_posterior
def test_the_likelihood_is_the_integral_over_the_latents(combined, squares, prior, posterior):
    model = combined(prior, posterior)
    line = torch.arange(-8, 8, 0.1) + 0.05
    z = torch.cartesian_prod(line, line)
    with evaluating(model):
        # log p(x|z) for each point and image, (N, 16)
        log_px_z = model.log_px(squares, z[:, None].expand(-1, 16, -1)).double()
        expected = ((log_px_z + model.prior().log_prob(z)[:, None]).exp() * 0.1**2).sum(0)
        log_w = model.log_weights(squares, 10_000).double()
        rate, distortion = model.rate_distortion(squares, 10_000)
    assert expected.sum().item() == pytest.approx(1, abs=2e-3)
    assert expected.max() > 1.5 * expected.min()
    p = log_w.exp()
    error = p.std(0) / math.sqrt(len(p))
    assert (error / expected).max() < 0.1
    assert ((p.mean(0) - expected).abs() < 5 * error + 2e-3 * expected).all()
    # rate and distortion have noise of their own: the closed-form rate has none
    noise = 2 * log_w.std(0) / math.sqrt(len(log_w))
    assert ((log_w.mean(0) + rate + distortion).abs() < 5 * noise + 1e-4).all()
    assert (log_w.mean(0) < expected.log() + 5 * noise).all()


def gradients(model, x, seed):
    """Return the gradient of the loss for each part of the model that has parameters, as one vector."""
    torch.manual_seed(seed)
    parts = {"encoder": model.encoder, "posterior": model.z_posterior, "prior": model.z_prior, "decoder": model.decoder}
    parameters = {name: list(part.parameters()) for name, part in parts.items() if list(part.parameters())}
    found = iter(torch.autograd.grad(model.loss(x, None), [p for part in parameters.values() for p in part]))
    return {name: torch.cat([next(found).flatten() for _ in part]) for name, part in parameters.items()}


SEEDS = 12


def check_same_mean(first, second):
    """Check that paired estimates `(SEEDS, P)` are equal, or their difference within its standard error of 0."""
    difference = first - second
    error = difference.std(0) / SEEDS**0.5
    is_noisy = error > 1e-6
    assert (difference[:, ~is_noisy].abs() < 1e-4).all()
    if is_noisy.any():
        t = (difference.mean(0) / error)[is_noisy]
        assert t.square().mean() < 2.5
        assert t.abs().max() < 9


@pytest.mark.parametrize(("objective", "plain"), [("stl", "elbo"), ("dreg", "iwae")])
@pytest.mark.parametrize("posterior", ["diagonal", "full", "nsf"])
@pytest.mark.parametrize("prior", ["vamp", "nsf"])
def test_surrogates_have_the_gradient_of_their_bound_for_every_part(
    combined, squares, prior, posterior, objective, plain
):
    x = squares[5:6].expand(400, -1, -1, -1)
    models = [combined(prior, posterior, objective=name, num_samples=3) for name in (objective, plain)]
    found = [[gradients(model, x, seed) for seed in range(SEEDS)] for model in models]
    for part in found[0][0]:
        check_same_mean(*(torch.stack([each[part] for each in of_model]) for of_model in found))


@pytest.mark.parametrize("posterior", ["diagonal", "full", "nsf"])
def test_piwae_has_the_gradients_of_two_bounds(combined, squares, posterior):
    """That of MIWAE for the posterior, that of IWAE for the decoder."""
    x = squares[5:6].expand(400, -1, -1, -1)
    options = {"piwae": {"num_groups": 2}, "miwae": {"num_groups": 2}, "iwae": {}}
    found = {}
    for objective, more in options.items():
        model = combined("standard", posterior, objective=objective, num_samples=4, **more)
        each = [gradients(model, x, seed) for seed in range(SEEDS)]
        found[objective] = {part: torch.stack([g[part] for g in each]) for part in each[0]}
    for part in found["miwae"].keys() - {"decoder"}:
        check_same_mean(found["piwae"][part], found["miwae"][part])
    check_same_mean(found["piwae"]["decoder"], found["iwae"]["decoder"])


def test_samples_come_with_the_kl_in_closed_form_where_there_is_one():
    """M2, ADGM and SDGM take their KL from here."""
    q = FullNormal(torch.randn(4, 3), torch.rand(4, 3) + 0.5, torch.randn(4, 3, 3).tril(-1))
    prior = standard_normal(3, like=q.mean)
    z, kl = rsample_with_kl(q, prior, 2)
    assert z.shape == (2, 4, 3)
    assert torch.equal(kl, closed_form_kl(q, prior))
