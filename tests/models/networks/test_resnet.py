"""ResNetEncoder and ResNetDecoder: what is special about residual blocks with group norm."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, elu, group_norm

from models import VAE
from models.networks import INITS, make_decoder, make_encoder, start_at_mean
from models.networks.resnet import CHANNELS_PER_GROUP, ResidualBlock, num_groups

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (3, 64, 64), (2, 3, 5), (1, 1, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
inits = pytest.mark.parametrize("init", INITS)
HIDDEN = [16, 20, 6]


def networks(shape, init="default", batch_norm=False, context_dim=0, hidden=HIDDEN):
    """Return an encoder to 5 numbers and a decoder from 5, which do not start at zero biases."""
    encoder = make_encoder("resnet", shape, 5, hidden, "elu", batch_norm, context_dim, init)
    decoder = make_decoder("resnet", 5, shape, hidden, "elu", batch_norm, context_dim, init)
    return encoder, decoder


def shaken(network):
    """Return the network with random weights and biases, so that no branch is close to zero."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def coloured_squares(n, size=16):
    """Return RGB images: a square at a random place, on a background of another colour, both with noise."""
    generator = torch.Generator().manual_seed(0)
    back, front = torch.rand(2, n, 3, 1, 1, generator=generator)
    corner = torch.randint(size // 2, (n, 2), generator=generator)
    images = back.expand(n, 3, size, size).clone()
    for image, colour, (top, left) in zip(images, front, corner.tolist(), strict=True):
        image[:, top : top + size // 3, left : left + size // 3] = colour
    return (0.1 + 0.8 * images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


# Blocks


@pytest.mark.parametrize("channels", [*range(1, 130), 192, 256, 1000])
def test_groups_have_the_same_size_and_several_channels(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert groups == 1 or channels // groups >= CHANNELS_PER_GROUP
    assert channels % CHANNELS_PER_GROUP or groups == channels // CHANNELS_PER_GROUP


@pytest.mark.parametrize(("n_in", "n_out"), [(16, 16), (16, 24)])
@pytest.mark.parametrize("resample", ["same", "down", "up"])
def test_a_block_against_its_formula(n_in, n_out, resample):
    size = {"same": {}, "down": {"down": True}, "up": {"up_to": (10, 12)}}[resample]
    block = shaken(ResidualBlock(n_in, n_out, "elu", False, **size))
    x = torch.randn(3, n_in, 5, 6)

    def down(h):
        return avg_pool2d(h, 2, ceil_mode=True) if resample == "down" else h

    def up(h):
        return h.repeat_interleave(2, -1).repeat_interleave(2, -2) if resample == "up" else h

    norm1, first, norm2, second = (layer for layer in block.branch if list(layer.parameters()))
    h = down(elu(group_norm(x, 2, norm1.weight, norm1.bias)))
    h = conv2d(h, first.weight, first.bias, padding=1)
    h = up(elu(group_norm(h, n_out // 8, norm2.weight, norm2.bias)))
    h = conv2d(h, second.weight, second.bias, padding=1)
    shortcut = down(x)
    if n_in != n_out:
        (project,) = (layer for layer in block.shortcut if isinstance(layer, nn.Conv2d))
        shortcut = conv2d(shortcut, project.weight, project.bias)
    torch.testing.assert_close(block(x), up(shortcut) + h, rtol=1e-4, atol=1e-4)


def test_blocks_start_close_to_their_shortcuts():
    encoder, decoder = networks((3, 16, 16), hidden=[32, 32])
    for network, inputs in ((encoder, torch.rand(8, 3, 16, 16)), (decoder, torch.randn(8, 5))):
        seen = []
        for layer in network.modules():
            if isinstance(layer, ResidualBlock):
                layer.register_forward_hook(lambda block, args, out, seen=seen: seen.append((block, args[0])))
        network(inputs)
        assert len(seen) == 2
        for block, x in seen:
            assert block.branch(x).std() < block.shortcut(x).std() / 2


def test_stages_halve_the_resolution_and_the_decoder_mirrors_them():
    encoder, decoder = networks((1, 20, 31))
    seen = []
    for layer in (*encoder.modules(), *decoder.modules()):
        if isinstance(layer, ResidualBlock):
            layer.register_forward_hook(lambda block, args, out: seen.append(tuple(out.shape[1:])))
    decoder(encoder(torch.rand(2, 1, 20, 31)))
    stages = [(16, 20, 31), (20, 10, 16), (6, 5, 8)]
    assert seen == stages + stages[::-1]


# Images and codes


@shapes
@inits
def test_an_image_alone_is_the_same_as_in_a_batch_in_both_modes(shape, init):
    encoder, decoder = (shaken(network).double() for network in networks(shape, init))
    x, z = torch.rand(4, *shape, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    for network, inputs in ((encoder, x), (decoder, z)):
        together = network.train()(inputs)
        torch.testing.assert_close(network.eval()(inputs), together)
        alone = torch.cat([network(one[None]) for one in inputs])
        torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("leading", [(), (4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("channels", [1, 2, 3, 30])
def test_codes_of_any_leading_shape_and_any_number_of_output_channels(leading, channels):
    decoder = shaken(make_decoder("resnet", 5, (channels, 7, 6), HIDDEN, "elu", False)).double()
    z = torch.randn(*leading, 5, dtype=torch.float64)
    images = decoder(z)
    assert images.shape == (*leading, channels, 7, 6)
    flat = decoder(z.reshape(-1, 5))
    torch.testing.assert_close(images.reshape(-1, channels, 7, 6), flat)


@shapes
def test_the_layout_of_images_in_memory_has_no_effect(shape):
    encoder = shaken(networks(shape)[0]).double()
    x = torch.rand(4, *shape, dtype=torch.float64)
    torch.testing.assert_close(encoder(x.to(memory_format=torch.channels_last)), encoder(x))


@shapes
def test_group_norm_keeps_the_context(shape):
    encoder, decoder = networks(shape, context_dim=3)
    labels, x, z = torch.eye(3), torch.rand(1, *shape), torch.randn(1, 5)
    for network, inputs in ((encoder, x), (decoder, z)):
        of_labels = network(inputs.expand(3, *inputs.shape[1:]), labels)
        assert (of_labels[0] - of_labels[1]).abs().mean() > 1e-3


@shapes
@inits
def test_brightness_of_images_and_size_of_codes_have_an_effect_from_the_start(shape, init):
    encoder, decoder = networks(shape, init)
    dark, bright = encoder(torch.stack([torch.full(shape, 0.2), torch.full(shape, 0.8)]))
    assert bright.norm() > 1.2 * dark.norm()
    z = torch.randn(20, 5)
    assert decoder(3 * z).std(0).mean() > 1.5 * decoder(z).std(0).mean()


# The start of training


@shapes
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_decoder_starts_near_the_mean_image_for_any_code(shape, batch_norm):
    mean = torch.rand(shape) * 0.8 + 0.1
    _, decoder = networks(shape, batch_norm=batch_norm)
    start_at_mean(decoder, mean)
    start = decoder(torch.randn(20, 5)).sigmoid()
    assert (start - mean).abs().mean() < 0.05
    assert start.std(0).mean() > 1e-4  # codes have an effect


@inits
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_deep_network_passes_signal_and_gradient_at_the_start(init, activation):
    hidden = [16] * 8  # 16 convolutions in branches, at resolutions from 64x64 to 1x1
    encoder = make_encoder("resnet", (3, 64, 64), 5, hidden, activation, False, 0, init)
    decoder = make_decoder("resnet", 5, (3, 64, 64), hidden, activation, False, 0, init)
    x = coloured_squares(6, 64)
    codes = encoder(x)
    assert 0.01 < codes.std(0).mean() < 10
    decoder(codes).square().mean().backward()
    for network in (encoder, decoder):
        sizes = [p.grad.norm().item() for p in network.parameters() if p.ndim == 4]
        assert min(sizes) > 1e-4 * max(sizes)


@inits
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_vae_of_colour_images_learns_from_the_default_start(init, batch_norm):
    images = coloured_squares(64)
    options = {"likelihood": "gaussian", "scale": 0.1, "encoder": "resnet", "decoder": "resnet"}
    model = VAE((3, 16, 16), z_dim=8, hidden=[8, 16], init=init, batch_norm=batch_norm, **options)
    model.start_at_mean(images.mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model.loss(images, None)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] - 100
    constant = model.decode(torch.zeros(1, 8))  # a model that ignores z cannot do better than one image
    error, without = ((model.eval().reconstruct(images) - images).square().mean(), (constant - images).square().mean())
    assert error < 0.8 * without


def test_the_number_of_parameters_that_the_documentation_states():
    model = VAE((3, 32, 32), encoder="resnet", decoder="resnet")
    assert sum(parameter.numel() for parameter in model.parameters()) == 442_475


# Options that are refused


@pytest.mark.parametrize("make", [
    lambda hidden, batch_norm: make_encoder("resnet", (1, 8, 8), 4, hidden, "relu", batch_norm),
    lambda hidden, batch_norm: make_decoder("resnet", 4, (1, 8, 8), hidden, "relu", batch_norm),
])  # fmt: skip
def test_stages_that_are_too_narrow_for_group_norm_are_refused(make):
    with pytest.raises(ValueError, match=r"at least 2 channels in each stage of the resnet .*; got hidden \[16, 1\]\."):
        make([16, 1], False)
    make([16, 1], True)
    with pytest.raises(ValueError, match=r"^The resnet .* needs at least one entry in hidden, for example \[16, 32, 6"):
        make([], False)
