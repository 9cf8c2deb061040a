"""CoordinateDecoder, and the grid of pixel coordinates."""

import math

import pytest
import torch
from torch import nn

from models.networks import ENCODERS, make_decoder, make_encoder
from models.networks.coordinate import pixel_grid

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
ROTATION = torch.tensor([[0.8, -0.6, 0.1], [0.6, 0.8, -0.3]])  # and a shift


def coordinate(shape=(1, 6, 5), in_dim=4, hidden=(7, 6), batch_norm=False, context_dim=0):
    """Return a coordinate decoder with a context and non-zero biases."""
    decoder = make_decoder("coordinate", in_dim, shape, hidden, "tanh", batch_norm, context_dim)
    for layer in decoder.rest:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    return decoder


def naive(decoder, z, points, context=None):
    """Return the output `(P, C)` of the network on (x, y, z) of each pixel, for `z (in_dim,)` and `points (P, 2)`."""
    inputs = torch.cat([points, z.expand(len(points), -1)], 1)
    weight = torch.cat([decoder.place.weight, decoder.first.weight], 1)
    h = inputs @ weight.T + decoder.first.bias
    if context is not None:
        h = h + decoder.context.weight @ context
    return decoder.rest(h)


def points_of(height, width):
    """Return the pixel centres, row by row; the longer side goes from -1 to 1."""
    side = max(height, width)
    return torch.tensor(
        [((2 * j + 1 - width) / side, (2 * i + 1 - height) / side) for i in range(height) for j in range(width)]
    )


def as_image(values, height, width):
    return values.T.reshape(-1, height, width)


# The grid


def test_a_grid_of_two_by_two_pixels():
    expected = [[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]]  # x to the right, y downwards
    assert pixel_grid(2, 2).tolist() == expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (20, 31), (31, 20), (1, 4), (7, 7)])
def test_centres_of_pixels_in_one_unit_for_both_axes(height, width):
    grid = pixel_grid(height, width)
    assert grid.shape == (height, width, 2)
    torch.testing.assert_close(grid.flatten(0, 1), points_of(height, width))
    torch.testing.assert_close(grid.mean((0, 1)), torch.zeros(2))
    side = 2 / max(height, width)  # of a pixel
    torch.testing.assert_close(grid.flatten(0, 1).amax(0) + side / 2, torch.tensor([width, height]) * side / 2)
    for axis, n in ((1, width), (0, height)):
        steps = grid.diff(dim=axis)
        expected = torch.zeros(2).index_fill(0, torch.tensor(1 - axis), side)
        torch.testing.assert_close(steps, expected.expand_as(steps), msg=f"axis {axis} of {n} pixels")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (20, 31), (5, 2)])
@pytest.mark.parametrize("times", [2, 4])
def test_a_finer_grid_covers_the_same_range(height, width, times):
    fine = pixel_grid(times * height, times * width).permute(2, 0, 1)
    coarse = nn.functional.avg_pool2d(fine[None], times)[0]
    torch.testing.assert_close(coarse.permute(1, 2, 0), pixel_grid(height, width))


# The decoder against the naive network


@shapes
@pytest.mark.parametrize("context_dim", [0, 3])
@torch.no_grad()
def test_it_is_the_network_of_concatenated_coordinates_and_code(shape, context_dim):
    decoder = coordinate(shape, context_dim=context_dim)
    z, context = torch.randn(5, 4), torch.eye(3)[[0, 2, 1, 1, 0]] if context_dim else None
    drawn = decoder(z, context)
    assert drawn.shape == (5, *shape)
    for i in range(5):
        expected = naive(decoder, z[i], points_of(*shape[1:]), context[i] if context_dim else None)
        torch.testing.assert_close(drawn[i], as_image(expected, *shape[1:]), rtol=1e-4, atol=1e-5)
    assert drawn.std((-2, -1)).min() > 0.01  # the image is not constant


@shapes
@torch.no_grad()
def test_a_transform_moves_the_coordinates_and_nothing_else(shape):
    decoder, z = coordinate(shape), torch.randn(3, 4)
    maps = torch.stack([ROTATION, torch.randn(2, 3), torch.eye(2, 3)])
    drawn = decoder(z, transform=maps)
    for i in range(3):
        moved = torch.tensor(
            [[(row[0] * x + row[1] * y + row[2]).item() for row in maps[i]] for x, y in points_of(*shape[1:]).tolist()]
        )
        expected = as_image(naive(decoder, z[i], moved), *shape[1:])
        torch.testing.assert_close(drawn[i], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn[2], decoder(z)[2])  # the identity has no effect
    assert (drawn[0] - decoder(z)[0]).abs().max() > 0.01


@pytest.mark.parametrize("leading", [(), (5,), (3, 5), (2, 3, 5)])
@torch.no_grad()
def test_leading_dimensions(leading):
    decoder = coordinate()
    z, maps = torch.randn(*leading, 4), ROTATION + 0.3 * torch.randn(*leading, 2, 3)
    drawn = decoder(z, transform=maps)
    assert drawn.shape == (*leading, 1, 6, 5)
    flat = decoder(z.reshape(-1, 4), transform=maps.reshape(-1, 2, 3))
    torch.testing.assert_close(drawn, flat.view(*leading, 1, 6, 5))
    torch.testing.assert_close(decoder(z, transform=ROTATION), decoder(z, transform=ROTATION.expand(*leading, 2, 3)))


@torch.no_grad()
def test_a_context_of_all_classes_with_a_transform_of_each_image():
    decoder = coordinate(context_dim=3)
    z, maps, labels = torch.randn(5, 4), ROTATION + 0.3 * torch.randn(5, 2, 3), torch.eye(3)[:, None]
    drawn = decoder(z, labels, maps)
    assert drawn.shape == (3, 5, 1, 6, 5)
    for label in range(3):
        torch.testing.assert_close(drawn[label], decoder(z, labels[label].expand(5, 3), maps))


@torch.no_grad()
def test_the_part_of_the_code_is_computed_once_per_image():
    decoder, seen = coordinate((1, 28, 28)), []
    decoder.first.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape)))
    decoder(torch.randn(2, 5, 4), transform=torch.randn(2, 5, 2, 3))
    assert seen == [(2, 5, 4)]


@pytest.mark.parametrize("size", [(1, 1), (6, 5), (12, 10), (9, 40)])
@torch.no_grad()
def test_any_size_shows_the_same_image(size):
    decoder, z = coordinate((3, 6, 5)), torch.randn(2, 4)
    drawn = decoder(z, transform=ROTATION, size=size)
    assert drawn.shape == (2, 3, *size)
    expected = naive(decoder, z[0], points_of(*size) @ ROTATION[:, :2].T + ROTATION[:, 2])
    torch.testing.assert_close(drawn[0], as_image(expected, *size), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_takes_all_pixels_of_all_images_together(training):
    decoder = coordinate(batch_norm=True).train(training)
    norm = next(layer for layer in decoder.rest if isinstance(layer, nn.BatchNorm1d))
    z, points = torch.randn(5, 4), points_of(6, 5)
    h = torch.cat([points @ decoder.place.weight.T + decoder.first(z_i) for z_i in z])  # (5 P, h)
    if training:
        expected = (h - h.mean(0)) / (h.var(0, unbiased=False) + norm.eps).sqrt()
    else:
        expected = h / math.sqrt(1 + norm.eps)  # statistics of a new layer: 0 and 1
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append(output))
    decoder(z)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


# Precision and gradients


def test_the_gradient_reaches_code_place_and_transform():
    decoder, z, maps = coordinate(), torch.randn(3, 4, requires_grad=True), torch.randn(3, 2, 3, requires_grad=True)
    decoder(z, transform=maps).square().sum().backward()
    for value in (z, maps, decoder.place.weight, decoder.first.weight, decoder.first.bias):
        assert (value.grad != 0).all()


def test_gradients_against_finite_differences():
    decoder = coordinate((1, 3, 2)).double()
    z, maps = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    inputs = (z.requires_grad_(), maps.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, maps: decoder(z, transform=maps), inputs)


@torch.no_grad()
def test_autocast_places_pixels_in_32_bits():
    decoder, z = make_decoder("coordinate", 4, (1, 8, 8), (32, 32), "tanh", False), torch.randn(5, 4)
    size = (400, 400)  # in bfloat16 neighbouring pixels would have the same coordinates
    expected = decoder(z, transform=ROTATION, size=size)
    seen = []
    decoder.rest[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        drawn = decoder(z, transform=ROTATION, size=size)
    assert seen[0].dtype == torch.float32
    assert drawn.dtype == torch.bfloat16
    assert (drawn.float() - expected).abs().mean() < 0.02 * expected.std()
    fields = seen[0].view(5, *size, -1)
    assert (fields.diff(dim=1).abs().amax((0, 1, 2)) > 0).all()
    assert (fields.diff(dim=2) == 0).double().mean() < 0.01


@pytest.mark.parametrize("encoder", ENCODERS)
@shapes
def test_it_works_with_any_encoder(encoder, shape):
    network = nn.Sequential(make_encoder(encoder, shape, 4, None, "relu", False), coordinate(shape, hidden=None))
    x = torch.rand(2, *shape)
    y = network(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(parameter.grad.any() for parameter in network[0].rest[-1].parameters())


# Initialization


def test_initial_units_have_steep_slopes_spread_over_the_image():
    decoder = make_decoder("coordinate", 4, (1, 28, 28), [10, 4000], "tanh", False)
    slope, bias = decoder.place.weight.detach(), decoder.first.bias.detach()
    assert slope.shape == (4000, 2)
    assert slope.std().item() == pytest.approx(3, rel=0.05)
    distance = (bias / slope.norm(dim=1)).abs()  # distance from the centre of the image to where a unit is 0, at z = 0
    assert (distance < 1).float().mean() > 0.6
    assert ((distance > 0.3) & (distance < 1)).float().mean() > 0.3
