import math

import pytest
import torch
from torch import nn

from models import IWAE, VAE, Model
from models.estimators.gradient_snr import signal_to_noise

X, Y = (torch.rand(3, 1, 2, 2) > 0.5).float(), torch.zeros(3)


class Known(Model):
    """A loss whose gradient is known: `slope + spread * noise` for the encoder; for the decoder `spread * noise`."""

    def __init__(self, slope, spread, dims=1):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(dims, 1), nn.Linear(dims, 1, bias=False)
        self.slope, self.spread = slope, spread

    def loss(self, x, y):
        weight, other = self.encoder.weight, self.decoder.weight
        quadratic = (weight + self.slope + self.spread * torch.randn_like(weight)).square() / 2
        return (quadratic - weight.square() / 2 + self.spread * torch.randn_like(other) * other).sum()


def test_signal_and_noise_of_a_known_gradient():
    found = signal_to_noise(Known(slope=0.5, spread=2.0, dims=4), X, Y, n=4000)["encoder"]
    assert found.signal == pytest.approx(0.5 * 2, rel=0.1)  # of 4 weights; the bias is not used
    assert found.noise == pytest.approx(2.0 * 2, rel=0.05)
    assert found.ratio == pytest.approx(found.signal / found.noise)


def test_pure_noise_has_no_signal():
    assert signal_to_noise(Known(0.5, 2.0, dims=2000), X, Y, n=50)["decoder"].ratio < 0.05  # not 1 / sqrt(50) = 0.14


def test_moments_are_accurate_with_a_large_mean():
    model = Known(slope=1e4, spread=1e-2)
    nn.init.zeros_(model.encoder.weight)
    found = signal_to_noise(model.double(), X, Y, n=500)["encoder"]
    assert found.noise == pytest.approx(1e-2, rel=0.1)
    assert found.signal == pytest.approx(1e4)


def test_without_noise_and_without_a_gradient():
    assert signal_to_noise(Known(1.0, 0.0), X, Y, n=3)["encoder"] == (1.0, 0.0)
    assert signal_to_noise(Known(1.0, 0.0), X, Y, n=3)["encoder"].ratio == math.inf
    assert signal_to_noise(Known(1.0, 0.0), X, Y, n=3)["decoder"].ratio == 0.0


def test_parameters_without_a_gradient_give_no_nan():
    model = VAE((1, 2, 2), z_dim=2, hidden=[5])
    before = signal_to_noise(model, X, Y, n=20)
    nn.init.constant_(model.encoder.first[1].bias, -1e3)  # all ReLU units are inactive
    dead = signal_to_noise(model, X, Y, n=20)
    assert all(math.isfinite(part.ratio) and part.noise > 0 for part in (*before.values(), *dead.values()))


def test_the_gradient_is_that_of_training():
    model = IWAE((1, 2, 2), z_dim=2, hidden=[5], objective="dreg", num_samples=4).eval()
    torch.manual_seed(7)
    draws = []
    for _ in range(10):
        model.zero_grad()
        model.loss(X, Y).backward()
        draws.append(torch.cat([parameter.grad.flatten() for parameter in model.decoder.parameters()]))
    draws = torch.stack(draws).double()
    found = signal_to_noise(model, X, Y, n=10, parts=("decoder",), seed=7)["decoder"]
    variance = draws.var(0).sum()
    assert found.noise == pytest.approx(variance.sqrt().item(), rel=1e-5)
    assert found.signal == pytest.approx((draws.mean(0).square().sum() - variance / 10).sqrt().item(), rel=1e-4)


def test_mode_random_state_and_gradients_are_restored():
    model = VAE((1, 2, 2), z_dim=2, hidden=[5], batch_norm=True).train()
    model.decoder.eval()
    weight = model.encoder.first[1].weight
    weight.grad = torch.ones_like(weight)
    modes = [module.training for module in model.modules()]
    state = {name: values.clone() for name, values in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    found = signal_to_noise(model, X, Y, n=5)
    assert torch.equal(torch.rand(5), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    others = [parameter for parameter in model.parameters() if parameter is not weight]
    assert all(parameter.grad is None for parameter in others)
    assert (weight.grad == 1).all()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert signal_to_noise(model, X, Y, n=5) == found  # a function of the seed


def test_frozen_parameters_are_left_out():
    model = Known(slope=1.0, spread=1.0)
    model.encoder.bias.requires_grad_(False)
    assert signal_to_noise(model, X, Y, n=5, parts=("encoder",))["encoder"].noise > 0
    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="Known has no trained part 'encoder'"):
        signal_to_noise(model, X, Y)


@pytest.mark.parametrize(("options", "words"), [({"n": 1}, "needs n of at least 2"), ({"parts": ("head",)}, "'head'")])
def test_invalid_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        signal_to_noise(Known(1.0, 1.0), X, Y, **options)
