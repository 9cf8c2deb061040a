"""log p(x) of a generator with p(x|z) = N(x; g(z), sigma^2 I), for many sigma by one run of AIS.

Chains from the prior to the smallest sigma pass every larger one: at inverse temperature t, the density
p(z) exp(-t ||x - g(z)||^2 / 2) is, up to a constant, the posterior for sigma^2 = 1 / t. So the weights along a chain
estimate p(x) for all sigma of a grid, each without bias.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.base import evaluating
from models.estimators.ais import RATE, TARGET, Path, hmc_step

# Grid of sigma^2, in squared units of pixels. The values chosen in Wu et al. (2017) are between 0.005 and 0.03.
VARIANCES = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2)
CHAINS = 2
LEAPFROGS = 5
STEPS_TO_FIRST = 100  # temperatures from the prior to the largest variance
STEPS_BETWEEN = 20  # temperatures from one variance of the grid to the next
FIRST_PRECISION = 1e-3  # first temperature after the prior, as a fraction of the largest variance's precision
WARM_UP = 20  # moves that find the scale of the step sizes


def precisions(variances: Sequence[float]) -> tuple[list[float], list[int]]:
    """Return the inverse temperatures t = 1 / sigma^2 of the chains, from 0 up, and the positions of the grid in them.

    Args:
        variances: The grid of sigma^2, in increasing order.
    """
    descending = [1 / variance for variance in reversed(variances)]
    path, positions = [0.0, *geometric(FIRST_PRECISION * descending[0], descending[0], STEPS_TO_FIRST)], []
    positions.append(len(path) - 1)
    for low, high in pairwise(descending):
        path += geometric(low, high, STEPS_BETWEEN + 1)[1:]
        positions.append(len(path) - 1)
    return path, positions[::-1]


def geometric(low: float, high: float, n: int) -> list[float]:
    """Return n numbers from `low` to `high`, evenly spaced in their logarithm."""
    return torch.linspace(math.log(low), math.log(high), n, dtype=torch.float64).exp().tolist()


def squared_error_path(model, x: Tensor) -> Path:
    """Return the path p(z) exp(-t ||x - g(z)||^2 / 2) for images `(B, C, H, W)`.

    Args:
        model: An `ImplicitModel` whose observation_scale is 1.
        x: Images.
    """
    constant = x[0].numel() / 2 * math.log(2 * math.pi)
    return Path(model.ais_prior().expand((len(x),)), lambda z: model.ais_log_px(x, z) + constant)


def number_of_moves(variances: Sequence[float] = VARIANCES) -> int:
    """Return the number of moves of the chains in `log_px_of_scales`, which is the length of its progress bar."""
    return WARM_UP + 2 * (len(precisions(variances)[0]) - 1)


def log_px_of_scales(
    model,
    x: Tensor,
    variances: Sequence[float] = VARIANCES,
    seed: int = 0,
    moved: Callable[[], object] = lambda: None,
) -> Tensor:
    """Estimate log p(x) for each sigma^2 of a grid, `(S, B)` in float64, in nats per image.

    The step sizes adapt in a first run and are fixed in a second one, whose weights are therefore unbiased.

    Args:
        model: An `ImplicitModel`; its observation_scale is not used.
        x: Images `(B, C, H, W)` in [0, 1].
        variances: The grid of sigma^2, in increasing order.
        seed: Seed of the noise.
        moved: Called after each move of the chains.
    """
    x, before = model.as_images(x), model.observation_scale
    path_precisions, positions = precisions(variances)
    model.observation_scale = 1.0
    try:
        with evaluating(model, seed):
            path = squared_error_path(model, x)
            steps = adapted_steps(path, path_precisions, moved)
            log_w = log_weights(path, path_precisions, steps, moved)  # (T + 1, C, B)
    finally:
        model.observation_scale = before
    log_integral = log_w[positions].logsumexp(1) - math.log(CHAINS)  # (S, B)
    normalisers = torch.tensor(variances, dtype=torch.float64).mul(2 * math.pi).log() * x[0].numel() / 2
    return log_integral.cpu() - normalisers[:, None]


def adapted_steps(path: Path, path_precisions: Sequence[float], moved: Callable[[], object]) -> list[float]:
    """Return the step sizes for the temperatures after the first, adapted to the acceptance rate along the chains."""
    point, log_step, found = path.at(path.base.sample((CHAINS,))), math.log(0.5), []
    for precision in [*[path_precisions[1]] * WARM_UP, *path_precisions[1:]]:
        point, acceptance = hmc_step(path, point, precision, math.exp(log_step), LEAPFROGS)
        log_step += RATE * (acceptance.mean().item() - TARGET)
        found.append(math.exp(log_step))
        moved()
    return found[WARM_UP:]


def log_weights(
    path: Path, path_precisions: Sequence[float], steps: Sequence[float], moved: Callable[[], object]
) -> Tensor:
    """Return the log weights of all chains up to each temperature, `(T + 1, C, B)` in float64."""
    point = path.at(path.base.sample((CHAINS,)))
    found = [torch.zeros_like(point.log_ratio, dtype=torch.float64)]
    for (before, precision), step in zip(pairwise(path_precisions), steps, strict=True):
        found.append(found[-1] + (precision - before) * point.log_ratio.double())
        point, _ = hmc_step(path, point, precision, step, LEAPFROGS)
        moved()
    return torch.stack(found)
