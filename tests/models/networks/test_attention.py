"""Grids of Gaussian filters against loops over pixels, and reading and writing through them."""

import math

import pytest
import torch

from models.networks.attention import (
    EPSILON,
    covering_parameters,
    filterbank,
    filterbanks,
    make_grid,
    read_patch,
    write_patch,
)
from models.networks.canvas import AttentionCanvas, WholeCanvas

SIZES = [(7, 7), (4, 9), (9, 4)]  # height and width
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def naive_filterbank(g, delta, variance, N, size):
    """Return F (N, size) pixel by pixel, with i and a counted from 1 as in the paper."""
    F = torch.zeros(N, size, dtype=torch.float64)
    for i in range(1, N + 1):
        mu = g + (i - N / 2 - 0.5) * delta
        row = [math.exp(-((a - mu) ** 2) / (2 * variance)) for a in range(1, size + 1)]
        for a in range(size):
            F[i - 1, a] = row[a] / max(sum(row), EPSILON)
    return F


@pytest.mark.parametrize("N", [2, 5])
@pytest.mark.parametrize(("g", "delta", "variance"), [
    (5.0, 2.0, 1.0), (1.0, 3.0, 0.5), (9.0, 1.0, 4.0),  # inside, at the first pixel, at the last
    (0.0, 1.5, 0.3), (-4.0, 2.0, 1.0), (20.0, 0.5, 2.0),  # partly and wholly outside
    (-1e3, 10.0, 1.0), (1e6, 1.0, 1e-4), (4.5, 1e5, 1.0), (4.5, 2.0, 1e-4), (5.0, 0.0, 1e4),
])  # fmt: skip
def test_a_filterbank_pixel_by_pixel(N, g, delta, variance):
    F = filterbank(torch.tensor(g), torch.tensor(delta), torch.tensor(variance), N, 9)
    torch.testing.assert_close(F.double(), naive_filterbank(g, delta, variance, N, 9), rtol=1e-3, atol=1e-6)
    assert (F.sum(-1) < 1 + 1e-5).all()


@pytest.mark.parametrize(("g", "total"), [(1.0, 1), (9.0, 1), (-3.0, 1), (-60.0, 0), (1e4, 0)])
def test_a_filter_sums_to_1_and_fades_only_far_outside_the_image(g, total):
    g = torch.tensor(g, requires_grad=True)
    F = filterbank(g, torch.tensor(1.0), torch.tensor(1.0), 3, 9)
    torch.testing.assert_close(F.sum(-1), torch.full((3,), float(total)), rtol=0, atol=1e-5)
    F[0, 0].backward()
    assert g.grad.isfinite()


@sizes
def test_filterbanks_of_both_axes(size):
    torch.manual_seed(0)
    grid = make_grid(torch.randn(3, 2, 5), 3, *size)
    F_Y, F_X = filterbanks(grid, 3, *size)
    assert F_Y.shape == (3, 2, 3, size[0])
    assert F_X.shape == (3, 2, 3, size[1])
    for index in ((0, 0), (1, 1), (2, 0)):
        g_x, g_y, delta, variance, _ = (part[index].item() for part in grid)
        for F, g, pixels in ((F_Y, g_y, size[0]), (F_X, g_x, size[1])):
            expected = naive_filterbank(g, delta, variance, 3, pixels)
            torch.testing.assert_close(F[index].double(), expected, rtol=1e-3, atol=1e-5)


@sizes
def test_the_grid_of_zeros_spans_the_longer_side(size):
    grid = make_grid(torch.zeros(5), 4, *size)
    assert (grid.x.item(), grid.y.item()) == ((size[1] + 1) / 2, (size[0] + 1) / 2)
    assert 3 * grid.stride.item() == pytest.approx(max(size) - 1)
    assert (grid.variance.item(), grid.gain.item()) == (1, 1)


def test_the_grid_has_32_bits_in_networks_of_16():
    assert {part.dtype for part in make_grid(torch.randn(3, 5).bfloat16(), 4, 7, 9)} == {torch.float32}


@pytest.mark.parametrize("N", [2, 5])
def test_the_covering_grid_has_a_filter_at_the_centre_of_each_cell(N):
    grid = make_grid(torch.tensor(covering_parameters(N, 20, 20, gain=0.1)), N, 20, 20)
    edges = grid.x + torch.tensor([-N / 2, N / 2]) * grid.stride
    torch.testing.assert_close(edges, torch.tensor([0.5, 20.5]))  # of the first and of the last pixel
    assert grid.variance.sqrt().item() == pytest.approx(20 / N / 2, rel=1e-4)
    assert grid.gain.item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e6])
def test_extreme_parameters_give_finite_filters_and_gradients(scale):
    parameters = (scale * torch.randn(50, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    grid = make_grid(parameters, 5, 28, 28)
    F_Y, F_X = filterbanks(grid, 5, 28, 28)
    patches = grid.gain[:, None, None, None] * read_patch(torch.ones(50, 1, 28, 28), F_Y, F_X)
    (patches + write_patch(patches, F_Y, F_X).mean()).sum().backward()
    assert patches.isfinite().all()
    assert parameters.grad.isfinite().all()


@sizes
def test_reading_and_writing_pixel_by_pixel(size):
    """Reading is F_Y x F_X^T and writing F_Y^T w F_X, for each channel; leading dimensions broadcast."""
    torch.manual_seed(0)
    F_Y, F_X = filterbanks(make_grid(torch.randn(2, 3, 5), 4, *size), 4, *size)
    x, w = torch.randn(3, 2, *size), torch.randn(2, 3, 2, 4, 4)
    patches, images = read_patch(x, F_Y, F_X), write_patch(w, F_Y, F_X)
    assert patches.shape == (2, 3, 2, 4, 4)
    assert images.shape == (2, 3, 2, *size)
    for k, b, c in ((0, 0, 0), (1, 2, 1), (0, 1, 1)):
        fy, fx = F_Y[k, b], F_X[k, b]
        for m, n in ((0, 0), (3, 1)):
            pixels = [(r, s) for r in range(size[0]) for s in range(size[1])]
            expected = sum(fy[m, r] * fx[n, s] * x[b, c, r, s] for r, s in pixels)
            torch.testing.assert_close(patches[k, b, c, m, n], expected, rtol=1e-4, atol=1e-5)
        for r, s in ((0, 0), (size[0] - 1, 2)):
            expected = sum(fy[m, r] * fx[n, s] * w[k, b, c, m, n] for m in range(4) for n in range(4))
            torch.testing.assert_close(images[k, b, c, r, s], expected, rtol=1e-4, atol=1e-5)


CANVASES = [
    lambda size: WholeCanvas((2, *size), 3, 6),
    lambda size: AttentionCanvas((2, *size), 3, 6, read_size=2, write_size=4),
]


@sizes
@pytest.mark.parametrize("make", CANVASES, ids=["whole", "attention"])
def test_the_sum_of_what_all_steps_write(make, size):
    torch.manual_seed(0)
    canvas, h = make(size), torch.randn(2, 3, 5, 6)  # five steps
    torch.nn.init.normal_(canvas.layer.bias, std=0.3)
    expected = sum(canvas.write(canvas.layer(h_t)) for h_t in h.unbind(-2))
    assert expected.shape == (2, 3, 3, *size)
    torch.testing.assert_close(canvas.write_all(h), expected, rtol=1e-4, atol=1e-4)


def test_a_new_canvas_reads_all_of_the_image_and_writes_to_all_of_it():
    canvas = AttentionCanvas((1, 28, 28), 1, 6, read_size=2, write_size=5)
    outputs = canvas.layer(torch.zeros(1, 6)).detach()
    x = torch.zeros(1, 1, 28, 28)
    x[..., 20, 6] = 1
    assert (canvas.read(x, -x, outputs)[0].abs() > 1e-5).sum() >= 2  # the quarter that the pixel is in, of x and x_err
    outputs[:, -25:] = 1
    written = canvas.write(outputs)
    assert 0.5 < written[..., 2:-2, 2:-2].min() < written.max() < 2
