"""Posteriors against numerical integration, closed forms and the exact posterior."""

import math

import pytest
import torch
from model_helpers import under
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from models import VAE
from models.base import evaluating
from models.distributions import DiagonalNormal, FullNormal, kl_per_dimension, standard_normal
from models.estimators.ais import Settings, anneal
from models.networks import ENCODERS
from models.posteriors import POSTERIORS, make_posterior

SMALL_FLOW = {"transforms": 2, "hidden": [16], "context": 3}
# posterior -> options of `make_posterior`
KINDS = {name: {"name": name} for name in POSTERIORS if name != "flow"} | {
    "iaf": {"name": "flow", "flow": "iaf", **SMALL_FLOW},
    "nsf": {"name": "flow", "flow": "nsf", **SMALL_FLOW},
}
# the same as options of a model
OPTIONS = {
    kind: {"posterior": options["name"]}
    | {f"posterior_{name}": value for name, value in options.items() if name != "name"}
    for kind, options in KINDS.items()
}
kinds = pytest.mark.parametrize("kind", list(KINDS))
new_kinds = pytest.mark.parametrize("kind", ["full", "iaf", "nsf"])


def shaken(module, size=0.3):
    """Return the module with random changes of its parameters, so that a flow is not the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def example(kind, z_dim=2, batch=(), size=0.3):
    """Return a posterior far from a diagonal one, in float64."""
    posterior = shaken(make_posterior(z_dim=z_dim, **KINDS[kind]).double(), size)
    outputs = torch.randn(*batch, posterior.num_outputs, dtype=torch.float64)
    outputs[..., z_dim : 2 * z_dim] = outputs[..., z_dim : 2 * z_dim] / 4 - 0.5
    return posterior(outputs)


@pytest.fixture
def grid():
    """Return the centres of cells of a plane, `(N, N, 2)`, and the area of a cell."""
    line = torch.arange(-8, 8, 0.08, dtype=torch.float64) + 0.04
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1), 0.08**2


@kinds
@torch.no_grad()
def test_the_density_integrates_to_1_and_samples_agree_with_it(kind, grid):
    points, area = grid
    q = example(kind, size=0.05 if kind == "nsf" else 0.3)  # the grid resolves no steeper splines
    p = q.log_prob(points).exp() * area  # (200, 200)
    assert p.sum().item() == pytest.approx(1, abs=2e-3)
    z = q.sample((20_000,))
    cells = 10  # cells of the grid per bin and direction
    expected = 20_000 * p.unfold(0, cells, cells).unfold(1, cells, cells).sum((-2, -1)).flatten()
    index = ((z + 8) / (0.08 * cells)).long().clamp(0, 19)
    counts = torch.bincount(20 * index[:, 0] + index[:, 1], minlength=400)
    used = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[used].sum()
    dof = used.sum() - 1
    assert chi2 < dof + 5 * (2 * dof).sqrt()


@kinds
def test_density_and_samples_in_one_pass_agree_with_the_density(kind):
    q = example(kind, z_dim=5, batch=(3,), size=0.15)
    if not hasattr(q, "rsample_and_log_prob"):
        pytest.skip("samples and density are computed one after the other")
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob((4,))
    assert z.shape == (4, 3, 5)
    assert log_q.shape == (4, 3)
    torch.testing.assert_close(q.log_prob(z), log_q)
    torch.manual_seed(1)
    torch.testing.assert_close(q.rsample((4,)), z)


@kinds
def test_samples_at_given_noise_are_those_drawn_with_it(kind):
    q = example(kind, z_dim=5, batch=(3,))
    torch.manual_seed(1)
    noise = torch.randn(4, 3, 5, dtype=q.mean.dtype)
    z, log_q = q.at_noise(noise)
    torch.testing.assert_close(z, under(1, q.rsample, (4,)))
    torch.testing.assert_close(log_q(), q.log_prob(z))


@kinds
def test_the_density_has_the_right_gradient(kind):
    q = example(kind, z_dim=3, batch=(2,), size=0.15)
    q = q.expand((2,))
    z = q.sample((2,)).requires_grad_()
    assert torch.autograd.gradcheck(q.log_prob, z)


@kinds
def test_shapes_follow_the_batch(kind):
    q = example(kind, z_dim=3)
    assert q.batch_shape == ()
    assert q.event_shape == (3,)
    wide = q.expand((2, 4))
    assert wide.batch_shape == (2, 4)
    z = wide.sample((5,))
    assert z.shape == (5, 2, 4, 3)
    assert wide.mean.shape == wide.stddev.shape == (2, 4, 3)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z))
    # values of fewer or more leading dimensions than the batch broadcast
    components = example(kind, z_dim=3, batch=(6,))
    assert components.log_prob(z[..., None, :]).shape == (5, 2, 4, 6)
    each = torch.stack([components.log_prob(z[0, 0, i]) for i in range(4)])
    torch.testing.assert_close(components.log_prob(z[0, 0, :, None]), each)


def test_full_is_the_multivariate_normal():
    q = example("full", z_dim=4, batch=(3,))
    p = MultivariateNormal(q.mean, scale_tril=q.scale_tril)
    z = q.sample((6,))
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))
    torch.testing.assert_close(q.variance, p.variance)
    torch.testing.assert_close(q.marginals().stddev, p.stddev)
    prior = standard_normal(4, like=q.mean)
    normal = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    torch.testing.assert_close(kl_divergence(q, prior), kl_divergence(p, normal))
    torch.testing.assert_close(kl_per_dimension(q, prior), kl_divergence(Normal(p.mean, p.stddev), prior.base_dist))


def test_the_kl_of_full_agrees_with_monte_carlo():
    q = example("full", z_dim=3)
    prior = standard_normal(3, like=q.mean)
    z, log_q = q.rsample_and_log_prob((200_000,))
    difference = log_q - prior.log_prob(z)
    assert abs(difference.mean() - kl_divergence(q, prior)) < 4 * difference.std() / 200_000**0.5


@pytest.mark.parametrize("kind", ["full", "nsf"])
def test_a_detached_posterior_has_the_same_density_without_gradient_for_parameters(kind):
    posterior = shaken(make_posterior(z_dim=3, **KINDS[kind]))
    outputs = torch.randn(2, posterior.num_outputs, requires_grad=True)
    q = posterior(outputs)
    z = q.sample((4,)).requires_grad_()
    torch.testing.assert_close(q.detached().log_prob(z), q.log_prob(z))
    q.detached().log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert outputs.grad is None
    assert all(parameter.grad is None for parameter in posterior.parameters())
    assert all(parameter.requires_grad for parameter in posterior.parameters())


# The start of training


def of_diagonal(model, diagonal):
    """Give a model the decoder of a model with a diagonal posterior, and its encoder with additional outputs."""
    encoder, missing = diagonal.encoder, model.z_posterior.num_outputs - diagonal.z_posterior.num_outputs
    model.decoder = diagonal.decoder
    value = 0.0 if model.hparams.posterior == "full" else 0.7
    model.encoder.forward = lambda x: torch.cat([encoder(x), torch.full((len(x), missing), value)], -1)
    return model


@new_kinds
def test_every_posterior_starts_as_the_diagonal_one(make, binary, kind):
    diagonal = make("IWAE", num_samples=3)
    model = of_diagonal(make("IWAE", num_samples=3, **OPTIONS[kind]), diagonal)
    values = []
    for each in (diagonal, model):
        torch.manual_seed(2)
        values.append((each.log_weights(binary(5)[0], 3), each.loss(*binary(5))))
    if kind == "iaf":
        assert torch.equal(values[0][0], values[1][0])
        assert torch.equal(values[0][1], values[1][1])
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("init", ["default", "glorot"])
@pytest.mark.parametrize("encoder", list(ENCODERS))
@new_kinds
def test_dimensions_are_independent_at_the_start(make, binary, kind, encoder, init):
    hidden = [8, 8] if encoder == "mlp" else [4, 4]
    model = make("VAE", encoder=encoder, init=init, hidden=hidden, z_dim=4, **OPTIONS[kind])
    q = model.posterior(binary(3)[0])
    z = q.sample((2,))
    independent = Independent(Normal(q.mean, q.stddev), 1)
    torch.testing.assert_close(q.log_prob(z), independent.log_prob(z), rtol=1e-3, atol=1e-3)
    if init == "default":
        assert 0.02 < q.stddev.median() < 0.5


# Mean and spread


@new_kinds
@torch.no_grad()
def test_mean_and_spread_agree_with_samples(kind):
    q = example(kind, z_dim=3, batch=(2,), size=0.1)
    z = q.sample((100_000,))
    tolerance = 0.0 if kind == "full" else 0.1  # of fixed noise, in units of the standard deviation
    assert ((q.mean - z.mean(0)).abs() < (tolerance + 0.02) * z.std(0)).all()
    assert ((q.stddev / z.std(0)).log().abs() < 2 * tolerance + 0.02).all()


@pytest.mark.parametrize("kind", ["iaf", "nsf"])
def test_codes_are_deterministic_and_unused_dimensions_do_not_vary(make, binary, kind):
    model, (x, _) = shaken(make("VAE", z_dim=4, **OPTIONS[kind]), 0.1), binary(6)
    with torch.no_grad():  # an encoder whose outputs do not depend on the image
        model.encoder.output.weight.zero_()
    assert torch.equal(model.encode(x), model.encode(x))
    assert model.encode(x).std(0).max() < 1e-6


# Objectives


def tiny(kind, objective, **options):
    torch.manual_seed(5)
    model = VAE((1, 2, 2), z_dim=2, hidden=[3], activation="tanh", num_samples=3, objective=objective,
                init="glorot", **OPTIONS[kind], **options)  # fmt: skip
    return shaken(model, 0.2)


@pytest.mark.parametrize(("objective", "plain"), [("stl", "elbo"), ("dreg", "iwae")])
@pytest.mark.parametrize("kind", ["full", "nsf"])
def test_surrogates_have_the_gradient_of_their_bound(squares, kind, objective, plain):
    """The difference of the two gradients of the posterior's parameters is within its standard error of 0."""
    x = squares[5:6].expand(500, -1, -1, -1)
    models = {name: tiny(kind, name) for name in (objective, plain)}
    differences = []
    for seed in range(12):
        gradients = {}
        for name, model in models.items():
            torch.manual_seed(seed)
            parameters = [*model.encoder.parameters(), *model.z_posterior.parameters()]
            found = torch.autograd.grad(model.loss(x, None), parameters)
            gradients[name] = torch.cat([gradient.flatten() for gradient in found])
        differences.append(gradients[objective] - gradients[plain])
    difference = torch.stack(differences)
    error = difference.std(0) / 12**0.5
    # Hotelling's test would need more seeds than parameters; so each parameter by itself, and the mean of all
    t = (difference.mean(0) / error)[error > 1e-7]
    assert len(t) > 20
    assert t.square().mean() < 2.5
    assert t.abs().max() < 8


@pytest.mark.parametrize(("options", "sentence"), [
    ({"posterior": "wide"}, "Unknown posterior 'wide': choose one of diagonal, full, flow"),
    ({"posterior_flow": "iaf"}, "posterior_flow is only for posterior flow: remove it for posterior diagonal"),
    ({"posterior_hidden": [5], "posterior": "full"}, "posterior_hidden is only for posterior flow: .* posterior full"),
    ({"posterior_transforms": 2}, "posterior_transforms is only for posterior flow"),
    ({"posterior_context": 2}, "posterior_context is only for posterior flow"),
    ({"posterior": "flow", "posterior_flow": "maf"}, "Unknown posterior_flow 'maf': choose one of iaf, nsf"),
    ({"posterior": "flow", "posterior_transforms": 0}, "must be at least 1; got 0 and 32"),
    ({"posterior": "flow", "posterior_context": 0}, "must be at least 1; got 2 and 0"),
    ({"posterior": "flow", "posterior_hidden": [0]}, "posterior_hidden must hold positive sizes"),
    ({"posterior": "flow", "posterior_hidden": []}, "posterior_hidden must hold at least one size"),
    ({"posterior": "flow", "objective": "stl"}, "Objective stl needs the density .* z_dim passes: choose .* nsf"),
    ({"posterior": "flow", "objective": "dreg", "num_samples": 2}, "Objective dreg needs the density"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("VAE", **options)


class Undetached(VAE):
    """A model with a posterior of its own, without `detached`."""

    def posterior(self, x, y=None):
        return Independent(super().posterior(x, y).base_dist, 1)


def test_a_posterior_without_detached_is_refused_before_training(fit, binary):
    model = Undetached((1, 8, 8), hidden=[4], objective="stl")
    with pytest.raises(ValueError, match=r"Objective stl needs a posterior with a method detached\(\)"):
        fit(model, [binary(4)])


# Exact models


def near_prior(model):
    """Return the model with a posterior close to the prior, so that few samples or temperatures are enough."""
    shaken(model, 0.1)
    with torch.no_grad():
        model.encoder.output.weight.mul_(0.3)
    return model


@kinds
def test_p_of_all_binary_images_sums_to_1(make, squares, kind):
    model = near_prior(make("VAE", (1, 2, 2), z_dim=2, hidden=[8], init="glorot", **OPTIONS[kind]))
    with torch.no_grad():
        model.decoder.output.weight.mul_(3)
    with evaluating(model):
        p = model.log_weights(squares, 5_000).double().exp()  # (K, 16)
    total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
    assert error < 0.02
    assert abs(total - 1) < 4 * error
    assert p.mean(0).max() > 2 * p.mean(0).min()  # p(x) is not uniform


def exact_elbo(q, covariance, x, W, s):
    """Return the ELBO of p(z) = N(0, I), p(x|z) = N(W z, s^2 I) in closed form."""
    log_px = Normal(W @ q.mean, s).log_prob(x).sum() - (W.T @ W * covariance).sum() / (2 * s**2)
    return log_px - kl_divergence(q, standard_normal(len(q.mean), like=q.mean))


def test_full_reaches_the_exact_posterior_and_diagonal_does_not():
    W = torch.tensor([[1.0, 0.9], [0.5, 0.6], [0.2, -0.3]], dtype=torch.float64)
    x, s = torch.tensor([0.8, -0.2, 0.4], dtype=torch.float64), 0.5
    log_p = MultivariateNormal(torch.zeros(3).double(), W @ W.T + s**2 * torch.eye(3).double()).log_prob(x)
    gaps = {}
    for kind in ("full", "diagonal"):
        posterior = make_posterior(z_dim=2, **KINDS[kind])
        outputs = torch.zeros(posterior.num_outputs, dtype=torch.float64, requires_grad=True)

        def elbo(posterior=posterior, outputs=outputs):
            q = posterior(outputs)
            L = q.scale_tril if isinstance(q, FullNormal) else torch.diag(q.stddev)
            return exact_elbo(q, L @ L.T, x, W, s)

        optimizer = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def closure(optimizer=optimizer, elbo=elbo):
            optimizer.zero_grad()
            loss = -elbo()
            loss.backward()
            return loss

        optimizer.step(closure)
        gaps[kind] = (log_p - elbo()).item()
    assert gaps["full"] == pytest.approx(0, abs=1e-6)
    assert gaps["diagonal"] > 0.1


# All models


@pytest.mark.parametrize("name", ["VAE", "IWAE", "CVAE", "AffineVAE", "HierarchicalVAE"])
@kinds
def test_every_model_trains_and_is_used_with_every_posterior(make, binary, fit, name, kind):
    extra = {"label_weight": 0.1} if name == "AffineVAE" else {}
    model, (x, y) = make(name, **OPTIONS[kind], **extra), binary(6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, [(x, y)], max_epochs=2)
    unchanged = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert not [key for key in unchanged if key.startswith(("encoder", "z_posterior")) and not key.endswith("mask")
                and "order" not in key]  # fmt: skip
    labels = (y,) if name == "CVAE" else ()
    with evaluating(model):
        assert model.log_weights(x, 4, *labels).isfinite().all()
        for part in model.rate_distortion(x, 4, *labels):
            assert part.isfinite().all()
    d = model.latent_dim
    assert model.encode(x, *labels).shape == (6, d)
    assert model.reconstruct(x, *labels).shape == x.shape
    assert model.sample(3).shape == (3, 1, 8, 8)
    further = {"y0": y, "y1": y} if name == "CVAE" else {}
    assert model.interpolate(x, x, 4, **further).shape == (4, 6, 1, 8, 8)
    for mean, kl in model.latent_statistics(x, *labels):
        assert mean.shape == kl.shape
        assert kl.isfinite().all()


@new_kinds
def test_annealed_importance_sampling_can_start_at_the_posterior(make, squares, kind):
    model, x = near_prior(make("VAE", (1, 2, 2), z_dim=2, init="glorot", **OPTIONS[kind])), squares
    settings = Settings(chains=400, temperatures=8, leapfrogs=1, start="posterior")
    estimate = anneal(model, x, settings, [0.2] * 7)
    with evaluating(model):
        log_px_z = model.log_px(x, model.prior().sample((20_000, 1)))  # an estimate without the posterior
    log_px = log_px_z.logsumexp(0) - math.log(len(log_px_z))
    assert (estimate.log_px.float() - log_px).abs().mean() < 0.12  # noise of both estimates


@new_kinds
def test_densities_do_not_depend_on_autocast(kind):
    posterior = shaken(make_posterior(z_dim=4, **KINDS[kind]), 0.1)
    outputs = torch.randn(3, posterior.num_outputs)
    q = posterior(outputs)
    results = []
    for is_enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            z, log_q = q.rsample_and_log_prob((5,))
            results.append((z, log_q, q.log_prob(z), q.mean))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


@new_kinds
def test_a_model_in_16_bits_has_densities_in_32(make, binary, kind):
    model, (x, _) = make("VAE", z_dim=3, **OPTIONS[kind]).bfloat16(), binary(3)
    z, log_q = model.posterior(x).rsample_and_log_prob((2,))
    assert z.dtype == log_q.dtype == torch.float32
    assert model.log_weights(x, 2).isfinite().all()


def test_pseudo_inputs_of_a_flow_give_the_gaussians_that_it_transforms(make, binary):
    model, (x, _) = shaken(make("VAE", **OPTIONS["iaf"]), 0.1), binary(3)
    assert isinstance(model.encode_pseudo_inputs(x, None), DiagonalNormal)
    assert isinstance(make("VAE", posterior="full").encode_pseudo_inputs(x, None), FullNormal)
