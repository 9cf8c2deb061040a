"""Gated networks: their formula, their initialisation, and the options that have no effect on them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from models import SDGM, VAE, HierarchicalVAE
from models.networks import INITS, make_decoder, make_encoder, start_at_mean
from models.networks.gated import fan_in, gated_layers, gated_mlp

NAMES = ("gated", "gated_conv")
names = pytest.mark.parametrize("name", NAMES)
inits = pytest.mark.parametrize("init", INITS)
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31)]


def with_random_biases(network):
    """Return the network in double precision with biases that are not zero."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return network.double()


def halves(layer, outputs=0):
    """Return W, V, b and c of a layer; `outputs` is the dimension of the weights that the outputs are in."""
    return *layer.weight.chunk(2, outputs), *layer.bias.chunk(2)


# Formulas


@pytest.mark.parametrize("context_dim", [0, 3])
def test_gated_layers_against_their_formula(context_dim):
    encoder = with_random_biases(make_encoder("gated", (1, 3, 4), 5, [6, 7], "relu", False, context_dim))
    x, y = torch.rand(8, 1, 3, 4).double(), torch.eye(3).double()[torch.arange(8) % 3]
    (first, second), output = gated_layers(encoder)
    W, V, b, c = halves(first)
    values, gates = x.flatten(1) @ W.T + b, x.flatten(1) @ V.T + c
    if context_dim:
        for_values, for_gates = encoder.context.weight.chunk(2)
        values, gates = values + y @ for_values.T, gates + y @ for_gates.T
    h = values * gates.sigmoid()
    W, V, b, c = halves(second)
    h = (h @ W.T + b) * (h @ V.T + c).sigmoid()
    expected = h @ output.weight.T + output.bias
    torch.testing.assert_close(encoder(x, y) if context_dim else encoder(x), expected)


def test_the_decoder_mirrors_the_gated_encoder():
    decoder = with_random_biases(make_decoder("gated", 5, (1, 3, 4), [6, 7], "relu", False))
    z = torch.randn(8, 5).double()
    (first, second), output = gated_layers(decoder)
    assert [layer.weight.shape for layer in (first, second, output)] == [(14, 5), (12, 7), (12, 6)]
    h = z
    for layer in (first, second):
        W, V, b, c = halves(layer)
        h = (h @ W.T + b) * (h @ V.T + c).sigmoid()
    torch.testing.assert_close(decoder(z), (h @ output.weight.T + output.bias).view(8, 1, 3, 4))


def test_gated_convolutions_against_their_formula():
    encoder = with_random_biases(make_encoder("gated_conv", (2, 7, 6), 5, [3, 4], "relu", False))
    x = torch.rand(8, 2, 7, 6).double()
    (first, second), output = gated_layers(encoder)
    h = x
    for layer in (first, second):
        W, V, b, c = halves(layer)
        h = conv2d(h, W, b, stride=2, padding=1) * conv2d(h, V, c, stride=2, padding=1).sigmoid()
    torch.testing.assert_close(encoder(x), h.flatten(1) @ output.weight.T + output.bias)


def test_gated_transposed_convolutions_against_their_formula():
    decoder = with_random_biases(make_decoder("gated_conv", 5, (2, 8, 8), [3, 4], "relu", False))
    z = torch.randn(8, 5).double()
    (first, second), output = gated_layers(decoder)
    values, gates = first(z).view(8, 2, 4, 2, 2).unbind(1)
    h = values * gates.sigmoid()
    W, V, b, c = halves(second, outputs=1)
    size = {"stride": 2, "padding": 1, "output_padding": 1}
    h = conv_transpose2d(h, W, b, **size) * conv_transpose2d(h, V, c, **size).sigmoid()
    torch.testing.assert_close(decoder(z), conv_transpose2d(h, output.weight, output.bias, **size))


# Initialisation


@pytest.mark.parametrize("layer", [nn.Linear(12, 5), nn.Conv2d(4, 3, 3), nn.ConvTranspose2d(16, 3, 3, stride=2)])
def test_fan_in_is_the_number_of_inputs_of_an_output(layer):
    assert fan_in(layer) == {nn.Linear: 12, nn.Conv2d: 36, nn.ConvTranspose2d: 36}[type(layer)]


def test_the_mean_square_of_inputs_is_kept_by_deep_networks_with_the_default_initialisation():
    torch.manual_seed(0)
    network = make_encoder("gated", (1, 16, 16), 10, [400] * 6, "relu", False, init="default")
    h, sizes = network.first(torch.randn(500, 1, 16, 16)), []
    for layer in network.rest[:-1]:
        h = layer(h)
        if isinstance(layer, nn.GLU):
            sizes.append(h.square().mean().item())
    assert len(sizes) == 6
    assert all(0.7 < size < 1.4 for size in sizes)


@names
@inits
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_signal_and_gradient_pass_from_the_start(name, init, shape):
    encoder = make_encoder(name, shape, 5, None, "relu", False, 3, init)
    decoder = make_decoder(name, 5, shape, None, "relu", False, 3, init)
    mean = torch.rand(shape) * 0.8 + 0.1
    start_at_mean(decoder, mean)
    x, y = torch.bernoulli(torch.rand(20, *shape)), torch.eye(3)[torch.arange(20) % 3]
    codes = encoder(x, y)
    images = decoder(codes, y)
    assert codes.std(0).min() > 1e-2
    assert images.std(0).mean() > 1e-4
    images.square().mean().backward()
    for network in (encoder, decoder):
        for parameter in network.parameters():
            halves_of_gradient = parameter.grad.chunk(2)
            assert all(half.abs().max() > 0 for half in halves_of_gradient)


@names
def test_the_decoder_starts_near_the_mean_image(name):
    mean = torch.rand(1, 28, 28) * 0.2 + 0.1
    decoder = make_decoder(name, 5, (1, 28, 28), None, "relu", False, init="default")
    start_at_mean(decoder, mean)
    start = decoder(torch.randn(50, 5)).sigmoid()
    expected = mean if name == "gated" else mean.mean().expand_as(mean)  # a convolution has one bias per channel
    assert (start.mean(0) - expected).abs().mean() < 0.02


@names
@inits
def test_a_vae_of_sparse_images_learns_and_keeps_its_latents(name, init):
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(200, 1, 8, 8)
    rows[torch.arange(200), 0, torch.randint(8, (200,), generator=generator)] = 1.0
    torch.manual_seed(0)
    model = VAE((1, 8, 8), z_dim=4, encoder=name, decoder=name, hidden=[16, 16], init=init, beta_warmup=0)
    model.start_at_mean(rows.mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model.loss(rows, None)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss.item() < 15  # 24.1 nats for a model that ignores z
    assert (model.posterior(rows).mean.var(0) > 0.01).any()


# Options


@names
@pytest.mark.parametrize("model", [VAE, HierarchicalVAE])
def test_an_activation_that_has_no_effect_is_said(fit, binary, name, model):
    sizes = {"z_dim": [3, 2]} if model is HierarchicalVAE else {}
    vae = model((1, 8, 8), encoder=name, decoder=name, hidden=[4], activation="tanh", **sizes)
    sentence = f"^activation tanh has no effect: all hidden layers of encoder {name} and decoder {name} are gated.$"
    with pytest.warns(UserWarning, match=sentence):
        fit(vae, [binary(8)])


@names
def test_an_activation_that_has_an_effect_is_no_reason_for_a_warning(name):
    assert not VAE((1, 8, 8), encoder=name, decoder=name, hidden=[4]).has_activation
    assert VAE((1, 8, 8), encoder=name, hidden=[4]).has_activation  # of the decoder
    options = {"num_classes": 2, "labelled_fraction": 0.5, "hidden": [4]}
    assert SDGM((1, 8, 8), **options, encoder=name, decoder=name).has_activation  # of p(a|y,z)


@names
def test_layers_between_latents_are_gated_where_the_networks_are(name):
    model = HierarchicalVAE((1, 8, 8), z_dim=[3, 2], inner_hidden=[5, 4], hidden=[6], encoder=name)
    gates = [[isinstance(layer, nn.GLU) for layer in network] for network in (model.q_nets[0], model.p_nets[0])]
    assert gates == [[False, True, False, True, False], [False] * 5]
    model = HierarchicalVAE((1, 8, 8), z_dim=[3, 2], inner_hidden=[5, 4], hidden=[6], decoder=name)
    gates = [[isinstance(layer, nn.GLU) for layer in network] for network in (model.q_nets[0], model.p_nets[0])]
    assert gates == [[False] * 5, [False, True, False, True, False]]


def test_batch_norm_is_over_values_and_gates():
    network = gated_mlp([3, 4, 2], "relu", True)
    assert [type(layer) for layer in network] == [nn.Linear, nn.BatchNorm1d, nn.GLU, nn.Linear]
    assert network[1].num_features == 8
