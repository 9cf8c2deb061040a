"""models/mmd.py: estimates of MMD^2 against a double loop and a closed form, their bias, gradients and precision."""

import math
import subprocess
import sys

import pytest
import torch

from models.mmd import RELATIVE_WIDTHS, gaussian_kernel, mmd, mmd2, squared_distances, widths_for, widths_without_data

WIDTHS = [0.5, 2.0, 5.0]


def double_loop(x, y, widths, unbiased):
    """MMD^2 by one kernel value at a time, in float64."""

    def mean_kernel(a, b, skip):
        values = [
            sum(math.exp(-((u - v) ** 2).sum().item() / (2 * s)) for s in widths)
            for i, u in enumerate(a.double().flatten(1))
            for j, v in enumerate(b.double().flatten(1))
            if not (skip and i == j)
        ]
        return sum(values) / len(values)

    return mean_kernel(x, x, unbiased) + mean_kernel(y, y, unbiased) - 2 * mean_kernel(x, y, False)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_equals_a_double_loop(shape, unbiased):
    x, y = torch.randn(7, *shape), torch.randn(5, *shape) + 0.5
    expected = double_loop(x, y, WIDTHS, unbiased)
    for widths in (WIDTHS, torch.tensor(WIDTHS)):
        assert mmd2(x, y, widths, unbiased).item() == pytest.approx(expected, abs=1e-6)
    assert mmd(x, y, WIDTHS).item() == pytest.approx(math.sqrt(double_loop(x, y, WIDTHS, False)), abs=1e-6)


def closed_form(mean, var_x, var_y, dim, widths):
    """MMD^2 between N(0, var_x I) and N(mean, var_y I) in `dim` dimensions; `mean` is the same in each dimension.

    E exp(-||u||^2 / (2 s)) for u ~ N(m, v I) is (s / (s + v))^(dim / 2) exp(-||m||^2 / (2 (s + v))).
    """

    def expected(shift, var, s):
        return (s / (s + var)) ** (dim / 2) * math.exp(-dim * shift**2 / (2 * (s + var)))

    return sum(
        expected(0, 2 * var_x, s) + expected(0, 2 * var_y, s) - 2 * expected(mean, var_x + var_y, s) for s in widths
    )


@pytest.mark.parametrize(("mean", "var_x", "var_y"), [(0.0, 1.0, 1.0), (0.5, 1.0, 1.0), (0.0, 1.0, 2.5), (1, 0.5, 2)])
def test_agrees_with_the_closed_form_for_two_gaussians(mean, var_x, var_y):
    """Within 4.5 standard errors of the mean of unbiased estimates, which are small against the difference."""
    dim, repeats, n = 3, 400, 60
    estimates = torch.stack([
        mmd2(var_x**0.5 * torch.randn(n, dim), mean + var_y**0.5 * torch.randn(n + 20, dim), WIDTHS, unbiased=True)
        for _ in range(repeats)
    ])  # fmt: skip
    truth, error = closed_form(mean, var_x, var_y, dim, WIDTHS), (estimates.std() / repeats**0.5).item()
    assert abs(estimates.mean().item() - truth) < 4.5 * error
    assert error < (0.002 if truth == 0 else 0.05 * truth)


def test_a_large_sample_is_close_to_the_closed_form():
    x, y = torch.randn(4000, 2), 0.7 + torch.randn(4000, 2)
    assert mmd2(x, y, WIDTHS).item() == pytest.approx(closed_form(0.7, 1, 1, 2, WIDTHS), rel=0.08)


def test_two_halves_of_one_sample_have_mmd_zero_in_the_mean():
    """The unbiased estimate scatters around 0; the biased one has the positive bias of its diagonal terms."""
    n, repeats = 40, 500
    halves = [torch.randn(2 * n, 3).split(n) for _ in range(repeats)]
    unbiased = torch.stack([mmd2(x, y, WIDTHS, unbiased=True) for x, y in halves])
    biased = torch.stack([mmd2(x, y, WIDTHS) for x, y in halves])
    assert abs(unbiased.mean()) < 4.5 * unbiased.std() / repeats**0.5
    assert (unbiased < 0).float().mean() > 0.3
    assert (biased > 0).all()
    mean_kernel = sum((s / (s + 2)) ** 1.5 for s in WIDTHS)  # E k(x, x') for two independent samples
    assert biased.mean().item() == pytest.approx(2 * (len(WIDTHS) - mean_kernel) / n, rel=0.05)


@pytest.mark.parametrize("shift", [0.0, 1e-3, 30.0])
def test_the_biased_estimate_is_not_negative(shift):
    x = torch.rand(50, 20)
    for y in (x, x.flip(0), x + shift, torch.rand(30, 20) + shift):
        assert mmd2(x, y, WIDTHS) > -1e-6  # rounding
        assert mmd(x, y, WIDTHS) >= 0


def test_far_apart_samples_have_the_largest_value():
    x = torch.randn(1, 3).expand(4, -1)
    assert mmd2(x, x + 1e3, WIDTHS).item() == pytest.approx(2 * len(WIDTHS), rel=1e-6)


@pytest.mark.parametrize("estimate", [mmd, mmd2, lambda x, y, w: mmd2(x, y, w, unbiased=True)])
def test_gradients_are_those_of_a_double_loop(estimate):
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    estimate(x, y, WIDTHS).backward()
    unbiased = estimate not in (mmd, mmd2)
    expected = torch.zeros_like(y)
    with torch.no_grad():
        for i in range(5):
            for s in WIDTHS:
                for other, weight in ((y, 2 / (5 * (4 if unbiased else 5))), (x, -2 / (5 * 6))):
                    for v in other:
                        k = torch.exp(-((y[i] - v) ** 2).sum() / (2 * s))
                        expected[i] += weight * k * -(y[i] - v) / s
        if estimate is mmd:
            expected /= 2 * mmd(x, y, WIDTHS)
    torch.testing.assert_close(y.grad, expected)


def test_the_gradient_at_identical_samples_is_finite():
    """The slope of the square root is infinite at 0, and so is that of a norm at equal samples."""
    x = torch.rand(20, 5)
    for estimate in (mmd, mmd2):
        y = x.clone().requires_grad_()
        estimate(x, y, WIDTHS).backward()
        assert y.grad.isfinite().all()
    same = torch.ones(8, 5, requires_grad=True)
    mmd(torch.ones(8, 5), same, WIDTHS).backward()
    assert same.grad.isfinite().all()


def test_numerical_gradient():
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: mmd(x, y, WIDTHS), y)


@pytest.mark.parametrize("mean", [0.0, 0.5, 1000.0])
def test_squared_distances_are_precise_in_float32(mean):
    """Without centring, a mean of 1000 would cost all digits: ||x||^2 is then 8e8, and its rounding 64."""
    x, y = mean + torch.rand(50, 784), mean + torch.rand(40, 784)
    exact = (x.double()[:, None] - y.double()).square().sum(-1)
    assert (squared_distances(x, y) - exact).abs().max() < 1e-4 * exact.mean()
    near = y + 1e-2 * torch.randn_like(y)  # squared distances of about 0.08 between images that are 130 apart
    exact = (near.double() - y.double()).square().sum(-1)
    assert (squared_distances(near, y).diagonal() - exact).abs().max() < 2e-4
    own = squared_distances(y, y)
    assert (own >= 0).all()
    assert own.diagonal().max() < 2e-4


def test_autocast_does_not_reduce_the_precision():
    x, y = torch.rand(50, 784), torch.rand(50, 784).requires_grad_()
    expected = mmd(x, y, [2.0, 20.0])
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd(x, y, [2.0, 20.0])
    assert torch.equal(found, expected)
    assert mmd2(x.bfloat16(), y.bfloat16(), WIDTHS).dtype == torch.float32


def test_a_kernel_is_a_sum_over_widths():
    squared = torch.tensor([0.0, 1.0, 4.0])
    assert gaussian_kernel(squared, WIDTHS)[0] == len(WIDTHS)
    torch.testing.assert_close(gaussian_kernel(squared, [2.0]), torch.exp(-squared / 4))


def test_default_widths_follow_the_scale_of_the_data():
    x = torch.randn(2000, 1, 5, 5)
    mean_distance = squared_distances(x.flatten(1), x.flatten(1)).sum() / (2000 * 1999)
    torch.testing.assert_close(widths_for(x), mean_distance * torch.tensor(RELATIVE_WIDTHS))
    torch.testing.assert_close(widths_for(10 * x), 100 * widths_for(x))
    assert (widths_for(torch.ones(5, 1, 2, 2)) > 0).all()
    torch.testing.assert_close(widths_for(torch.rand(20_000, 3, 4)), widths_without_data(12), rtol=0.02, atol=0)


def test_too_few_samples_are_refused():
    one, two = torch.rand(1, 3), torch.rand(2, 3)
    assert mmd2(one, two, WIDTHS).isfinite()
    for x, y in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"^The unbiased estimate of MMD\^2 needs at least 2 samples of each kind"):
            mmd2(x, y, WIDTHS, unbiased=True)
    with pytest.raises(ValueError, match="at least 1 samples"):
        mmd2(one[:0], two, WIDTHS)


MEMORY = """
import resource, torch
from models.mmd import mmd
torch.set_num_threads(1)
x, y = torch.rand(1000, 784), torch.rand(1000, 784, requires_grad=True)
mmd(x[:10], y[:10], [2, 5, 10, 20, 40, 80]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mmd(x, y, [2, 5, 10, 20, 40, 80]).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_a_batch_of_1000_images_takes_little_memory():
    """About 25 matrices of 4 MiB; differences x - y of all pairs would take 3 GiB."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 250
