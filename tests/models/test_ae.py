import math

import pytest
import torch

from models import AE
from models.interpolation import interpolate_latents

SHAPES = [(1, 8, 8), (3, 4, 5)]


def zeroed(**options):
    model = AE(**options)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_weights_and_binary_images(shape):
    x = torch.rand(6, *shape).round()
    pixels = math.prod(shape)
    assert zeroed(image_shape=shape).loss(x, None).item() == pytest.approx(pixels * math.log(2), rel=1e-5)
    assert zeroed(image_shape=shape, criterion="mse").loss(x, None).item() == pytest.approx(pixels * 0.25, rel=1e-5)


@pytest.mark.parametrize("criterion", ["bce", "mse"])
def test_the_error_against_its_formula(make, criterion):
    model, x = make("AE", criterion=criterion, activation="tanh"), torch.rand(6, 1, 8, 8)
    x_hat = model.decoder(model.encoder(x)).sigmoid()
    pixels = -(x * x_hat.log() + (1 - x) * (1 - x_hat).log()) if criterion == "bce" else (x - x_hat) ** 2
    torch.testing.assert_close(model.error(x), pixels.sum((1, 2, 3)))
    torch.testing.assert_close(model.loss(x, None), pixels.sum((1, 2, 3)).mean())


def test_the_loss_does_not_depend_on_the_batch_size(make, binary):
    model, (x, y) = make("AE"), binary(4)
    torch.testing.assert_close(model.loss(x.repeat(3, 1, 1, 1), y.repeat(3)), model.loss(x, y))


def test_validation_measures_the_loss_of_each_image_and_picks_the_lowest(make, binary):
    model, (x, y) = make("AE"), binary(5)
    measured = model.validation_metrics(x, y)
    torch.testing.assert_close(measured["loss"].mean(), model.loss(x, y))
    assert torch.equal(measured["bound"], -measured["loss"])


@pytest.mark.parametrize(("knob", "value"), [
    ("z_dim", 3), ("hidden", [9]), ("activation", "tanh"), ("encoder", "conv"), ("decoder", "conv"),
    ("batch_norm", True), ("criterion", "mse"),
])  # fmt: skip
def test_every_option_changes_the_loss(make, binary, knob, value):
    x, y = binary(8)
    assert make("AE").loss(x, y) != make("AE", **{knob: value}).loss(x, y)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"z_dim": 0}, "z_dim must be at least 1; got 0"),
    ({"z_dim": -3}, "z_dim must be at least 1; got -3"),
    ({"hidden": [0]}, "hidden must hold positive sizes"),
    ({"encoder": "transformer"}, "Unknown encoder 'transformer': choose one of mlp, conv"),
    ({"decoder": "transformer"}, "Unknown decoder 'transformer': choose one of mlp, conv"),
    ({"activation": "rleu"}, "Unknown activation 'rleu': choose one of relu"),
    ({"criterion": "BCE"}, "BCE.*choose"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("AE", **options)


def test_it_has_no_density():
    for name in ("log_weights", "sample", "posterior", "latent_statistics"):
        assert not hasattr(AE, name)


@pytest.mark.parametrize("protocol", ["dynamic", "fixed", "threshold", "larochelle", "grey"])
def test_every_protocol_is_accepted(make, protocol):
    make("AE").check_protocol(protocol)


def test_codes_and_reconstructions(make, binary):
    model, (x, _) = make("AE", z_dim=3), binary(5)
    z = model.encode(x)
    assert z.shape == (5, 3)
    torch.testing.assert_close(model.decode(z), model.decoder(z).sigmoid())
    torch.testing.assert_close(model.reconstruct(x), model.decode(z))
    assert not model.reconstruct(x).requires_grad
    for leading in ((), (4,), (2, 4)):
        assert model.decode(torch.randn(*leading, 3)).shape == (*leading, 1, 8, 8)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolations_start_and_end_at_the_reconstructions(make, binary, path):
    model, (x, _) = make("AE"), binary(6)
    steps = model.interpolate(x[:3], x[3:], 10, path)
    assert steps.shape == (10, 3, 1, 8, 8)
    torch.testing.assert_close(steps[0], model.reconstruct(x[:3]))
    torch.testing.assert_close(steps[-1], model.reconstruct(x[3:]))


def test_linear_interpolation():
    z0, z1 = torch.randn(2, 4, 3)
    z = interpolate_latents(z0, z1, 5, "linear")
    for i, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        torch.testing.assert_close(z[i], (1 - t) * z0 + t * z1)


def test_slerp_rotates_evenly_and_interpolates_the_norms():
    z0, z1 = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    degrees = torch.tensor([0.0, 30.0, 60.0, 90.0]).deg2rad()
    expected = torch.stack([degrees.cos(), degrees.sin()], -1) * torch.tensor([2, 8 / 3, 10 / 3, 4])[:, None]
    torch.testing.assert_close(interpolate_latents(z0, z1, 4, "spherical")[:, 0], expected)


@pytest.mark.parametrize("z1", [[1.0, 2.0], [3.0, 6.0], [-1.0, -2.0], [0.0, 0.0]])
def test_slerp_of_parallel_codes_is_a_straight_line(z1):
    z0, z1 = torch.tensor([[1.0, 2.0]]), torch.tensor([z1])
    for a, b in ((z0, z1), (z1, z0)):
        torch.testing.assert_close(interpolate_latents(a, b, 5, "spherical"), interpolate_latents(a, b, 5, "linear"))


def test_an_unknown_path_is_refused(make, binary):
    x, _ = binary(2)
    with pytest.raises(ValueError, match="Unknown path 'curved': choose linear or spherical"):
        make("AE").interpolate(x, x, 3, "curved")
