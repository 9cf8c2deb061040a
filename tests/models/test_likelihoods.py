"""Pixel likelihoods in models: shapes, options, protocols, initial mean, exact p(x), checkpoints."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models import MODELS, from_checkpoint
from models.base import evaluating
from models.estimators.ais import Settings, anneal, tune
from models.likelihoods import LIKELIHOODS, OPTION_DEFAULTS, make_likelihood
from models.networks import DECODERS

LEVELS = ("discretized_logistic", "discretized_logistic_mixture")
VARIANTS = [
    ("bernoulli", {}),
    ("gaussian", {}),
    ("gaussian", {"learn_scale": True}),
    ("continuous_bernoulli", {}),
    ("discretized_logistic", {}),
    ("discretized_logistic", {"logistic_scale": "shared"}),
    ("discretized_logistic", {"logistic_scale": 0.05}),
    ("discretized_logistic_mixture", {}),
    ("discretized_logistic_mixture", {"logistic_components": 3}),
]
every_variant = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda part: part if isinstance(part, str) else "-".join(map(str, part.values()))
)
level_variants = pytest.mark.parametrize(("name", "options"), VARIANTS[4:])
WITH_LIKELIHOODS = [
    name
    for name, model in MODELS.items()
    if hasattr(model, "log_weights") and name != "M1M2"  # has that of its M1
]


def likelihood(name, image_shape=(1, 8, 8), **options):
    return make_likelihood(name, image_shape, **OPTION_DEFAULTS | options)


def grey_images(n, image_shape=(1, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *image_shape), generator=generator) / 255


def images_for(name, n, image_shape=(1, 8, 8)):
    x = grey_images(n, image_shape)
    return x.round() if name == "bernoulli" else x


@pytest.mark.parametrize("channels", [1, 3])
@every_variant
def test_shapes_mean_and_samples(name, options, channels):
    shape = (channels, 4, 6)
    p_of = likelihood(name, shape, **options)
    outputs = torch.randn(5, 2, p_of.output_channels, *shape[1:])
    p = p_of(outputs)
    assert p.batch_shape == (5, 2)
    assert p.log_prob(images_for(name, 2, shape)).shape == (5, 2)
    assert p.mean.shape == p.sample().shape == (5, 2, *shape)
    assert ((p.mean >= 0) & (p.mean <= 1)).all()
    torch.manual_seed(0)
    samples = p.sample((4000,))
    error = 6 * samples.std(0) / math.sqrt(len(samples)) + 1e-6
    assert ((samples.mean(0) - p.mean).abs() < error).all()


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_variant
def test_values_and_gradients_are_finite(name, options, dtype, size):
    p_of = likelihood(name, (3, 4, 4), **options)
    torch.manual_seed(0)
    outputs = (size * torch.randn(6, p_of.output_channels, 4, 4)).to(dtype).requires_grad_()
    log_p = p_of(outputs).log_prob(images_for(name, 6, (3, 4, 4)))
    assert log_p.dtype == torch.float32
    assert log_p.isfinite().all()
    (gradient,) = torch.autograd.grad(log_p.sum(), outputs)
    assert gradient.isfinite().all()
    assert p_of(outputs).mean.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1.0, 1e4])
@level_variants
def test_the_levels_of_a_pixel_have_probabilities_that_sum_to_1(name, options, size, channels):
    p_of = likelihood(name, (channels, 1, 1), **options)
    torch.manual_seed(1)
    p = p_of(size * torch.randn(20, p_of.output_channels, 1, 1)).base_dist  # (20, C, 1, 1)
    levels = (torch.arange(256) / 255).view(-1, 1, 1, 1, 1)
    total = p.log_prob(levels.expand(-1, 20, channels, 1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


def test_the_scale_of_a_logistic():
    outputs = torch.randn(4, 1, 8, 8)
    fixed = likelihood("discretized_logistic", logistic_scale=0.03)
    assert fixed(outputs).base_dist.log_scale.exp().item() == pytest.approx(0.03, rel=1e-5)
    assert not list(fixed.parameters())
    shared = likelihood("discretized_logistic", logistic_scale="shared")
    assert isinstance(shared.raw_scale, nn.Parameter)
    per_image = likelihood("discretized_logistic", logistic_scale="per_image")
    outputs = torch.randn(4, 2, 8, 8)
    log_scale = per_image(outputs).base_dist.log_scale
    assert log_scale.shape == (4, 1, 1, 1)
    torch.testing.assert_close(log_scale.flatten(), 8 * (outputs[:, 1].mean((1, 2)) / 8).tanh())


@pytest.mark.parametrize(("name", "options", "sentence"), [
    ("discretized_logistic", {"scale": 0.1}, "are only for likelihood gaussian: remove them for discretized_logistic"),
    ("continuous_bernoulli", {"learn_scale": True}, "are only for likelihood gaussian"),
    ("gaussian", {"logistic_scale": 0.1}, "is only for likelihood discretized_logistic: remove it for gaussian"),
    ("discretized_logistic_mixture", {"logistic_scale": "shared"}, "logistic_scale is only for"),
    ("discretized_logistic", {"logistic_components": 5}, "logistic_components is only for"),
    ("discretized_logistic_mixture", {"logistic_components": 1}, "must be at least 2; got 1"),
    ("discretized_logistic", {"logistic_scale": "wide"}, "must be per_image, shared or a number; got wide"),
    ("discretized_logistic", {"logistic_scale": 0.0}, "must be between 0.001"),
    ("discretized_logistic", {"logistic_scale": math.nan}, "must be between 0.001"),
    ("logistic", {}, "Unknown likelihood 'logistic': choose one of bernoulli, gaussian, continuous_bernoulli, discr"),
])  # fmt: skip
def test_options_without_effect_or_out_of_range_are_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        likelihood(name, **options)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_protocols(make, name):
    model = make("VAE", likelihood=name)
    for protocol in ("dynamic", "fixed", "threshold", "larochelle", "grey", "levels"):
        if protocol in LIKELIHOODS[name].protocols:
            model.check_protocol(protocol)
        else:
            is_stored_binary = protocol == "larochelle"  # such data sets have no option binarization
            remedy = "choose data with grey values" if is_stored_binary else r"use --data\.binarization \w+"
            sentence = rf"^A {name} likelihood is not defined for the protocol {protocol}: {remedy}.*\.$"
            with pytest.raises(ValueError, match=sentence) as error:
                model.check_protocol(protocol)
            others = [other for other, kind in LIKELIHOODS.items() if protocol in kind.protocols]
            assert str(error.value).endswith(f"--model.likelihood {' or '.join(others)}.")


@pytest.mark.parametrize("name", LEVELS)
def test_values_between_two_levels_are_refused(make, name):
    model, x = make("VAE", likelihood=name), grey_images(3)
    assert model.log_weights(x, 2).shape == (2, 3)
    bytes_of_x = (x * 255).round().to(torch.uint8)
    torch.manual_seed(0)
    expected = model.log_weights(x, 2)
    torch.manual_seed(0)
    assert torch.equal(model.log_weights(bytes_of_x, 2), expected)
    with pytest.raises(ValueError, match=r"only defined for the 256 grey levels .*: pass them as uint8, or round them"):
        model.log_weights(x * 0.999, 2)


@pytest.mark.parametrize("decoder", DECODERS)
@every_variant
def test_training_starts_at_the_mean_image(make, name, options, decoder):
    model = make("VAE", (3, 8, 8), likelihood=name, decoder=decoder, hidden=None, init="glorot", **options)
    mean = torch.linspace(0.2, 0.8, 3).view(3, 1, 1).expand(3, 8, 8)
    model.start_at_mean(mean)
    with torch.no_grad():
        model.decoder.output.weight.zero_()
    torch.testing.assert_close(model.decode(torch.zeros(1, 20))[0], mean, rtol=0, atol=0.03)


@pytest.mark.parametrize("name", WITH_LIKELIHOODS)
@pytest.mark.parametrize("likelihood_name", [name for name in LIKELIHOODS if name not in ("bernoulli", "gaussian")])
def test_every_model_takes_every_likelihood(make, fit, name, likelihood_name):
    model = make(name, likelihood=likelihood_name)
    x, y = grey_images(6), torch.arange(6) % 3
    before = [parameter.detach().clone() for parameter in model.decoder.parameters()]
    fit(model, [(x, y)])
    assert any(not torch.equal(old, new) for old, new in zip(before, model.decoder.parameters(), strict=True))
    model.eval()
    labels = model.condition_args(y)
    assert model.log_weights(x, 3, *labels).isfinite().all()
    assert model.sample(4).shape == (4, 1, 8, 8)
    reconstructed = model.reconstruct(x, *labels)
    assert reconstructed.shape == x.shape
    assert ((reconstructed >= 0) & (reconstructed <= 1)).all()
    restored = from_checkpoint(
        {"model": name, "hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    ).eval()
    weights = []
    for one in (model, restored):
        with evaluating(one, seed=2):
            weights.append(one.log_weights(x, 3, *labels))
    assert torch.equal(*weights)


def exact_log_px(model, x, size=1201, limit=8.0):
    """Return log p(x) of a model with one latent by the trapezoidal rule, in float64."""
    z = torch.linspace(-limit, limit, size, dtype=torch.float64)
    with torch.no_grad():
        log_joint = model.px(z.view(-1, 1, 1).float()).log_prob(x).double()  # (size, B)
    log_joint = log_joint - z[:, None].square() / 2 - math.log(2 * math.pi) / 2
    return log_joint.logsumexp(0) + math.log(2 * limit / (size - 1))


def model_of_one_latent(make, name, options):
    """Return a model with a wide posterior and a decoder that depends on the latent, and images from it."""
    torch.manual_seed(3)
    model = make("VAE", (1, 3, 3), z_dim=1, likelihood=name, **options).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            nn.init.normal_(parameter, std=0.3)
        model.encoder.output.bias[1] = 0.0
    return model, model.px(torch.randn(5, 1)).sample().clamp(0, 1)


@every_variant
def test_bounds_and_estimates_against_the_exact_log_px(make, name, options):
    model, x = model_of_one_latent(make, name, options)
    exact = exact_log_px(model, x)
    with evaluating(model, seed=1):
        log_w = model.log_weights(x, 4000).double()
        rate, distortion = model.rate_distortion(x, 2000)
    assert ((-rate - distortion).double() < exact + 0.02).all()
    torch.testing.assert_close(log_w.logsumexp(0) - math.log(len(log_w)), exact, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["continuous_bernoulli", "discretized_logistic"])
def test_annealed_importance_sampling_against_the_exact_log_px(make, name):
    model, x = model_of_one_latent(make, name, {})
    settings = Settings(chains=40, temperatures=40, leapfrogs=4)
    found = anneal(model, x, settings, tune(model, x, settings)).log_px
    torch.testing.assert_close(found, exact_log_px(model, x), rtol=0, atol=0.3)


@every_variant
def test_a_model_without_latents_is_fitted_to_the_training_images(name, options):
    torch.manual_seed(0)
    x = (0.5 + 0.05 * torch.randn(200, 1, 8, 8)).clamp(0, 1).mul(255).round() / 255
    x = x.round() if name == "bernoulli" else x
    p_of = likelihood(name, **options)
    mean = x.mean(0).clamp(0.001, 0.999)
    with torch.no_grad():
        log_p = p_of.without_latents(mean, x).log_prob(x).mean()
    assert log_p.isfinite()
    if name in LEVELS and options != {"logistic_scale": 0.05}:
        best = max(
            likelihood("discretized_logistic", logistic_scale=scale)(mean.logit()).log_prob(x).mean().item()
            for scale in (0.01, 0.02, 0.03, 0.04, 0.06)
        )
        assert log_p.item() == pytest.approx(best, abs=4)


@pytest.mark.parametrize(("options", "start"), [
    ({"learn_scale": True}, 0.2),
    ({"learn_scale": True, "scale": 0.05}, 0.05),  # a smaller one was chosen
    ({"scale": 0.4}, 0.4),  # not learned
])  # fmt: skip
@pytest.mark.parametrize("kind", ["VAE", "M2"])
def test_a_learned_scale_starts_at_the_deviation_from_the_mean_image(make, kind, options, start):
    model = make(kind, likelihood="gaussian", **options)
    model.start_at_data(SimpleNamespace(train_deviation=lambda: 0.2))
    assert model.pixel_likelihood.sigma == pytest.approx(start)


def test_a_learned_scale_starts_at_the_best_scale_of_the_mean_image():
    torch.manual_seed(0)
    x = torch.rand(50, 1, 8, 8)
    mean, pixels = x.mean(0), likelihood("gaussian", learn_scale=True)
    pixels.start_at_deviation((x - mean).square().mean().sqrt().item())
    log_p = pixels(mean.logit()).log_prob(x).sum()
    (slope,) = torch.autograd.grad(log_p, pixels.raw_scale)
    assert log_p.item() > likelihood("gaussian", scale=pixels.sigma * 1.1)(mean.logit()).log_prob(x).sum().item()
    assert abs(slope.item()) < 1e-2 * x.numel()


@pytest.mark.parametrize(("scale", "start"), [(0.5, 0.01), (0.005, 0.005)])
def test_a_learned_scale_of_constant_images_starts_above_a_grey_level(scale, start):
    pixels = likelihood("gaussian", learn_scale=True, scale=scale)
    pixels.start_at_deviation(0.0)
    assert pixels.sigma == pytest.approx(start)


@pytest.mark.slow
@every_variant
def test_the_compiled_loss_is_the_loss(make, name, options):
    model, x, y = make("VAE", likelihood=name, **options), images_for(name, 5), torch.zeros(5, dtype=torch.int64)
    compiled = torch.compile(model.loss, options={"fallback_random": True})
    losses = []
    for loss in (model.loss, compiled):
        torch.manual_seed(0)
        losses.append(loss(x, y))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-3)
