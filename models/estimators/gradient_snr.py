"""Signal-to-noise ratio of the gradients of a loss, over samples of z."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.base import Model, evaluating


class Gradient(NamedTuple):
    """Signal and noise of a gradient g over noise samples, in nats per unit of the parameters, taken as one vector."""

    signal: float  # |E g|
    noise: float  # sqrt(E |g - E g|^2)

    @property
    def ratio(self) -> float:
        """Signal-to-noise ratio: 0 without signal, infinite without noise."""
        if self.signal == 0:
            return 0.0
        return self.signal / self.noise if self.noise else math.inf


class RunningMoments:
    """Running mean and variance of vectors, in float64 (Welford 1962)."""

    mean: Any  # 0.0, and a Tensor from the first vector on

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = 0.0

    def update(self, vector: Tensor) -> None:
        """Add a vector `(d,)`."""
        self.count += 1
        vector = vector.double()
        deviation = vector - self.mean
        self.mean = self.mean + deviation / self.count
        self.squares += (deviation * (vector - self.mean)).sum().item()

    def gradient(self) -> Gradient:
        """Return signal and noise of the vectors, of which there must be at least two."""
        variance = self.squares / (self.count - 1)
        # |mean|^2 overestimates |E g|^2 by variance / n: subtract it.
        signal = max(0.0, self.mean.square().sum().item() - variance / self.count)
        return Gradient(math.sqrt(signal), math.sqrt(variance))


def signal_to_noise(
    model: Model, x: Tensor, y: Tensor, n: int = 200, parts: tuple[str, ...] = ("encoder", "decoder"), seed: int = 0
) -> dict[str, Gradient]:
    """Return signal and noise of the gradient of the loss, for each part of a model.

    With g the gradient of `model.loss(x, y)` with respect to all parameters of a part, as one vector, the
    signal-to-noise ratio over n noise samples is

        |E g| / sqrt(E |g - E g|^2).

    Rainforth et al. (2018, "Tighter Variational Bounds are Not Necessarily Better") compute it per parameter and report
    the mean over parameters, which scales with the same powers of K. That mean is undefined if a parameter has no
    gradient, and is at least 0.8 / sqrt(n), its value for pure noise. Here parameters are weighted by the size of
    their gradient, and |E g|^2 is estimated without bias as |mean|^2 - variance / n, clipped at 0. More than
    1 / ratio^2 samples are needed to detect a signal. If two losses have the same expected gradient, as DReG and IWAE
    do, the signal of the less noisy one is the better estimate for both.

    Runs in evaluation mode; the mode, the gradients and the random state are restored.

    Args:
        model: A model with a module for each of `parts`, and a `loss(x, y)` that samples from torch's generators.
        x: Images `(B, C, H, W)`, the same for every noise sample.
        y: Labels `(B,)`.
        n: Number of noise samples, at least 2.
        parts: Names of modules of the model.
        seed: Seed of the noise.

    Raises:
        ValueError: n below 2, or a part that does not exist or has no trained parameters.
    """
    if n < 2:
        raise ValueError(f"The variance of a gradient needs n of at least 2; got n {n}.")
    parameters = {part: trained_parameters(model, part) for part in parts}
    moments = {part: RunningMoments() for part in parts}
    all_parameters = [parameter for of_part in parameters.values() for parameter in of_part]
    with evaluating(model, seed), torch.enable_grad():
        for _ in range(n):
            gradients = iter(torch.autograd.grad(model.loss(x, y), all_parameters, materialize_grads=True))
            for part, of_part in parameters.items():
                moments[part].update(torch.cat([next(gradients).flatten() for _ in of_part]))
    return {part: moment.gradient() for part, moment in moments.items()}


def trained_parameters(model: Model, part: str) -> list[nn.Parameter]:
    """Return the parameters of a part that require gradients. Raise ValueError if there are none."""
    module = getattr(model, part, None)
    parameters = [p for p in module.parameters() if p.requires_grad] if isinstance(module, nn.Module) else []
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no trained part '{part}'.")
    return parameters
