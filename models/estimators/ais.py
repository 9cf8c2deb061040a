"""Annealed importance sampling (AIS): in expectation a lower bound on log p(x), from prior and decoder alone.

It works for any `LatentVariableModel` or `ImplicitModel`, in the space of everything that is drawn before x:
`ais_prior()` and `ais_log_px(x, z, y)`. With `ais_simulate(z, y)` its error can be bounded on images that the model has
simulated.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from models.arguments import evidence_of
from models.base import evaluating

TARGET = 0.65  # acceptance rate that the pilot run tunes step sizes for (Neal 2011)
RATE = 0.2  # adaptation rate: change of the log step size per move and unit of acceptance
PILOT_MOVES = 500  # least number of moves of the pilot run, over all temperatures
PILOT_START = 20  # times that the pilot run repeats the first temperature, to find the scale of the step sizes


class Settings(NamedTuple):
    """Options of AIS chains.

    Args:
        chains: Chains per image; their weights are averaged.
        temperatures: Number of intermediate distributions.
        leapfrogs: Leapfrog steps of the Hamiltonian trajectory at each temperature.
        start: Initial distribution: prior, or posterior (q(z|x)) if the posterior of the model covers all latents.
    """

    chains: int = 4
    temperatures: int = 1000
    leapfrogs: int = 10
    start: str = "prior"


class AISEstimate(NamedTuple):
    """Result per image, `(B,)` in float64, in nats."""

    log_px: Tensor  # log of the mean weight over chains
    acceptance: Tensor  # fraction of accepted moves


class Point(NamedTuple):
    """Positions of chains, with the two parts of the log density there and their gradients."""

    z: Tensor  # (C, B, d)
    log_base: Tensor  # (C, B)
    log_ratio: Tensor  # (C, B)
    grad_base: Tensor  # (C, B, d)
    grad_ratio: Tensor  # (C, B, d)


class Path(NamedTuple):
    """Unnormalised densities f_b(z) = base(z) ratio(z)^b, whose integrals are 1 at b = 0 and p(x) at b = 1."""

    base: Distribution  # batch shape (B,)
    log_target: Callable[[Tensor], Tensor]  # (C, B, d) -> (C, B)
    divides: bool = False  # whether ratio is target / base, and not target itself

    def at(self, z: Tensor) -> Point:
        """Return both log densities and their gradients at `z (C, B, d)`; base and target are each computed once."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_base, log_target = self.base.log_prob(z), self.log_target(z)
            grad_base, grad_target = (torch.autograd.grad(part.sum(), z)[0] for part in (log_base, log_target))
        z, log_base, log_target = z.detach(), log_base.detach(), log_target.detach()
        if self.divides:
            return Point(z, log_base, log_target - log_base, grad_base, grad_target - grad_base)
        return Point(z, log_base, log_target, grad_base, grad_target)


def schedule(temperatures: int, rad: float = 4.0) -> list[float]:
    """Return b_0 = 0 ... b_T = 1, spaced as a sigmoid between -rad and rad (Wu et al. 2017)."""
    s = torch.linspace(-rad, rad, temperatures + 1, dtype=torch.float64).sigmoid()
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


def annealing_path(model, x: Tensor, y: Tensor | None, start: str) -> Path:
    """Return the path from the prior, or from q(z|x), to the posterior of images `(B, ...)`.

    Raises:
        ValueError: If the model has no such path.
    """
    kind = type(model).__name__
    if not model.can("ais_log_px"):
        raise ValueError(f"{kind} has no density of x given its latents, which annealed importance sampling needs.")
    prior = model.ais_prior()
    if start == "prior":
        return Path(prior.expand((len(x),)), lambda z: model.ais_log_px(x, z, y))
    q = model.ais_posterior(x, y) if model.can("ais_posterior") else None
    if start != "posterior" or q is None or q.event_shape != prior.event_shape or q.batch_shape != (len(x),):
        raise ValueError(f"Chains of {kind} cannot start at '{start}': start them at the prior.")
    return Path(q, lambda z: model.ais_log_px(x, z, y) + prior.log_prob(z), divides=True)


def hmc_step(path: Path, point: Point, b: float, step: float, leapfrogs: int) -> tuple[Point, Tensor]:
    """Return the points after one Hamiltonian trajectory at f_b, and its acceptance probability `(C, B)` (Neal)."""
    p = torch.randn_like(point.z)
    before = point.log_base + b * point.log_ratio - p.square().sum(-1) / 2
    new = point
    for _ in range(leapfrogs):
        p = p + step / 2 * (new.grad_base + b * new.grad_ratio)
        new = path.at(new.z + step * p)
        p = p + step / 2 * (new.grad_base + b * new.grad_ratio)
    after = new.log_base + b * new.log_ratio - p.square().sum(-1) / 2
    acceptance = (after - before).nan_to_num(nan=-math.inf).clamp(max=0).exp()  # (C, B)
    taken = torch.rand_like(acceptance) < acceptance
    mixed = (torch.where(taken if a.ndim == 2 else taken[..., None], a, o) for a, o in zip(new, point, strict=True))
    return Point(*mixed), acceptance


def pilot_temperatures(settings: Settings) -> list[int]:
    """Return the temperatures of the pilot run in their order, from 1."""
    return [1] * PILOT_START + list(range(1, settings.temperatures))


def tune(
    model, x: Tensor, settings: Settings, y: Tensor | None = None, seed: int = 0,
    moved: Callable[[], object] = lambda: None,
) -> list[float]:  # fmt: skip
    """Return step sizes for temperatures 1 ... T - 1, from a pilot run in which they adapt to the acceptance rate.

    The weights of a chain whose step sizes adapt are biased. So the pilot run takes other images than those to be
    evaluated, and the step sizes are fixed afterwards.

    Args:
        model: A model with `ais_prior` and `ais_log_px`.
        x: Pilot images `(B, C, H, W)`.
        settings: Options of the run that the step sizes are for.
        y: Labels `(B,)`, for conditional models.
        seed: Seed of the noise.
        moved: Called after each of `pilot_temperatures`.
    """
    x, y = evidence_of(model, x, y)
    b = schedule(settings.temperatures)
    moves = -(-PILOT_MOVES // settings.temperatures)
    log_step, steps = math.log(0.5), []
    with evaluating(model, seed):
        path = annealing_path(model, x, y, settings.start)
        point = path.at(path.base.sample((settings.chains,)))
        for t in pilot_temperatures(settings):
            for _ in range(moves):
                point, acceptance = hmc_step(path, point, b[t], math.exp(log_step), settings.leapfrogs)
                log_step += RATE * (acceptance.mean().item() - TARGET)
            steps.append(math.exp(log_step))
            moved()
    return steps[PILOT_START:]


def anneal(
    model, x: Tensor, settings: Settings, steps: list[float], y: Tensor | None = None, seed: int = 0,
    moved: Callable[[], object] = lambda: None,
) -> AISEstimate:  # fmt: skip
    """Estimate log p(x) by annealed importance sampling (Neal 2001; Wu et al. 2017).

    The exponential is an unbiased estimate of p(x), so that in expectation the logarithm is a lower bound on log p(x).

    Args:
        model: A model with `ais_prior` and `ais_log_px`.
        x: Images `(B, C, H, W)`.
        settings: Chains and temperatures.
        steps: Step sizes from `tune`, on other images.
        y: Labels `(B,)`, for conditional models; the estimate is then of log p(x|y).
        seed: Seed of the noise.
        moved: Called after each temperature.

    Raises:
        ValueError: If AIS is not possible for the model, or its likelihood is not defined for the images or labels.
    """
    return anneal_to_posterior(model, *evidence_of(model, x, y), settings, steps, seed, moved)


def anneal_to_posterior(
    model, x: Tensor, y: Tensor | None, settings: Settings, steps: list[float], seed: int, moved: Callable[[], object]
) -> AISEstimate:
    """Run the chains of `anneal` without checking images: simulated Gaussian pixels are not within [0, 1]."""
    with evaluating(model, seed):
        path = annealing_path(model, x, y, settings.start)
        z = path.base.sample((settings.chains,))  # (C, B, d)
        log_w, acceptance = run_chains(path, z, range(1, settings.temperatures + 1), settings, steps, moved)
    return AISEstimate(log_w.logsumexp(0) - math.log(settings.chains), acceptance)


def run_chains(
    path: Path, z: Tensor, order: range, settings: Settings, steps: list[float], moved: Callable[[], object]
) -> tuple[Tensor, Tensor]:
    """Return the sum of (b_t - b_t-1) log ratio(z) along chains from `z`, `(C, B)`, and the mean acceptance `(B,)`.

    With increasing t, z moves at density t after term t is added; with decreasing t, before: each is the reverse of the
    other.
    """
    b = schedule(settings.temperatures)
    log_w: Any  # 0.0, and a Tensor from the first term on
    point, log_w, accepted = path.at(z), 0.0, torch.zeros(z.shape[1], device=z.device)
    upwards = order.step > 0
    for t in order:
        if not upwards and t < settings.temperatures:
            point, acceptance = hmc_step(path, point, b[t], steps[t - 1], settings.leapfrogs)
            accepted = accepted + acceptance.mean(0)
        log_w = log_w + (b[t] - b[t - 1]) * point.log_ratio.double()
        if upwards and t < settings.temperatures:
            point, acceptance = hmc_step(path, point, b[t], steps[t - 1], settings.leapfrogs)
            accepted = accepted + acceptance.mean(0)
        moved()
    return log_w, accepted / max(1, settings.temperatures - 1)


class Bounds(NamedTuple):
    """Stochastic bounds on log p(x) of simulated images, each `(B,)` in float64. Their gap bounds both errors."""

    lower: Tensor
    upper: Tensor


def bidirectional(
    model, n: int, settings: Settings, steps: list[float], y: Tensor | None = None, seed: int = 0,
    moved: Callable[[], object] = lambda: None,
) -> Bounds:  # fmt: skip
    """Return bounds by bidirectional Monte Carlo (Grosse et al. 2015) on n images simulated by the model.

    The latents of a simulated image are an exact sample from its posterior. Chains from there back to the initial
    distribution of `anneal` give an upper bound on log p(x), and `anneal` gives a lower one. The gap holds for
    simulated images, not for real ones.

    Args:
        model: A model with `ais_prior`, `ais_log_px` and `ais_simulate`.
        n: Number of images.
        settings: Chains and temperatures.
        steps: Step sizes from `tune`.
        y: Labels `(n,)`, for conditional models.
        seed: Seed of latents, images and noise.
        moved: Called after each temperature, of both runs.
    """
    with evaluating(model, seed):
        z = model.ais_prior().sample((n,))  # (B, d)
        x = model.ais_simulate(z, y)
        path = annealing_path(model, x, y, settings.start)
        start = z.expand(settings.chains, *z.shape)
        order = range(settings.temperatures, 0, -1)
        log_w, _ = run_chains(path, start, order, settings, steps, moved)
    upper = math.log(settings.chains) - (-log_w).logsumexp(0)
    return Bounds(anneal_to_posterior(model, x, y, settings, steps, seed + 1, moved).log_px, upper)
