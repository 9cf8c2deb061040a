import math

import pytest
import torch
from torch import nn

from models import VAE
from models.networks import DECODERS, ENCODERS, make_decoder, make_encoder, start_at_mean
from models.networks.gated import gated_layers
from models.networks.layers import ACTIVATIONS, apply_rowwise, mlp
from models.networks.mlp import MLPDecoder
from models.networks.resnet import SMALL_BRANCH, ResidualBlock, ResNetDecoder

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 20, 31), (2, 3, 5), (1, 1, 1)]
HIDDEN = [6, 5]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
encoders = pytest.mark.parametrize("encoder", ENCODERS)
decoders = pytest.mark.parametrize("decoder", DECODERS)
batch_norms = pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch_norm"])


def zeroed(network):
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def linear_sizes(network):
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


@shapes
@encoders
@decoders
@batch_norms
def test_any_encoder_with_any_decoder_at_any_shape(shape, encoder, decoder, batch_norm):
    network = nn.Sequential(
        make_encoder(encoder, shape, 4, HIDDEN, "tanh", batch_norm),
        make_decoder(decoder, 4, shape, HIDDEN, "tanh", batch_norm),
    )
    y = network(torch.rand(7, *shape))
    assert y.shape == (7, *shape)
    y.square().sum().backward()
    silent = {  # batch norm removes a bias before it
        id(layer.bias)
        for layer in network.modules()
        if batch_norm
        and getattr(layer, "bias", None) is not None
        and not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
    }
    if decoder == "coordinate" and shape[1:] == (1, 1):  # the only pixel is at (0, 0)
        silent.add(id(network[1].place.weight))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert id(parameter) in silent or parameter.grad.any(), name


@shapes
@encoders
def test_every_pixel_reaches_the_code(shape, encoder):
    x = torch.rand(1, *shape, requires_grad=True)
    make_encoder(encoder, shape, 4, HIDDEN, "tanh", False)(x).sum().backward()
    assert (x.grad != 0).all()


@shapes
@decoders
def test_the_code_reaches_every_pixel(shape, decoder):
    network = make_decoder(decoder, 4, shape, HIDDEN, "tanh", False)
    y0, y1 = network(torch.randn(2, 4))
    assert (y0 != y1).all()


@encoders
@decoders
def test_networks_have_default_sizes(encoder, decoder):
    x = torch.rand(2, 1, 8, 8)
    z = make_encoder(encoder, (1, 8, 8), 4, None, "relu", False)(x)
    assert make_decoder(decoder, 4, (1, 8, 8), None, "relu", False)(z).shape == x.shape


def test_the_decoder_mirrors_the_encoder():
    for sizes in (HIDDEN, tuple(HIDDEN), []):
        encoder = linear_sizes(make_encoder("mlp", (1, 3, 4), 2, sizes, "relu", False))
        decoder = linear_sizes(make_decoder("mlp", 2, (1, 3, 4), sizes, "relu", False))
        assert decoder == [(n_out, n_in) for n_in, n_out in reversed(encoder)]
    channels = [
        m.out_channels
        for m in make_encoder("conv", (1, 8, 8), 2, HIDDEN, "relu", False).modules()
        if isinstance(m, nn.Conv2d)
    ]
    mirrored = [
        m.in_channels
        for m in make_decoder("conv", 2, (1, 8, 8), HIDDEN, "relu", False).modules()
        if isinstance(m, nn.ConvTranspose2d)
    ]
    assert channels == HIDDEN
    assert mirrored == HIDDEN[::-1]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_against_its_formula(activation):
    network = mlp([3, 4, 5, 2], activation, False)
    nn.init.normal_(network[0].bias)
    x, f = torch.randn(6, 3), ACTIVATIONS[activation]()
    first, second, last = (layer for layer in network if isinstance(layer, nn.Linear))
    h = f(f(x @ first.weight.T + first.bias) @ second.weight.T)
    torch.testing.assert_close(network(x), h @ last.weight.T)


@encoders
@decoders
def test_batch_norm_is_before_each_activation_and_nowhere_else(encoder, decoder):
    for name, network in zip(("encoder", "decoder"), (
        make_encoder(encoder, (1, 8, 8), 4, HIDDEN, "relu", True),
        make_decoder(decoder, 4, (1, 8, 8), HIDDEN, "relu", True),
    ), strict=True):  # fmt: skip
        kinds = [type(layer) for layer in network.modules() if not list(layer.children())]
        norms = [i for i, kind in enumerate(kinds) if kind in (nn.BatchNorm1d, nn.BatchNorm2d)]
        activations = [i for i, kind in enumerate(kinds) if kind in (nn.ReLU, nn.GLU)]
        of_blocks = sum(2 for layer in network.modules() if isinstance(layer, ResidualBlock))
        assert len(activations) == (of_blocks + 1 if of_blocks else len(HIDDEN))
        without = int(name == "encoder" and encoder == "dcgan")  # not on the input of a discriminator
        assert [i + 1 for i in norms] == activations[without:]


@encoders
@decoders
def test_weights_are_glorot_uniform_and_biases_zero(encoder, decoder):
    networks = nn.ModuleList(
        [
            make_encoder(encoder, (1, 8, 8), 20, [60, 50], "relu", False),
            make_decoder(decoder, 20, (1, 8, 8), [60, 50], "relu", False),
        ]
    )
    gated = {
        id(layer)
        for name, network in zip((encoder, decoder), networks, strict=True)
        if name.startswith("gated")
        for layer in gated_layers(network)[0]
    }
    ends = {id(block.branch[-1]) for block in networks.modules() if isinstance(block, ResidualBlock)}
    for name, layer in networks.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) or name.endswith("place"):
            continue
        if "dcgan" in (encoder, decoder)[int(name[0])]:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()
            continue
        taps = layer.weight[0, 0].numel()
        factor = SMALL_BRANCH if id(layer) in ends else 1  # a residual block starts close to its shortcut
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of the weights
        halves = 2 if id(layer) in gated else 1  # values and gates are two layers
        for weight in layer.weight.chunk(halves, outputs):
            bound = factor * math.sqrt(6 / (sum(weight.shape[:2]) * taps))
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not layer.bias.any() or (decoder == "coordinate" and layer is networks[1].first)


@shapes
@decoders
def test_the_output_starts_at_the_training_mean(shape, decoder):
    mean = torch.rand(shape).square() * 0.8 + 0.1
    network = zeroed(make_decoder(decoder, 4, shape, HIDDEN, "relu", False))
    start_at_mean(network, mean)
    start = network(torch.randn(2, 4)).sigmoid()
    per_pixel = isinstance(network, MLPDecoder | ResNetDecoder)
    if not per_pixel:  # one bias per channel: it cannot do more than the channel's mean
        torch.testing.assert_close(start.mean((0, 2, 3)), mean.mean((1, 2)))
    else:
        torch.testing.assert_close(start, mean.expand(2, *shape))
    assert all(parameter.requires_grad for parameter in network.parameters())


@decoders
def test_pixels_that_are_always_0_or_1_start_at_the_clipped_mean(decoder):
    for value, clipped in ((0.0, 0.001), (1.0, 0.999)):
        network = zeroed(make_decoder(decoder, 4, (1, 8, 8), HIDDEN, "relu", False))
        start_at_mean(network, torch.full((1, 8, 8), value))
        torch.testing.assert_close(network(torch.zeros(1, 4)).sigmoid(), torch.full((1, 1, 8, 8), clipped))


@pytest.mark.parametrize(("call", "known"), [
    (lambda: make_encoder("transformer", (1, 8, 8), 4, None, "relu", False), ENCODERS),
    (lambda: make_decoder("transformer", 4, (1, 8, 8), None, "relu", False), DECODERS),
    (lambda: make_encoder("mlp", (1, 8, 8), 4, None, "rleu", False), ACTIVATIONS),
    (lambda: make_decoder("mlp", 4, (1, 8, 8), None, "rleu", False), ACTIVATIONS),
])  # fmt: skip
def test_an_unknown_name_lists_the_known_ones(call, known):
    with pytest.raises(ValueError, match=f"choose one of {', '.join(known)}"):
        call()


@pytest.mark.parametrize("hidden", [[0], [400, -1]])
def test_sizes_that_are_not_positive_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden must hold positive sizes"):
        make_encoder("mlp", (1, 8, 8), 4, hidden, "relu", False)
    with pytest.raises(ValueError, match="hidden must hold positive sizes"):
        make_decoder("mlp", 4, (1, 8, 8), hidden, "relu", False)


@pytest.mark.parametrize("decoder", ["conv", "coordinate", "dcgan", "resnet", "gated_conv"])
def test_a_decoder_that_needs_a_hidden_layer_refuses_none(decoder):
    with pytest.raises(ValueError, match=f"^The {decoder} decoder needs at least one entry in hidden, for example"):
        make_decoder(decoder, 4, (1, 8, 8), [], "relu", False)


@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (2, 3, 5)])
def test_apply_rowwise_applies_a_network_to_the_last_dimension(leading):
    network, z = make_decoder("mlp", 4, (1, 2, 3), HIDDEN, "tanh", False), torch.randn(*leading, 4)
    y = apply_rowwise(network, z)
    assert y.shape == (*leading, 1, 2, 3)
    for index in torch.cartesian_prod(*map(torch.arange, leading)).view(-1, len(leading)).tolist() if leading else [[]]:
        torch.testing.assert_close(y[tuple(index)], network(z[tuple(index)][None])[0])


def test_a_new_registry_entry_works_with_any_model(monkeypatch):
    class Tiny(nn.Module):
        default_hidden = ()

        def __init__(self, image_shape, out_dim, hidden, activation, batch_norm, context_dim):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), out_dim))

        def forward(self, x):
            return self.layers(x)

    monkeypatch.setitem(ENCODERS, "tiny", Tiny)
    assert VAE((1, 8, 8), encoder="tiny").encode(torch.rand(3, 1, 8, 8)).shape == (3, 20)


@encoders
@decoders
def test_a_context_is_added_after_the_first_layer_and_broadcasts(encoder, decoder):
    labels = torch.eye(3)[:, None]  # (C, 1, C)
    encode = make_encoder(encoder, (1, 6, 5), 4, [7, 6], "relu", False, context_dim=3)
    decode = make_decoder(decoder, 2, (1, 6, 5), [7, 6], "relu", False, context_dim=3)
    for network, inputs, shape in ((encode, torch.rand(8, 1, 6, 5), (4,)), (decode, torch.randn(8, 2), (1, 6, 5))):
        first = []
        hook = network.first.register_forward_hook(lambda module, args, output, first=first: first.append(len(args[0])))
        every = network(inputs, labels)
        hook.remove()
        assert every.shape == (3, 8, *shape)
        assert first == [8]  # once per image, not per image and class
        for label in range(3):
            one = network(inputs, labels[label].expand(8, 3))
            torch.testing.assert_close(every[label], one)
        assert (every[0] - every[1]).abs().max() > 1e-4
