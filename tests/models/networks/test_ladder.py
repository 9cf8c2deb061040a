"""The passes of a ladder: shapes, resolutions, initialisation."""

import pytest
import torch
from torch import nn

from models.networks.ladder import (
    ConvLadderDecoder,
    ConvLadderEncoder,
    LadderBlock,
    MLPLadderDecoder,
    MLPLadderEncoder,
    image_latent_shapes,
)

MLP = {"z_dim": [4, 3, 2], "hidden": [8, 7, 6], "activation": "relu", "batch_norm": False}
CONV = MLP | {"layers_per_scale": [1, 1, 1]}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (2, 1, 1)]
families = pytest.mark.parametrize(("encoder", "decoder", "options"), [
    (MLPLadderEncoder, MLPLadderDecoder, MLP), (ConvLadderEncoder, ConvLadderDecoder, CONV),
])  # fmt: skip


@families
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_signal_and_gradient_pass_in_any_shape(encoder, decoder, options, batch_norm, shape):
    torch.manual_seed(0)
    up, down = (kind(shape, **options | {"batch_norm": batch_norm}) for kind in (encoder, decoder))
    up.initialise("relu")
    down.initialise("relu")
    parameters = up(torch.rand(5, *shape))
    assert parameters.shape == (5, 2 * sum(down.sizes))
    image = down(torch.randn(2, 5, sum(down.sizes)))
    assert image.shape == (2, 5, *shape)
    chosen = []

    def choose(layer, parameters):
        chosen.append((layer, None if parameters is None else tuple(parameters.shape)))
        return torch.randn(2, 5, down.sizes[layer]) if parameters is None else parameters.chunk(2, -1)[0]

    image = down.image(down.descend(choose))
    assert chosen == [(2, None), (1, (2, 5, 2 * down.sizes[1])), (0, (2, 5, 2 * down.sizes[0]))]
    (parameters.square().sum() + image.square().sum()).backward()
    for network in (up, down):
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    assert all(head_gradient.abs().max() > 0 for head_gradient in (head.grad for head in down.heads.parameters()))


@families
def test_leading_dimensions_are_rows(encoder, decoder, options):
    torch.manual_seed(0)
    down = decoder((1, 8, 8), **options)
    z = torch.randn(3, 4, sum(down.sizes))
    torch.testing.assert_close(down(z), torch.stack([down(part) for part in z]), rtol=1e-4, atol=1e-5)


@families
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_output_starts_at_the_mean_image(encoder, decoder, options, shape):
    down = decoder(shape, **options)
    nn.init.zeros_(down.output.weight)
    mean = torch.rand(shape) * 0.8 + 0.1
    down.set_output_bias(mean)
    torch.testing.assert_close(down(torch.randn(3, sum(down.sizes))).sigmoid(), mean.expand(3, *shape))


def test_resolutions_are_halved_rounding_up():
    assert image_latent_shapes((1, 20, 31), [2, 3, 4, 5], [1, 2, 1]) == [
        (2, 10, 16), (3, 5, 8), (4, 5, 8), (5, 3, 4),
    ]  # fmt: skip


def test_a_residual_block_against_its_formula():
    torch.manual_seed(0)
    block, x = LadderBlock(3, "relu", batch_norm=False).double(), torch.randn(2, 3, 5, 5).double()
    first, second = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
    torch.testing.assert_close(block(x), x + second(first(x.relu()).relu()))
    block.shrink_branch()
    assert (block(x) - x).abs().max() < 0.5


def test_p_of_latents_in_a_fully_connected_ladder_depends_on_the_layer_above_alone():
    torch.manual_seed(0)
    down = MLPLadderDecoder((1, 8, 8), **MLP)
    z1, z2 = torch.randn(5, 4), torch.randn(5, 5)
    assert torch.equal(down(torch.cat([z1, z2], -1)), down(torch.cat([z1, 0 * z2], -1)))
