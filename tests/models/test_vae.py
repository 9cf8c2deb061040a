import inspect
import math
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from model_helpers import is_of_images
from torch import nn
from torch.distributions import Bernoulli, Normal

from models import DRAW, MODELS, VAE, AffineVAE
from models.base import Model, evaluating
from models.networks import DECODERS, ENCODERS
from models.networks.coordinate import CoordinateDecoder
from models.objectives import elbo, iwae

DENSITIES = [name for name, model in MODELS.items() if hasattr(model, "log_weights")]
WITH_CLASSES = ("M2", "M1M2", "ADGM", "SDGM")  # which sum over an unknown label
every_density = pytest.mark.parametrize("name", DENSITIES)
# models with one z per image and the options of a VAE; conditional ones get labels
densities = pytest.mark.parametrize("name", [name for name in DENSITIES if name not in WITH_CLASSES])
# models that need only images
unlabelled = pytest.mark.parametrize("name", ["VAE", "IWAE", "AffineVAE", "HierarchicalVAE", "DRAW"])
GAUSSIAN = {"likelihood": "gaussian"}
LOGISTIC = {"likelihood": "discretized_logistic"}
MIXTURE = {"likelihood": "discretized_logistic_mixture"}
GROUPS = {"objective": "miwae", "num_samples": 4}
CIWAE = {"objective": "ciwae", "num_samples": 4}
FLOW = {"posterior": "flow"}
LADDER = {"encoder": "conv"}
FREE_BITS = {"objective": "elbo", "free_bits": 1000.0}


def under(seed, f, *args):
    torch.manual_seed(seed)
    return f(*args)


def certain(model):
    """Return the model with a posterior of almost zero width, so that noise has no effect."""
    if isinstance(model, DRAW):
        lasts = [model.posterior_layer]
    else:
        lasts = getattr(model.encoder, "heads", None) or [model.encoder.rest[-1]]
    for last in lasts:
        nn.init.constant_(last.bias[last.bias.numel() // 2 :].detach(), -1e3)
    return model


# The loss


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("options", [
    {}, {"beta": 0.5}, {"beta": 0.0}, {"objective": "iwae"}, {"scale": 0.1, **GAUSSIAN},
    {"learn_scale": True, **GAUSSIAN},
])  # fmt: skip
def test_the_loss_against_torch_distributions_under_the_same_noise(make, binary, K, options):
    model, (x, y) = make("VAE", z_dim=4, activation="tanh", num_samples=K, **options), binary(6)
    mu, raw = model.encoder(x).split(4, -1)
    sigma = (7 * (raw / 7).tanh()).exp()
    eps = under(3, torch.empty(K, 6, 4).normal_)
    z = mu + sigma * eps
    logits = torch.stack([model.decoder(z_k) for z_k in z])  # (K, B, C, H, W)
    scale = options.get("scale", 0.5)
    p = Normal(logits.sigmoid(), scale) if "likelihood" in options else Bernoulli(logits=logits)
    log_px_z = p.log_prob(x).sum((2, 3, 4))  # (K, B)
    if options.get("objective") == "iwae":
        log_ratio = (Normal(0.0, 1.0).log_prob(z) - Normal(mu, sigma).log_prob(z)).sum(-1)
        expected = -(log_px_z + log_ratio).exp().mean(0).log().mean()
    else:
        kl = -0.5 * (1 + 2 * sigma.log() - mu**2 - sigma**2).sum(-1)  # eq. 10
        expected = (options.get("beta", 1.0) * kl - log_px_z.mean(0)).mean()
    loss, parameters = under(3, model.loss, x, y), list(model.parameters())
    torch.testing.assert_close(loss, expected)
    if "learn_scale" not in options:  # the computation above uses a fixed scale
        gradients = [torch.autograd.grad(value, parameters) for value in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5)])
@pytest.mark.parametrize("name", [name for name in DENSITIES if name not in (*WITH_CLASSES, "LadderVAE")])
def test_zero_weights_and_binary_images_cost_ln_2_per_pixel(make, binary, name, shape):
    model = make(name, image_shape=shape)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert model.loss(*binary(6, shape)).item() == pytest.approx(math.prod(shape) * math.log(2), rel=1e-5)


@densities
def test_the_loss_does_not_depend_on_the_batch_size(make, binary, name):
    model, (x, y) = make(name), binary(4)
    for parameter in model.parameters():  # the decoder is constant, so the only noise is that of the posterior
        nn.init.zeros_(parameter)
    certain(model)
    nn.init.normal_(model.first_canvas if name == "DRAW" else model.decoder.output.bias)
    torch.testing.assert_close(model.loss(x.repeat(5, 1, 1, 1), y.repeat(5)), model.loss(x, y), rtol=0.1, atol=0)


def test_the_loss_of_a_batch_is_the_mean_over_its_images(make, binary):
    model, (x, y) = certain(make("VAE")), binary(6)
    each = torch.stack([model.loss(x[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(model.loss(x, y), each.mean(), rtol=1e-3, atol=0)


# option -> the options of two models that differ in this option only
KNOBS = {
    "z_dim": ({}, {"z_dim": 5}),
    "hidden": ({}, {"hidden": [9]}),
    "activation": ({"activation": "relu"}, {"activation": "tanh"}),
    "encoder": ({}, {"encoder": "conv"}),
    "decoder": ({}, {"decoder": "conv"}),
    "batch_norm": ({}, {"batch_norm": True}),
    "init": ({}, {"init": "glorot"}),
    "likelihood": ({}, GAUSSIAN),
    "scale": (GAUSSIAN, {"scale": 0.3, **GAUSSIAN}),
    "logistic_scale": (LOGISTIC, {"logistic_scale": 0.3, **LOGISTIC}),
    "logistic_components": (MIXTURE, {"logistic_components": 3, **MIXTURE}),
    "objective": ({"objective": "elbo", "num_samples": 3}, {"objective": "iwae", "num_samples": 3}),
    "num_samples": ({}, {"num_samples": 3}),
    "labelled_weight": ({}, {"labelled_weight": 1.0}),
    "num_groups": ({**GROUPS, "num_groups": 2}, {**GROUPS, "num_groups": 4}),
    "ciwae_beta": ({**CIWAE, "ciwae_beta": 0.1}, {**CIWAE, "ciwae_beta": 0.5}),
    "beta": ({"objective": "elbo"}, {"objective": "elbo", "beta": 0.5}),
    "free_bits": ({"objective": "elbo"}, {"objective": "elbo", "free_bits": 1000.0}),
    "free_bits_per": (FREE_BITS | {"free_bits_per": "dimension"}, FREE_BITS | {"free_bits_per": "layer"}),
    "inner_hidden": ({}, {"inner_hidden": [9]}),
    "num_classes": ({}, {"num_classes": 4}),
    "labelled_fraction": ({}, {"labelled_fraction": 0.3}),
    "alpha": ({}, {"alpha": 0.2}),
    "share_noise": ({}, {"share_noise": False}),
    "m1_options": ({}, {"m1_options": {"activation": "tanh"}}),
    "kept": ({}, {"kept": [0, 1]}),
    "transforms": ({}, {"transforms": ["rotation", "shift"]}),
    "transform_scale": ({}, {"transform_scale": 0.2}),
    "decoder_hidden": ({}, {"decoder_hidden": [9]}),
    "label_weight": ({}, {"label_weight": 0.1}),
    "sample_z1": ({}, {"sample_z1": False}),
    "prior": ({}, {"prior": "mixture"}),
    "prior_components": ({"prior": "mixture"}, {"prior": "mixture", "prior_components": 3}),
    "posterior": ({}, {"posterior": "full"}),
    "posterior_flow": (FLOW, {"posterior_flow": "nsf", **FLOW}),
    "posterior_transforms": (FLOW, {"posterior_transforms": 3, **FLOW}),
    "posterior_hidden": (FLOW, {"posterior_hidden": [9], **FLOW}),
    "posterior_context": (FLOW, {"posterior_context": 3, **FLOW}),
    "prior_flow": ({"prior": "flow"}, {"prior": "flow", "prior_flow": "maf"}),
    "prior_transforms": ({"prior": "flow"}, {"prior": "flow", "prior_transforms": 3}),
    "prior_hidden": ({"prior": "flow"}, {"prior": "flow", "prior_hidden": [9]}),
}
# options with another meaning for another model
OWN_KNOBS = {
    ("HierarchicalVAE", "z_dim"): ({}, {"z_dim": [3, 5]}),
    ("LadderVAE", "z_dim"): ({}, {"z_dim": [3, 5]}),
    ("LadderVAE", "encoder"): ({}, {"encoder": "conv", "layers_per_scale": [1, 1]}),
    ("LadderVAE", "layers_per_scale"): (LADDER | {"layers_per_scale": [1, 1]}, LADDER | {"layers_per_scale": [2]}),
    ("AffineVAE", "z_dim"): ({}, {"z_dim": 9}),
    # classes have no effect without a classifier
    ("AffineVAE", "num_classes"): ({"label_weight": 0.1}, {"label_weight": 0.1, "num_classes": 4}),
    ("DRAW", "attention"): ({}, {"attention": True}),
    ("DRAW", "read_size"): ({"attention": True}, {"attention": True, "read_size": 3}),
    ("DRAW", "write_size"): ({"attention": True}, {"attention": True, "write_size": 3}),
    # other decoders are refused
    ("AffineVAE", "decoder"): ({}, {"decoder": "wavy"}),
}
TESTED_ELSEWHERE = {"image_shape", "learn_scale", "beta_warmup", "beta_cycles", "m1", "features", "classifier_samples"}
TESTED_ELSEWHERE |= {"prior_inputs"}  # it has an effect where the model is built for data
TESTED_ELSEWHERE |= {"classify_grey"}  # it has an effect on validation
TESTED_ELSEWHERE |= {*inspect.signature(Model).parameters}


class Wavy(CoordinateDecoder):
    """Another coordinate decoder."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs).sin()


def options_of(name):
    constructors = [model.__init__ for model in MODELS[name].__mro__ if issubclass(model, Model) and model is not Model]
    return {option for init in constructors for option in inspect.signature(init).parameters} - {"self", "kwargs"}


def doubled(name, knob):
    """The default of a numeric option, and twice that: for options of models that these tests do not know."""
    default = inspect.signature(MODELS[name]).parameters[knob].default
    return {knob: default}, {knob: 2 * default}


# options that a model refuses
REFUSED = {"LadderVAE": {"decoder", *(option for option in KNOBS if option.startswith("posterior"))}}


@pytest.mark.parametrize(("name", "knob"), [
    (name, knob)
    for name in DENSITIES
    for knob in sorted(options_of(name) - TESTED_ELSEWHERE - REFUSED.get(name, set()))
])  # fmt: skip
def test_every_option_changes_the_loss(make, binary, monkeypatch, name, knob):
    monkeypatch.setitem(DECODERS, "wavy", Wavy)
    before, after = OWN_KNOBS.get((name, knob)) or KNOBS.get(knob) or doubled(name, knob)
    if knob == "free_bits_per" and not make(name).has_kl_of_dimensions:
        before = {}  # it has free bits per layer only, which is its default
    losses = [under(3, make(name, **options).loss, *binary(8)).item() for options in (before, after)]
    assert losses[0] != losses[1]


def test_learn_scale_learns_the_scale(fit, make, binary):
    scales = []
    for learn_scale in (False, True):
        model = make("VAE", learn_scale=learn_scale, lr=0.1, **GAUSSIAN)
        fit(model, [binary(8)])
        scales.append(model.px(torch.zeros(1, 20)).base_dist.scale.unique().item())
    assert scales[0] == pytest.approx(0.5)
    assert abs(scales[1] - 0.5) > 0.01


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 2**-0.5, 3.0])
def test_the_scale_has_the_given_value(make, scale, learn_scale):
    model = make("VAE", scale=scale, learn_scale=learn_scale, **GAUSSIAN)
    assert model.px(torch.zeros(1, 20)).base_dist.scale.unique().item() == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize(("warmup", "accumulate", "betas"), [
    (0, 1, [3.0] * 6),
    (2, 1, [0.0, 0.75, 1.5, 2.25, 3.0, 3.0]),
    (2, 2, [0.0, 0.0, 1.5, 1.5, 3.0, 3.0]),
])  # fmt: skip
def test_beta_grows_from_0_over_its_warm_up(fit, binary, warmup, accumulate, betas):
    class RateOne(VAE):
        def rate_distortion(self, x, K, y, posterior=None):
            zero = 0 * self.encoder(x).sum(1)
            return zero + 1, zero

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            seen.append(loss.item())  # rate 1, distortion 0: the loss is beta
            return loss

    seen = []
    model = RateOne((1, 8, 8), hidden=[4], beta=3.0, beta_warmup=warmup)
    fit(model, [binary(2), binary(2)], max_epochs=3, accumulate_grad_batches=accumulate)
    assert seen == pytest.approx(betas)


@pytest.mark.parametrize(("limits", "after", "last"), [
    ({"max_epochs": 2}, "2", "0.5"),
    ({"max_epochs": 9, "max_steps": 3}, "1.5", "0.38"),
    ({"max_epochs": 4}, None, None),
    ({"max_epochs": 9, "max_steps": 8}, None, None),
])  # fmt: skip
def test_an_unfinished_warm_up_is_reported(fit, binary, limits, after, last):
    model = VAE((1, 8, 8), hidden=[4], beta_warmup=4)
    message = f"beta_warmup is 4 epochs and the run ends after {after}: beta ends at {last} and never reaches 1\\."
    with pytest.warns(UserWarning, match=message) if after else nullcontext():
        fit(model, [binary(2), binary(2)], **limits)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"z_dim": 0}, "z_dim must be at least 1; got 0"),
    ({"z_dim": -3}, "z_dim must be at least 1; got -3"),
    ({"hidden": [0]}, "hidden must hold positive sizes"),
    ({"encoder": "transformer"}, "Unknown encoder 'transformer': choose one of mlp, conv"),
    ({"decoder": "transformer"}, "Unknown decoder 'transformer': choose one of mlp, conv"),
    ({"activation": "rleu"}, "Unknown activation 'rleu': choose one of relu"),
    ({"likelihood": "normal"}, "Unknown likelihood 'normal': choose one of bernoulli, gaussian"),
    ({"objective": "drag"}, "Unknown objective of VAE 'drag': choose one of elbo, iwae, miwae, ciwae, stl"),
    ({"objective": "miwae", "num_samples": 6}, "miwae needs num_groups, .* num_samples 6 and num_groups None"),
    ({"objective": "piwae", "num_samples": 6, "num_groups": 4}, "piwae needs num_groups, .* 6 and num_groups 4"),
    ({"objective": "miwae", "num_samples": 6, "num_groups": 0}, "miwae needs num_groups"),
    ({"objective": "iwae", "num_groups": 2}, "num_groups is only for objectives miwae and piwae"),
    ({"objective": "ciwae"}, "ciwae needs ciwae_beta, .* got None"),
    ({"objective": "ciwae", "ciwae_beta": 1.5}, "ciwae needs ciwae_beta, .* got 1.5"),
    ({"objective": "ciwae", "ciwae_beta": math.nan}, "ciwae needs ciwae_beta, .* got nan"),
    ({"ciwae_beta": 0.5}, "ciwae_beta is only for objective ciwae"),
    ({"objective": "dreg", "beta": 2.0}, "belong to objective elbo"),
    ({"num_samples": 0}, "num_samples must be at least 1; got 0"),
    ({"beta": -1.0}, "must not be negative; got -1.0"),
    ({"beta_warmup": -1}, "must not be negative; got 1.0 and -1"),
    ({"objective": "iwae", "beta": 2.0}, "belong to objective elbo"),
    ({"objective": "iwae", "beta_warmup": 2}, "belong to objective elbo"),
    ({"objective": "iwae", "beta_cycles": 2}, "beta_cycles belongs to objective elbo with beta above 0"),
    ({"beta": 0.0, "beta_cycles": 2}, "beta_cycles belongs to objective elbo with beta above 0"),
    ({"beta_cycles": 0}, "beta_cycles must be at least 1; got 0"),
    ({"beta_cycles": 2, "beta_warmup": 1}, "beta_cycles and beta_warmup are two schedules of beta"),
    ({"free_bits": -0.1}, "free_bits must be finite and not negative; got -0.1"),
    ({"free_bits": math.inf}, "free_bits must be finite and not negative; got inf"),
    ({"free_bits": math.nan}, "free_bits must be finite and not negative; got nan"),
    ({"objective": "dreg", "free_bits": 0.1}, "free_bits belongs to objective elbo: leave it out with objective dreg"),
    ({"free_bits": 0.1, "beta": 0.0}, "free_bits has no effect with beta 0"),
    ({"free_bits_per": "layer"}, "free_bits_per has no effect without free_bits"),
    ({"free_bits": 0.1, "free_bits_per": "image"}, "Unknown free_bits_per 'image': choose dimension or layer"),
    ({"optimizer": "sgd"}, "Unknown optimizer 'sgd': choose adam or adamw"),
    ({"optimizer": "adamw"}, "optimizer adamw without weight_decay is adam"),
    ({"scale": 0.0, **GAUSSIAN}, "scale must"),
    ({"scale": -1.0, **GAUSSIAN}, "scale must"),
    ({"scale": math.nan, **GAUSSIAN}, "scale must"),
    ({"scale": 1e-3, **GAUSSIAN}, "scale must"),
    ({"scale": 1e3, **GAUSSIAN}, "scale must"),
    ({"scale": 0.1}, "are only for likelihood gaussian"),
    ({"learn_scale": True}, "are only for likelihood gaussian"),
    ({"lr": 0.0}, "must be positive"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("VAE", **options)


@pytest.mark.parametrize("options", [{}, GAUSSIAN])
@densities
def test_a_likelihood_refuses_data_that_it_is_not_defined_for(make, name, options):
    model = make(name, **options)
    accepted = {"grey"} if options else {"dynamic", "fixed", "threshold", "larochelle"}
    for protocol in ("dynamic", "fixed", "threshold", "larochelle", "grey"):
        if protocol in accepted:
            model.check_protocol(protocol)
        else:
            with pytest.raises(ValueError, match=f"protocol {protocol}: .*--model.likelihood"):
                model.check_protocol(protocol)


# The contract of log_weights


NETWORKS = [
    {},
    {"batch_norm": True},
    {"encoder": "conv", "decoder": "conv"},
    {"encoder": "conv", "decoder": "conv", "batch_norm": True},
    {"encoder": "resnet", "decoder": "resnet"},
    {"encoder": "gated", "decoder": "gated"},
    {"encoder": "gated_conv", "decoder": "gated_conv"},
    {"encoder": "gated", "decoder": "gated", "batch_norm": True},
    {"decoder": "coordinate"},
]
# AffineVAE, CVAE, M1M2, ADGM and SDGM have their own tests of this
LAYERS = [(name, {}) for name in ("VAE", "IWAE", "HierarchicalVAE", "M2")] + [("HierarchicalVAE", {"z_dim": [3, 2, 2]})]


def shaken(model, x):
    """Return the model with p(x) far from uniform, q(z|x) wide enough, and non-trivial batch norm statistics."""
    for key, parameter in model.named_parameters():
        of_images = is_of_images(key) or key.startswith("canvas")
        nn.init.normal_(parameter, std=0.6 if of_images else 0.1)
    with torch.no_grad():
        model.train().log_weights(x, 4, *model.condition_args(torch.arange(len(x)) % 3))
    return model.eval()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda options: "-".join(map(str, options)) or "mlp")
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_p_of_all_binary_images_sums_to_1(make, squares, name, options, network):
    model = shaken(make(name, (1, 2, 2), **options, **network), squares)
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 20_000).double().exp()  # (K, 16)
    total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
    assert error < 0.02
    assert abs(total - 1) < 4 * error
    assert p.mean(0).max() > 2 * p.mean(0).min()  # it was worth summing


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in DENSITIES for options in ({}, GAUSSIAN) if name != "M1M2" or not options],
)
def test_bounds_grow_with_the_number_of_samples(make, squares, name, options):
    model = shaken(make(name, (1, 2, 2), **options), squares)
    with evaluating(model, seed=4):
        log_w = (
            model.log_weights(squares, 50 * 200, *model.condition_args(torch.arange(16) % 3)).double().view(50, 200, 16)
        )
    bounds = [elbo(log_w), iwae(log_w[:5]), iwae(log_w)]  # each (200, 16)
    for low, high in pairwise(bounds):
        gain = (high - low).mean(1)
        assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))


@every_density
def test_log_weights_has_a_weight_for_each_sample_and_image(make, binary, name):
    model, (x, y) = make(name), binary(5)
    assert model.log_weights(x, 7, y).shape == (7, 5)
    given = model.posterior(x, y)
    torch.testing.assert_close(under(3, model.log_weights, x, 7, y, given), under(3, model.log_weights, x, 7, y))


@unlabelled
def test_weights_in_evaluation_mode_do_not_depend_on_the_other_images(make, binary, name):
    model, (x, _) = make(name, batch_norm=True), binary(6)
    model.log_weights(x, 2)
    with evaluating(model, seed=4):
        whole = model.posterior(x)
        alone = model.posterior(x[:1])
        z = whole.sample((3,))
        together, single = model.px(z).log_prob(x), model.px(z[:, :1]).log_prob(x[:1])
    torch.testing.assert_close(alone.mean, whole.mean[:1])
    torch.testing.assert_close(single, together[:, :1])


# Metrics of validation


@densities
def test_rate_and_distortion_add_up_to_the_mean_log_weight(make, squares, name):
    model = shaken(make(name, (1, 2, 2)), squares)
    with evaluating(model, seed=4):
        given = model.condition_args(torch.arange(16) % 3)
        log_w = model.log_weights(squares, 20_000, *given)
        rate, distortion = model.rate_distortion(squares, 20_000, *given)
    error = log_w.std(0) / math.sqrt(len(log_w))
    assert ((log_w.mean(0) + rate + distortion).abs() < 6 * error).all()
    assert (error < 0.1).all()


@densities
def test_validation_does_not_depend_on_beta(make, binary, name):
    plain = under(3, make(name, objective="elbo").validation_metrics, *binary(5))
    weighted = under(3, make(name, objective="elbo", beta=4.0).validation_metrics, *binary(5))
    for key, values in plain.items():
        assert torch.equal(values, weighted[key]), key
    torch.testing.assert_close(plain["elbo"], -plain["rate"] - plain["distortion"])
    assert torch.equal(plain["bound"], plain["elbo"])


@densities
def test_the_monitored_metric_is_the_bound_that_training_maximizes(make, squares, name):
    needed = {"miwae": {"num_groups": 2}, "piwae": {"num_groups": 2}, "ciwae": {"ciwae_beta": 0.5}}
    for objective in MODELS[name].objectives:
        options = {"objective": objective, "num_samples": 6, **needed.get(objective, {})}
        model = shaken(make(name, (1, 2, 2), **options), squares)
        images = squares.repeat(500, 1, 1, 1)
        with evaluating(model, seed=4):
            y = torch.arange(len(images)) % 3
            bound, loss = model.validation_metrics(images, y)["bound"], model.loss(images, y)
        assert abs(bound.mean() + loss) < 6 * bound.std() / math.sqrt(len(images))


def test_validation_samples_z_instead_of_using_the_mean(make, binary):
    model, (x, y) = make("VAE"), binary(5)
    assert not torch.equal(model.validation_metrics(x, y)["elbo"], model.validation_metrics(x, y)["elbo"])


# Methods of a trained model


@pytest.mark.parametrize("options", [{}, GAUSSIAN])
@unlabelled
def test_codes_images_and_reconstructions(make, binary, name, options):
    model, (x, _) = make(name, **options).eval(), binary(5)
    z = model.encode(x)
    if name != "DRAW":  # whose networks are parts of a recurrence
        torch.testing.assert_close(z, model.encoder(x).chunk(2, -1)[0])
        where = {"transform": model.split(z)[1]} if name == "AffineVAE" else {}
        torch.testing.assert_close(model.decode(z), model.decoder(z[:, : model.code_dim], **where).sigmoid())
    torch.testing.assert_close(model.reconstruct(x), model.decode(z))
    for leading in ((), (4,), (2, 4)):
        assert model.decode(torch.randn(*leading, z.shape[-1])).shape == (*leading, 1, 8, 8)
    assert not model.reconstruct(x).requires_grad


@pytest.mark.parametrize("path", ["linear", "spherical"])
@unlabelled
def test_interpolations_start_and_end_at_the_reconstructions(make, binary, name, path):
    model, (x, _) = make(name), binary(6)
    steps = model.interpolate(x[:3], x[3:], 10, path)
    assert steps.shape == (10, 3, 1, 8, 8)
    torch.testing.assert_close(steps[0], model.reconstruct(x[:3]))
    torch.testing.assert_close(steps[-1], model.reconstruct(x[3:]))


@densities
def test_attribute_arithmetic_by_hand(make, binary, name):
    model, (x, y) = make(name).eval(), binary(5)
    labels = model.condition_args(y)
    z = model.encode(x, *labels)
    direction, weights = torch.randn(z.shape[1]), (0.0, 0.5, -2.0)
    shifted = model.add_direction(x, direction, weights, *labels)
    assert shifted.shape == (3, 5, 1, 8, 8)
    for images, w in zip(shifted, weights, strict=True):
        for i in range(5):
            one = model.decode(z[i : i + 1] + w * direction, *[label[i : i + 1] for label in labels])
            torch.testing.assert_close(images[i : i + 1], one)
    torch.testing.assert_close(shifted[0], model.reconstruct(x, *labels))
    assert (shifted[0] - shifted[2]).abs().max() > 1e-3
    assert not shifted.requires_grad


@densities
def test_each_call_of_sample_returns_new_images(make, name):
    model = make(name)
    x = under(3, model.sample, 6)
    assert x.shape == (6, 1, 8, 8)
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal(under(3, model.sample, 6), x)
    assert not torch.equal(under(4, model.sample, 6), x)
    assert not torch.equal(x[0], x[1])


@unlabelled
def test_samples_have_the_mean_of_p(make, squares, name):
    # the mean of sampled images equals the mean image under the exact p(x)
    model = shaken(make(name, (1, 2, 2)), squares)
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 20_000).double().exp().mean(0)  # (16,)
        samples = model.sample(20_000)
    expected = (p[:, None] * squares.flatten(1)).sum(0)
    torch.testing.assert_close(samples.flatten(1).double().mean(0), expected, atol=0.02, rtol=0)


def test_the_kl_of_each_dimension_sums_to_the_rate(make, binary):
    model, (x, _) = make("VAE", z_dim=4), binary(5)
    [(mean, kl)] = model.latent_statistics(x)
    assert mean.shape == kl.shape == (5, 4)
    assert torch.equal(mean, model.encode(x))
    torch.testing.assert_close(kl.sum(1), model.rate_distortion(x, 1)[0])


# Initialization


def fresh(init, **options):
    torch.manual_seed(0)
    return VAE((1, 16, 16), z_dim=10, init=init, **options)


def test_the_posterior_is_narrow_at_initialization(binary):
    x, _ = binary(20, (1, 16, 16))
    for options in ({}, {"encoder": "conv"}, {"encoder": "resnet"}, {"encoder": "gated"}, {"activation": "tanh"}):
        narrow, wide = (fresh(init, **options) for init in ("default", "glorot"))
        assert narrow.posterior(x).stddev.log().mean().item() == pytest.approx(math.log(0.1), abs=0.5)
        assert wide.posterior(x).stddev.log().mean().item() == pytest.approx(0, abs=0.5)


def test_activations_keep_their_scale_across_layers_at_initialization(binary):
    x, _ = binary(200, (1, 16, 16))
    model = fresh("default", hidden=[400] * 6)
    hidden = model.encoder.first(x)
    sizes = []
    for layer in model.encoder.rest[:-1]:
        hidden = layer(hidden)
        sizes.append(hidden.square().mean().item())
    assert 0.5 < sizes[-1] / sizes[0] < 2


def test_a_custom_encoder_is_not_reinitialized(monkeypatch):
    class Own(nn.Module):
        default_hidden = ()

        def __init__(self, image_shape, out_dim, hidden, activation, batch_norm, context_dim):
            super().__init__()
            self.output = nn.Linear(256, out_dim)
            nn.init.constant_(self.output.bias, 7.0)

        def forward(self, x, context=None):
            return self.output(x.flatten(1))

    monkeypatch.setitem(ENCODERS, "own", Own)
    assert (fresh("default", encoder="own").encoder.output.bias == 7).all()


def test_an_unknown_initialization_is_refused():
    with pytest.raises(ValueError, match="Unknown init 'he': choose one of default, glorot"):
        fresh("he")


def sparse_strokes(n, generator):
    """Return images of thin strokes with 3 % of the pixels on, as in OMNIGLOT, where wide posteriors collapse."""
    x = torch.zeros(n, 1, 16, 16)
    for image in x[:, 0]:
        place, step = torch.rand(2, generator=generator) * 10 + 3, torch.randn(2, generator=generator)
        step = step / step.norm()
        for part in range(8):
            row, column = (place + (part - 4) * 0.8 * step).round().long().clamp(0, 15).tolist()
            image[row, column] = 1
    return x


@pytest.mark.parametrize(("kind", "objective"), [(VAE, "elbo"), (VAE, "iwae"), (AffineVAE, "elbo")])
def test_the_default_initialization_avoids_collapse_on_sparse_images(kind, objective):
    generator = torch.Generator().manual_seed(0)
    images = sparse_strokes(2000, generator)
    torch.manual_seed(0)
    model = kind((1, 16, 16), objective=objective, num_samples=1 if objective == "elbo" else 2)
    model.start_at_mean(images.mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(300):
        x = images[torch.randint(len(images), (50,), generator=generator)]
        loss = model.loss(x, None)
        adam.zero_grad()
        loss.backward()
        adam.step()
    means = model.encode(images[:500])
    assert (means.var(0) > 0.01).sum() >= 5


# The warm-up


@pytest.mark.parametrize(("options", "epochs", "steps"), [
    ({}, 10, 20.0),  # a fifth of a shorter run
    ({}, 1000, 500),
    ({"beta_warmup": 3}, 10, 30),
    ({"beta_warmup": 0}, 10, 0),
    ({"objective": "iwae"}, 10, 0),
])  # fmt: skip
def test_the_warm_up_has_the_given_length(make, options, epochs, steps):
    model = make("VAE", **options)
    model._trainer = SimpleNamespace(
        num_training_batches=10,
        accumulate_grad_batches=1,
        max_epochs=epochs,
        max_steps=-1,
        global_step=0,
        train_dataloader=None,
    )
    assert model.warmup_steps() == steps
    for step in (0, 1, 7, 20, 600):
        model._trainer.global_step = step
        assert model.beta() == pytest.approx(min(1.0, step / steps) if steps else 1.0)


def test_the_loss_has_the_beta_of_its_step(fit, make, binary):
    seen = []

    class Told(VAE):
        def loss(self, x, y):
            seen.append((self.trainer.global_step, self.kl_weight.item()))
            return super().loss(x, y)

    model = Told((1, 8, 8), hidden=[16], beta=0.5, beta_warmup=2)
    fit(model, [binary(8)] * 3, max_epochs=4)
    assert seen == [(step, pytest.approx(0.5 * min(1, step / 6))) for step in range(12)]
