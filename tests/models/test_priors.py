"""Priors p(z) and the distributions that they are made of."""

import copy
import math

import pytest
import torch
from exact_models import LinearGaussian
from model_helpers import is_of_images
from torch import nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from models import MODELS, VAE
from models.base import evaluating
from models.distributions.concatenation import Concatenation
from models.distributions.mixture import GaussianMixture
from models.estimators.ais import Settings, anneal, bidirectional
from models.priors import OPTION_DEFAULTS, PRIORS, make_prior

SMALL = {  # options of small priors
    "standard": {},
    "mixture": {"prior_components": 4},
    "vamp": {"prior_components": 6},
    "flow": {"prior_hidden": [16]},
}
PRIOR_OPTIONS = [(name, SMALL.get(name, {})) for name in PRIORS] + [("flow", {**SMALL["flow"], "prior_flow": "maf"})]
every_prior = pytest.mark.parametrize(("prior", "options"), PRIOR_OPTIONS)
other_priors = pytest.mark.parametrize(("prior", "options"), PRIOR_OPTIONS[1:])
hierarchies = pytest.mark.parametrize("name", ["HierarchicalVAE", "LadderVAE"])


def random_mixture(C, d, scale=0.5, full=False):
    logits, means = torch.randn(C), torch.randn(C, d)
    if not full:
        return GaussianMixture(logits, Independent(Normal(means, scale * (0.5 + torch.rand(C, d))), 1))
    L = scale * (torch.eye(d) + 0.5 * torch.randn(C, d, d).tril(-1)) * (0.5 + torch.rand(C, d, 1))
    return GaussianMixture(logits, MultivariateNormal(means, scale_tril=L))


def reference(mixture):
    """Return the same mixture of torch, in float64."""
    if mixture.is_diagonal:
        normal = mixture.components.base_dist
        components = Independent(Normal(normal.loc.double(), normal.scale.double()), 1)
    else:
        components = MultivariateNormal(
            mixture.components.loc.double(), scale_tril=mixture.components.scale_tril.double()
        )
    return MixtureSameFamily(Categorical(logits=mixture.log_weights.double()), components)


@pytest.fixture
def shaken_prior(make):
    """Return p(z) in two dimensions, far from N(0, I), of a model with the given prior."""

    def build(prior, options, **more):
        model = make("VAE", (1, 2, 2), z_dim=2, init="glorot", prior=prior, **options, **more)
        for parameter in model.z_prior.parameters():
            nn.init.normal_(parameter, std=0.15)
        nn.init.normal_(model.encoder.output.weight, std=0.3)
        return model.eval().requires_grad_(False).prior()

    return build


# The distributions


@pytest.mark.parametrize("full", [False, True])
def test_the_mixture_is_that_of_torch(full):
    mixture, z = random_mixture(5, 3, full=full), torch.randn(4, 6, 3)
    expected = reference(mixture)
    torch.testing.assert_close(mixture.log_prob(z), expected.log_prob(z.double()).float())
    torch.testing.assert_close(mixture.mean, expected.mean.float())
    torch.testing.assert_close(mixture.variance, expected.variance.float())
    expanded = mixture.expand((6,))
    torch.testing.assert_close(expanded.log_prob(z), mixture.log_prob(z), rtol=0, atol=0)
    assert expanded.sample((4,)).shape == (4, 6, 3)
    assert expanded.mean.shape == expanded.variance.shape == (6, 3)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.02, math.exp(-7)])
def test_the_density_is_exact_to_a_thousandth_of_a_nat(scale, full):
    mixture = random_mixture(50, 40, scale, full and scale < 1)
    z = mixture.sample((500,))
    expected = reference(mixture).log_prob(z.double())
    assert (mixture.log_prob(z).double() - expected).abs().max() < 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        assert (mixture.log_prob(z).double() - expected).abs().max() < 1e-3


@pytest.mark.parametrize("full", [False, True])
def test_the_gradient_of_the_density_is_that_of_torch(full):
    mixture, z = random_mixture(5, 3, full=full), torch.randn(20, 3, requires_grad=True)
    gradients = [
        torch.autograd.grad(density(z).sum(), z)[0]
        for density in (mixture.log_prob, lambda z: reference(mixture).log_prob(z.double()))
    ]
    torch.testing.assert_close(*gradients)


def test_no_tensor_holds_every_dimension_of_every_component_and_sample(monkeypatch):
    sizes = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(part.numel() for part in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(part))
            return out

    mixture, z = random_mixture(50, 40), torch.randn(3, 30, 40)
    with Recorder():
        mixture.log_prob(z)
    assert max(sizes) <= 2 * max(3 * 30 * 50, 50 * 40, 3 * 30 * 40)


def test_the_marginals_of_a_mixture_integrate_the_density():
    mixture = random_mixture(4, 2, full=True)
    line = torch.linspace(-12, 12, 1201)
    grid = torch.cartesian_prod(torch.tensor([0.3]), line)
    log_p = mixture.marginals().log_prob(torch.tensor([0.3, 0.3]))
    assert log_p.shape == (2,)
    integral = mixture.log_prob(grid).exp().sum() * (line[1] - line[0])
    assert log_p[0].exp().item() == pytest.approx(integral.item(), rel=1e-4)


def test_a_concatenation_is_the_product_of_its_parts():
    first, second = Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1), random_mixture(3, 4)
    both, z = Concatenation([first, second]), torch.randn(5, 6)
    torch.testing.assert_close(both.log_prob(z), first.log_prob(z[:, :2]) + second.log_prob(z[:, 2:]))
    expanded = both.expand((7,))
    assert expanded.sample((5,)).shape == (5, 7, 6)
    assert expanded.batch_shape == (7,)
    samples = both.sample((50_000,))
    torch.testing.assert_close(samples.mean(0), both.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(samples.var(0), both.variance, atol=0.1, rtol=0.03)


# Every prior of the registry


@every_prior
def test_the_density_integrates_to_1_and_samples_agree_with_it(shaken_prior, prior, options):
    p = shaken_prior(prior, options)
    width = 0.1
    line = torch.arange(-10, 10, width) + width / 2
    grid = torch.cartesian_prod(line, line)
    mass = p.log_prob(grid).double().exp() * width**2
    assert mass.sum().item() == pytest.approx(1, abs=0.01)
    # the share of samples in each cell of 1 x 1, against the integral over this cell
    n = 5000
    samples = p.sample((n,))
    assert samples.shape == (n, 2)

    def counted(z, weights):
        cell = (z.floor().clamp(-10, 9) + 10).long()
        return torch.zeros(400, dtype=torch.float64).index_add_(0, cell[:, 0] * 20 + cell[:, 1], weights)

    expected, found = counted(grid, mass), counted(samples, torch.full((n,), 1 / n, dtype=torch.float64))
    used = expected > 20 / n
    assert used.sum() > 3
    chi2 = (n * (found - expected)[used].square() / expected[used]).sum().item()
    assert chi2 < used.sum() + 5 * math.sqrt(2 * used.sum())


@every_prior
def test_the_distribution_keeps_the_contract(shaken_prior, prior, options):
    p = shaken_prior(prior, options)
    assert isinstance(p, Distribution)
    assert p.batch_shape == ()
    assert p.event_shape == (2,)
    z = torch.randn(3, 5, 2)
    assert p.log_prob(z).shape == (3, 5)
    expanded = p.expand((5,))
    assert expanded.batch_shape == (5,)
    assert expanded.sample((3,)).shape == (3, 5, 2)
    torch.testing.assert_close(expanded.log_prob(z), p.log_prob(z))
    samples = p.sample((5000,))
    torch.testing.assert_close(samples.mean(0), p.mean, atol=0.1, rtol=0.05)
    torch.testing.assert_close(samples.var(0), p.variance, atol=0.1, rtol=0.1)
    torch.testing.assert_close(expanded.mean, p.mean.expand(5, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert p.log_prob(z).dtype == torch.float32
        torch.testing.assert_close(p.log_prob(z), p.log_prob(z.double()).float(), atol=1e-4, rtol=1e-4)


@every_prior
@pytest.mark.parametrize(("name", "sizes"), [
    ("VAE", 3), ("CVAE", 3), ("HierarchicalVAE", [3, 2]), ("LadderVAE", [3, 2]),
])  # fmt: skip
def test_p_of_all_binary_images_sums_to_1(make, squares, name, sizes, prior, options):
    model = make(name, (1, 2, 2), z_dim=sizes, prior=prior, **options)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.4 if is_of_images(key) else 0.1)
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 4000, *model.condition_args(torch.full((16,), 2))).double().exp()  # (K, 16)
    total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
    assert error < 0.04
    assert abs(total - 1) < 4 * error


@every_prior
@pytest.mark.parametrize("dim", [1, 3])
def test_it_works_in_any_number_of_dimensions_and_channels(make, binary, prior, options, dim):
    model = make("VAE", (3, 5, 4), z_dim=dim, encoder="conv", decoder="conv", prior=prior, **options)
    model.loss(*binary(4, (3, 5, 4))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sample(3).shape == (3, 3, 5, 4)


def test_the_rate_of_a_mixture_of_one_component_is_that_of_a_gaussian(make, binary):
    model, (x, y) = make("VAE", z_dim=3, prior="mixture", prior_components=1), binary(4)
    nn.init.normal_(model.z_prior.raw_scales, std=0.5)
    with evaluating(model):
        q, p = model.posterior(x), model.prior()
        rate, _ = model.rate_distortion(x, 5000, y, q)
        normal = p.components.base_dist
        expected = kl_divergence(q, Independent(Normal(normal.loc[0], normal.scale[0]), 1))
    torch.testing.assert_close(rate, expected, atol=0.1, rtol=0.01)


@other_priors
def test_the_prior_is_computed_once_within_an_evaluation(make, binary, monkeypatch, prior, options):
    model, (x, y) = make("VAE", prior=prior, **options), binary(4)
    calls = []
    forward = model.z_prior.forward
    monkeypatch.setattr(model.z_prior, "forward", lambda **kwargs: calls.append(1) or forward(**kwargs))
    with evaluating(model):
        for _ in range(3):
            model.log_weights(x, 2)
    assert len(calls) == 1
    model.log_weights(x, 2)
    assert len(calls) == 2
    model.loss(x, y)
    assert len(calls) == 3


# Annealed importance sampling


class LinearMixture(LinearGaussian):
    """p(z) is a mixture of two Gaussians, p(x|z) = N(W z + b, s^2 I): p(x) is a mixture of Gaussians."""

    def prior(self):
        means = torch.tensor([[-1.0, 0.5], [1.5, -0.3]])
        scales = torch.tensor([[0.4, 0.9], [0.7, 0.3]])
        return GaussianMixture(torch.tensor([0.3, 0.7]).log(), Independent(Normal(means, scales), 1))

    def log_p(self, x):
        W, b, prior = self.W.double(), self.b.double(), self.prior()
        normal = prior.components.base_dist
        cov = (W * normal.scale.double().square()[:, None]) @ W.T + self.s**2 * torch.eye(4, dtype=torch.float64)
        components = MultivariateNormal(normal.loc.double() @ W.T + b, cov)
        return MixtureSameFamily(Categorical(logits=prior.log_weights.double()), components).log_prob(
            x.flatten(1).double()
        )


def test_ais_is_exact_under_a_mixture_prior():
    model = LinearMixture(exact=False)
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    settings = Settings(chains=500, temperatures=60, leapfrogs=3)
    estimate = anneal(model, x, settings, steps=[0.4] * 60)
    assert (estimate.log_px - model.log_p(x)).abs().max() < 0.05


@every_prior
@hierarchies
def test_ais_of_a_hierarchy_agrees_with_importance_sampling(make, squares, name, prior, options):
    model = make(name, (1, 2, 2), prior=prior, **options)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.4 if is_of_images(key) else 0.1)
    with evaluating(model):
        assert model.ais_prior().event_shape == (5,)
        assert model.ais_prior().sample((7,)).shape == (7, 5)
        log_w = model.log_weights(squares, 20_000).double()
    expected = log_w.logsumexp(0) - math.log(len(log_w))
    settings = Settings(chains=100, temperatures=10, leapfrogs=2)
    estimate = anneal(model, squares, settings, steps=[0.6] * 10)
    assert (estimate.log_px - expected).abs().mean() < 0.06  # noise of both estimates
    bounds = bidirectional(model, 10, settings, steps=[0.6] * 10)
    assert (bounds.upper - bounds.lower).abs().mean() < 0.1


@other_priors
@hierarchies
def test_the_latent_statistics_of_a_hierarchy_are_those_of_its_prior(make, binary, name, prior, options):
    model = make(name, prior=prior, **options)
    statistics = model.latent_statistics(binary(5)[0])
    assert [kl.shape for _, kl in statistics] == [(5, 3), (5, 2)]
    assert all(kl.isfinite().all() for _, kl in statistics)


# VampPrior


def test_the_vamp_prior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs(make):
    model, z = make("VAE", z_dim=3, prior="vamp", prior_components=5), torch.randn(7, 3)
    u = model.z_prior.pseudo_inputs
    assert u.shape == (5, 1, 8, 8)
    q = model.posterior(u)
    expected = q.log_prob(z[:, None]).logsumexp(1) - math.log(5)  # weights start equal
    torch.testing.assert_close(model.prior().log_prob(z), expected)


def test_a_validation_encodes_the_pseudo_inputs_once(make, binary, validate, fit):
    model = make("VAE", z_dim=3, prior="vamp", prior_components=5)
    batches, encoded, encode = [binary(4, seed=seed) for seed in range(3)], [], model.encode_pseudo_inputs
    model.encode_pseudo_inputs = lambda u, y: encoded.append(u) or encode(u, y)
    before = validate(model, batches)["val/bound"]
    assert len(encoded) == 1
    fit(model, batches)
    assert model.evaluation_cache is None
    assert validate(model, batches)["val/bound"] != before  # the prior is that of the new weights


def test_the_pseudo_inputs_of_a_hierarchy_pass_through_the_means_of_its_layers(make):
    model = make("HierarchicalVAE", z_dim=[4, 3, 2], prior="vamp", prior_components=5)
    mean = model.posterior(model.z_prior.pseudo_inputs).mean
    (mean, _), z = model.q_nets[0](mean).chunk(2, -1), torch.randn(7, 2)
    mu, raw = model.q_nets[1](mean).chunk(2, -1)
    q = Independent(Normal(mu, (7 * (raw / 7).tanh()).exp()), 1)
    torch.testing.assert_close(model.prior().log_prob(z), q.log_prob(z[:, None]).logsumexp(1) - math.log(5))


def test_the_pseudo_inputs_of_a_conditional_model_have_fixed_labels(make):
    model, z = make("CVAE", z_dim=3, prior="vamp", prior_components=5), torch.randn(7, 3)
    assert model.z_prior.labels.tolist() == [0, 1, 2, 0, 1]
    q = model.posterior(model.z_prior.pseudo_inputs, torch.tensor([0, 1, 2, 0, 1]))
    torch.testing.assert_close(model.prior().log_prob(z), q.log_prob(z[:, None]).logsumexp(1) - math.log(5))


@pytest.mark.parametrize("name", ["VAE", "IWAE", "CVAE", "AffineVAE", "HierarchicalVAE", "LadderVAE"])
def test_pseudo_inputs_and_weights_have_a_gradient(make, binary, name):
    # few dimensions, so that no component is so far from all samples that its weight underflows
    sizes = {"AffineVAE": {}, "HierarchicalVAE": {}, "LadderVAE": {}}.get(name, {"z_dim": 2})
    model = make(name, prior="vamp", prior_components=5, init="glorot", **sizes)
    model.loss(*binary(8)).backward()
    assert (model.z_prior.pixel_logits.grad != 0).any((1, 2, 3)).all()
    assert (model.z_prior.weight_logits.grad != 0).all()


@pytest.fixture
def digits(loaded_digits=[]):  # noqa: B006  # loaded once
    from datamodules import Digits

    if not loaded_digits:
        data = Digits()
        data.prepare_data()
        data.setup()
        loaded_digits.append(data)
    return loaded_digits[0]


@pytest.mark.parametrize("name", ["VAE", "CVAE"])
def test_pseudo_inputs_start_at_training_images(digits, name):
    torch.manual_seed(3)
    model = MODELS[name].for_data(digits, prior="vamp", prior_components=20, hidden=[4], z_dim=2)
    images = digits.train.x.float().div(255).clamp(0.01, 0.99).flatten(1)
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(model.z_prior.pseudo_inputs.detach().flatten(1), images, compute_mode=exact)
    assert distances.min(1).values.max() < 1e-4
    chosen = distances.argmin(1)
    assert len(chosen.unique()) == 20
    if name == "CVAE":
        assert (digits.train.y[chosen] == model.z_prior.labels).all()
    torch.manual_seed(3)
    again = MODELS[name].for_data(digits, prior="vamp", prior_components=20, hidden=[4], z_dim=2)
    assert (again.z_prior.pixel_logits == model.z_prior.pixel_logits).all()


def test_prior_inputs_noise_does_not_use_training_images(digits):
    losses = []
    for prior_inputs in ("images", "noise"):
        torch.manual_seed(3)
        options = {"prior": "vamp", "prior_components": 20, "hidden": [4], "z_dim": 2}
        model = VAE.for_data(digits, prior_inputs=prior_inputs, **options)
        x, y = digits.images("train", 8)
        torch.manual_seed(4)
        losses.append(model.loss(x.round(), y).item())
    assert 0.3 < model.z_prior.pseudo_inputs.mean() < 0.7
    assert losses[0] != losses[1]


def test_more_pseudo_inputs_than_training_images_are_refused(digits):
    with pytest.raises(ValueError, match=r"prior_components 2000 is more than the \d+ training images"):
        VAE.for_data(digits, prior="vamp", prior_components=2000, hidden=[4])
    assert VAE.for_data(digits, prior="vamp", prior_components=2000, prior_inputs="noise", hidden=[4])


# Options


@pytest.mark.parametrize(("options", "sentence"), [
    ({"prior": "normal"}, "Unknown prior 'normal': choose one of standard, mixture, vamp, flow"),
    ({"prior": "mixture", "prior_components": 0}, "prior_components must be at least 1; got 0"),
    ({"prior": "vamp", "prior_components": -1}, "prior_components must be at least 1; got -1"),
    ({"prior": "vamp", "prior_inputs": "zeros"}, "Unknown prior_inputs 'zeros': choose one of images, noise"),
    ({"prior": "flow", "prior_flow": "iaf"}, "Unknown prior_flow 'iaf': choose one of nsf, maf"),
    ({"prior": "flow", "prior_transforms": 0}, "prior_transforms must be at least 1; got 0"),
    ({"prior": "flow", "prior_hidden": [0]}, "prior_hidden must hold positive sizes"),
    ({"prior_components": 3}, "prior_components is only for prior mixture or vamp: remove it for prior standard"),
    ({"prior": "flow", "prior_components": 3}, "prior_components is only for prior mixture or vamp"),
    ({"prior": "mixture", "prior_inputs": "noise"}, "prior_inputs is only for prior vamp: remove it for prior mixture"),
    ({"prior": "vamp", "prior_flow": "nsf"}, "prior_flow is only for prior flow: remove it for prior vamp"),
    ({"prior_transforms": 2}, "prior_transforms is only for prior flow"),
    ({"prior_hidden": [8]}, "prior_hidden is only for prior flow"),
    ({"prior": "vamp", "batch_norm": True}, "Prior vamp cannot be combined with batch_norm"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["VAE", "HierarchicalVAE"])
def test_invalid_options_are_refused(make, name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(name, **options)


def test_every_option_belongs_to_a_prior():
    owned = {option for prior in PRIORS.values() for option in prior.options}
    assert owned == set(OPTION_DEFAULTS)


# Copies, training and resuming


@other_priors
def test_a_checkpoint_restores_the_prior_without_data(make, tmp_path, prior, options):
    model, z = make("CVAE", z_dim=3, prior=prior, **options), torch.randn(5, 3)
    with torch.no_grad():
        for parameter in model.z_prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if prior == "vamp":
            model.z_prior.labels.fill_(2)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = make("CVAE", z_dim=3, prior=prior, **options)
    assert (again.prior().log_prob(z) != model.prior().log_prob(z)).all()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.prior().log_prob(z) == model.prior().log_prob(z)).all()
    assert (copy.deepcopy(model).prior().log_prob(z) == model.prior().log_prob(z)).all()
    wide = copy.deepcopy(model).double().prior().log_prob(z.double())
    torch.testing.assert_close(wide.float(), model.prior().log_prob(z), rtol=1e-4, atol=1e-4)


def test_the_standard_prior_adds_no_parameters_and_draws_no_noise():
    torch.manual_seed(0)
    prior = make_prior("standard", 3, (1, 8, 8), **OPTION_DEFAULTS)
    assert not prior.state_dict()
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert drawn == torch.rand(())


@other_priors
def test_the_prior_is_trained(fit, make, binary, prior, options):
    model = make("VAE", z_dim=2, prior=prior, lr=0.01, **options)
    before = copy.deepcopy(model.z_prior.state_dict())
    fit(model, [binary(8), binary(8, seed=2)], max_epochs=2)
    changed = [
        name for name, _ in model.z_prior.named_parameters() if (model.z_prior.state_dict()[name] != before[name]).any()
    ]
    assert len(changed) == len(list(model.z_prior.parameters()))
