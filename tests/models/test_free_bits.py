"""Free bits: the loss against an explicit computation, and its gradient."""

import pytest
import torch
from model_helpers import under
from torch import nn

from models.base import evaluating
from models.distributions import kl_per_dimension

LAYERS = ("HierarchicalVAE", "LadderVAE")
ONE_LAYER = pytest.mark.parametrize("name", ["VAE", "IWAE", "CVAE", "AffineVAE"])
EVERY = pytest.mark.parametrize("name", ["VAE", "IWAE", "CVAE", "AffineVAE", *LAYERS])
OPTIONS = {"objective": "elbo", "num_samples": 3, "beta": 0.7}


def spread(model):
    """Give the model posterior means that vary between images, so that each dimension has another KL."""
    torch.manual_seed(1)
    for layer in getattr(model.encoder, "heads", None) or [model.encoder.output]:
        nn.init.normal_(layer.weight, std=0.5)
    return model


@ONE_LAYER
@pytest.mark.parametrize("per", ["dimension", "layer"])
def test_the_loss_is_the_explicit_sum(make, binary, name, per):
    model, (x, y) = spread(make(name, free_bits=2.5, free_bits_per=per, **OPTIONS)), binary(6)
    torch.manual_seed(3)
    q = model.posterior(x, y)
    kl = kl_per_dimension(q, model.prior())  # (B, d)
    distortion = -sum(model.log_px(x, z, y) for z in q.rsample((3,))) / 3  # (B,)
    parts = kl.mean(0).tolist() if per == "dimension" else [kl.sum(1).mean().item()]
    expected = distortion.mean().item() + 0.7 * sum(max(2.5, part) for part in parts)
    assert any(part < 2.5 for part in parts) or per == "layer"
    assert any(part > 2.5 for part in parts)
    assert under(3, model.loss, x, y).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_a_hierarchy_is_the_explicit_sum_over_its_layers(make, binary):
    model, (x, y) = make("HierarchicalVAE", free_bits=2.0, **OPTIONS), binary(6)
    torch.manual_seed(3)
    z, _, q, p = model.draw(3, model.posterior(x))
    rates = [(q_l.log_prob(z_l) - p_l.log_prob(z_l)).mean().item() for z_l, q_l, p_l in zip(z, q, p, strict=True)]
    assert min(rates) < 2 < max(rates)
    expected = -model.log_px(x, z[0]).mean().item() + 0.7 * sum(max(2.0, rate) for rate in rates)
    assert under(3, model.loss, x, y).item() == pytest.approx(expected, rel=1e-5)


@EVERY
@pytest.mark.parametrize("free_bits_per", ["dimension", "layer"])
def test_no_free_bits_are_the_elbo(make, binary, name, free_bits_per):
    if name in LAYERS and free_bits_per == "dimension":
        with pytest.raises(ValueError, match="no closed-form KL of each dimension: use free_bits_per layer"):
            make(name, free_bits=0.0, free_bits_per=free_bits_per, **OPTIONS)
        return
    models = [make(name, **OPTIONS, **more) for more in ({}, {"free_bits": 0.0, "free_bits_per": free_bits_per})]
    losses = [under(3, spread(model).loss, *binary(6)) for model in models]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, model.parameters()) for loss, model in zip(losses, models, strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@EVERY
def test_bounds_are_logged_without_free_bits(make, binary, name):
    metrics = []
    for more in ({}, {"free_bits": 100.0}):
        with evaluating(model := make(name, **OPTIONS, **more)):
            metrics.append(model.validation_metrics(*binary(6)))
    assert metrics[0].keys() == metrics[1].keys()
    assert all(torch.equal(metrics[0][key], metrics[1][key]) for key in metrics[0])


def test_a_dimension_below_the_threshold_has_no_gradient(make, binary):
    """The decoder ignores z here: the gradient of the encoder's outputs comes from the KL alone."""
    model, (x, y) = spread(make("VAE", free_bits=2.5)), binary(6)
    nn.init.zeros_(model.decoder.output.weight)
    (gradient,) = torch.autograd.grad(model.loss(x, y), model.encoder.output.bias)
    kl = kl_per_dimension(model.posterior(x), model.prior()).mean(0)
    below = (kl < 2.5).repeat(2)  # outputs are means, then log scales
    assert 0 < below.sum() < len(below)
    assert (gradient[below] == 0).all()
    assert (gradient[~below] != 0).all()
    plain = make("VAE")
    plain.load_state_dict(model.state_dict())
    (expected,) = torch.autograd.grad(plain.loss(x, y), plain.encoder.output.bias)
    torch.testing.assert_close(gradient[~below], expected[~below])


@EVERY
def test_the_default_parts(make, name):
    assert make(name, objective="elbo", free_bits=0.1).free_bits_per == ("layer" if name in LAYERS else "dimension")
