"""models/implicit.py: the density for AIS against exact values, validation, and the uses of a trained generator."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Uniform

from evaluation.metrics import mean_loss
from models import GMMN, evaluating
from models.distributions import standard_normal
from models.estimators.ais import Settings, anneal, bidirectional, tune
from models.implicit import DEFAULT_SCALE, ImplicitModel
from models.mmd import mmd2, widths_for

SHAPE = (1, 2, 3)
PIXELS = math.prod(SHAPE)


class Linear(ImplicitModel):
    """x = b + W z + sigma noise with z ~ N(0, I): x ~ N(b, W W' + sigma^2 I)."""

    def __init__(self, image_shape, z_dim=3, **kwargs):
        super().__init__(**kwargs)
        self.weight = torch.nn.Parameter(0.12 * torch.randn(math.prod(image_shape), z_dim))

    def prior(self):
        return standard_normal(self.latent_dim, like=self.weight)

    def generate(self, z):
        return (0.5 + z @ self.weight.T).unflatten(-1, tuple(self.hparams.image_shape))

    def loss(self, x, y):
        return self.weight.sum()

    def exact(self):
        scale = self.observation_scale
        covariance = self.weight @ self.weight.T + scale**2 * torch.eye(len(self.weight))
        return MultivariateNormal(torch.full((len(self.weight),), 0.5), covariance)


class UniformLinear(Linear):
    """The same with z ~ U(-1, 1)^d."""

    latents_from_noise = GMMN.latents_from_noise

    def prior(self):
        one = torch.ones(self.latent_dim)
        return Independent(Uniform(-one, one), 1)


def images_of(model, n, seed):
    with evaluating(model, seed):
        return model.ais_simulate(model.ais_prior().sample((n,))).clamp(0, 1)


@pytest.mark.parametrize("scale", [DEFAULT_SCALE, 0.03])
def test_ais_is_within_005_nats_of_the_exact_log_p_of_a_linear_generator(scale):
    model, settings = Linear(SHAPE, z_dim=2), Settings(chains=16, temperatures=400, leapfrogs=5)
    model.observation_scale = scale
    x, pilot = images_of(model, 40, 1), images_of(model, 10, 2)
    with torch.no_grad():
        exact = model.exact().log_prob(x.flatten(1))
    found = anneal(model, x, settings, tune(model, pilot, settings)).log_px
    error = found - exact
    assert error.mean().abs() < 0.05
    assert error.abs().max() < 1  # of 16 chains for a single image


def test_bdmc_bounds_contain_the_exact_log_p():
    model, settings = Linear(SHAPE, z_dim=2), Settings(chains=8, temperatures=200, leapfrogs=5)
    steps = tune(model, images_of(model, 10, 2), settings)
    bounds = bidirectional(model, 60, settings, steps)
    with evaluating(model, seed=0):
        x = model.ais_simulate(model.ais_prior().sample((60,)))
        truth = model.exact().log_prob(x.flatten(1)).double()
    assert -0.1 < (bounds.lower - truth).mean() < 0.02
    assert -0.02 < (bounds.upper - truth).mean() < 0.1


def integrated(model, x, n=20_001):
    """log p(x) with z ~ U(-1, 1) in one dimension, by the midpoint rule."""
    z = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1
    mean = 0.5 + z[:, None] * model.weight[:, 0].detach().double()  # (n, P)
    log_p = torch.distributions.Normal(mean[:, None], model.observation_scale).log_prob(x.flatten(1).double()).sum(-1)
    return log_p.logsumexp(0) - math.log(n)


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_ais_with_a_uniform_prior_agrees_with_numerical_integration(size):
    """It holds for images whose latent is near the boundary of the prior, too."""
    # with 8 chains, three of eight seeds have an image that is more than 0.4 off; with 32 none is more than 0.24 off
    model, settings = UniformLinear(SHAPE, z_dim=1), Settings(chains=32, temperatures=300, leapfrogs=5)
    with torch.no_grad():
        model.weight.mul_(size)
    x, pilot = images_of(model, 40, 1), images_of(model, 10, 2)
    found = anneal(model, x, settings, tune(model, pilot, settings)).log_px
    error = found - integrated(model, x)
    assert error.mean().abs() < 0.05
    assert error.abs().max() < 0.4


def test_latents_from_noise_have_the_distribution_of_the_prior():
    model, n = GMMN((1, 4, 4), z_dim=3, hidden=[4]), 50_000
    z, drawn = model.latents_from_noise(model.ais_prior().sample((n,))), model.prior().sample((n,))
    for values in (z, drawn):
        assert values.shape == (n, 3)
        assert values.abs().max() <= 1
        ordered = values.sort(0).values
        expected = torch.linspace(-1, 1, n)[:, None]
        assert (ordered - expected).abs().max() < 2 * 1.95 / n**0.5  # Kolmogorov-Smirnov at 0.1 %
    assert abs(torch.corrcoef(z.T) - torch.eye(3)).max() < 0.02


def test_latents_from_noise_are_precise_and_have_gradients():
    """2 Phi(e) - 1 computed from Phi(e) would lose all digits near 0."""
    e = torch.tensor([-6.0, -1.0, -1e-6, 0.0, 1e-6, 1e-20, 1.0, 6.0], requires_grad=True)
    z = GMMN((1, 4, 4), hidden=[4]).latents_from_noise(e)
    exact = torch.tensor([math.erf(value / math.sqrt(2)) for value in e.tolist()])
    torch.testing.assert_close(z, exact, rtol=1e-6, atol=0)
    z.sum().backward()
    torch.testing.assert_close(e.grad, math.sqrt(2 / math.pi) * torch.exp(-(e.detach() ** 2) / 2))


def test_latents_are_the_noise_by_default():
    e = torch.randn(4, 3)
    assert Linear(SHAPE).latents_from_noise(e) is e


def test_the_density_is_gaussian_and_normalised():
    model, e = Linear(SHAPE), torch.randn(5, 3)
    x = torch.rand(5, *SHAPE)
    expected = -((x - model.generate(e)) ** 2).flatten(1).sum(1) / (2 * DEFAULT_SCALE**2)
    expected -= PIXELS * math.log(DEFAULT_SCALE * math.sqrt(2 * math.pi))
    torch.testing.assert_close(model.ais_log_px(x, e), expected)
    assert model.ais_log_px(x, torch.randn(7, 5, 3)).shape == (7, 5)
    many = model.ais_simulate(e[:1].expand(20_000, -1))
    assert abs((many - model.generate(e[:1])).std().item() - DEFAULT_SCALE) < 0.002


def test_validation_is_the_unbiased_mmd_with_the_widths_of_the_data():
    model, x = Linear(SHAPE), torch.rand(30, *SHAPE)
    model.set_widths(x)
    torch.testing.assert_close(model.mmd_widths, widths_for(x))
    torch.manual_seed(5)
    found = model.validation_metrics(x, None)
    torch.manual_seed(5)
    samples = model.generate(model.prior().sample((30,)))
    assert found["loss"].shape == found["bound"].shape == (30,)
    torch.testing.assert_close(found["loss"][0], mmd2(x, samples, widths_for(x), unbiased=True))
    assert torch.equal(found["bound"], -found["loss"])


def test_a_batch_of_one_image_has_no_value(validate):
    model, x = Linear(SHAPE), torch.rand(9, *SHAPE)
    assert model.validation_metrics(x[:1], None)["bound"].shape == (0,)
    y = torch.zeros(9)
    torch.manual_seed(0)
    alone = validate(model, [(x[:8], y[:8])])
    torch.manual_seed(0)
    with_rest = validate(model, [(x[:8], y[:8]), (x[8:], y[8:])])
    assert alone["val/bound"].isfinite()
    assert alone["val/bound"] == with_rest["val/bound"]


class Data:
    protocol = "grey"

    def __init__(self, batch_size=10, val=10):
        self.batch_size, self.val = batch_size, type("Split", (), {"y": torch.zeros(val)})


def test_data_that_are_too_few_or_binarized_are_refused():
    model = Linear(SHAPE)
    model.check_data(Data())
    for data in (Data(batch_size=1), Data(val=1)):
        with pytest.raises(
            ValueError, match=r"^Linear compares batches of images with samples, .* at least 2 images: "
        ):
            model.check_data(data)
    for protocol in ("dynamic", "fixed", "threshold"):
        with pytest.raises(
            ValueError, match=r"^Linear generates grey images .* binarized .*: use --data.binarization g"
        ):
            model.check_protocol(protocol)
    with pytest.raises(ValueError, match=r"^Linear generates continuous pixels .*: use --data\.binarization grey\.$"):
        model.check_protocol("levels")
    with pytest.raises(ValueError, match=r"^Linear generates grey images .*: choose data with grey values\.$"):
        model.check_protocol("larochelle")


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolations_of_samples_end_at_samples_of_the_prior(path):
    model = UniformLinear(SHAPE, z_dim=2)
    torch.manual_seed(3)
    images = model.interpolate_samples(4, steps=5, path=path)
    assert images.shape == (5, 4, *SHAPE)
    torch.manual_seed(3)
    e = model.ais_prior().sample((2, 4))
    for end, noise in ((images[0], e[0]), (images[-1], e[1])):
        torch.testing.assert_close(end, model.generate(model.latents_from_noise(noise)))
    assert not images.requires_grad
    with pytest.raises(ValueError, match="Unknown path"):
        model.interpolate_samples(4, path="curved")


def test_samples_and_decoded_latents_have_no_gradient():
    model = Linear(SHAPE)
    assert model.sample(6).shape == (6, *SHAPE)
    assert not model.sample(6).requires_grad
    z = torch.randn(2, 5, 3)
    torch.testing.assert_close(model.decode(z), model.generate(z).detach())
    with pytest.raises(ValueError, match="n must be"):
        model.sample(0.5)


def test_what_a_subclass_must_define_is_named():
    class Incomplete(ImplicitModel):
        def __init__(self, image_shape):
            super().__init__()

        def loss(self, x, y):
            return x.sum()

        def prior(self):
            return None

    with pytest.raises(ValueError, match=r"Incomplete defines no generate\(\): every ImplicitModel needs it\."):
        Incomplete(SHAPE).check_definition()
    Linear(SHAPE).check_definition()
    assert not Linear.can("encode")
    assert not Linear.can("log_weights")


def test_the_evaluated_mmd_does_not_depend_on_the_order_of_the_images():
    """Batches of images that are alike would differ from samples of the same distribution."""
    model = Linear(SHAPE)
    x = model.sample(2000)
    x = x[x.flatten(1).sum(1).argsort()]
    model.set_widths(x)
    with evaluating(model):
        in_order = torch.stack([model.validation_metrics(part, None)["loss"][0] for part in x.split(500)]).mean()
    found = mean_loss(model, x, torch.zeros(2000))["loss"]
    assert abs(found) < 0.02 < 0.1 < in_order
