"""How much of a gradient is signal, and how much is the noise of its samples of z."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.base import Model, evaluating


class Gradient(NamedTuple):
    """A gradient g over draws of noise, in nats per unit of its parameters, which are taken as one vector."""

    signal: float  # |E g|
    noise: float  # sqrt(E |g - E g|^2)

    @property
    def ratio(self) -> float:
        """Signal to noise: 0 without a signal, infinite without noise."""
        if self.signal == 0:
            return 0.0
        return self.signal / self.noise if self.noise else math.inf


class RunningMoments:
    """Mean and variance of vectors that come one by one (Welford 1962), in float64."""

    def __init__(self):
        self.count = 0
        self.mean = self.squares = 0.0

    def update(self, vector: Tensor) -> None:
        """Takes in another vector `(d,)`."""
        self.count += 1
        vector = vector.double()
        off = vector - self.mean
        self.mean = self.mean + off / self.count
        self.squares += (off * (vector - self.mean)).sum().item()

    def gradient(self) -> Gradient:
        """What the vectors, of which there are at least two, say of their distribution."""
        variance = self.squares / (self.count - 1)
        # the mean of n draws of mere noise has a length too
        signal = max(0.0, self.mean.square().sum().item() - variance / self.count)
        return Gradient(math.sqrt(signal), math.sqrt(variance))


def signal_to_noise(
    model: Model, x: Tensor, y: Tensor, n: int = 200, parts: tuple[str, ...] = ("encoder", "decoder"), seed: int = 0
) -> dict[str, Gradient]:
    """Signal, noise and their ratio in the gradient of the loss, for parts of a model.

    With g the gradient of `model.loss(x, y)` for all parameters of a part, as one vector, the ratio is

        |E g| / sqrt(E |g - E g|^2),

    over n draws of the noise. Rainforth et al. (2018, "Tighter Variational Bounds are Not Necessarily Better") report
    the same of single parameters, and its mean over them; it follows the same powers of K. That mean has no value where
    a parameter gets no gradient, and does not fall below 0.8 / sqrt(n), what n draws of mere noise have. Here
    parameters count by the size of their gradient, and |E g|^2 is estimated without bias, as |mean|^2 - variance / n,
    cut off at 0. It still takes more than 1 / ratio^2 draws to see a signal; where two losses have the same mean
    gradient, as DReG's and IWAE's, the one with less noise knows it for both.

    Runs in evaluation mode; mode, gradients and random state are left as they were.

    Args:
        model: With a module for each of `parts`, and a `loss(x, y)` that draws its noise from torch's generators.
        x: Images `(B, C, H, W)`, the same in every draw.
        y: Their labels `(B,)`.
        n: Draws.
        parts: Names of modules of the model.
        seed: Of the noise.

    Raises:
        ValueError: n below 2, or a part that the model does not have or does not train.
    """
    if n < 2:
        raise ValueError(f"Noise takes at least 2 draws to be seen; got n {n}.")
    parameters = {part: trained_parameters(model, part) for part in parts}
    moments = {part: RunningMoments() for part in parts}
    together = [parameter for own in parameters.values() for parameter in own]
    with evaluating(model, seed), torch.enable_grad():
        for _ in range(n):
            gradients = iter(torch.autograd.grad(model.loss(x, y), together, materialize_grads=True))
            for part, own in parameters.items():
                moments[part].update(torch.cat([next(gradients).flatten() for _ in own]))
    return {part: found.gradient() for part, found in moments.items()}


def trained_parameters(model: Model, part: str) -> list[nn.Parameter]:
    """The parameters of a part that are trained; ValueError where there are none."""
    module = getattr(model, part, None)
    found = [p for p in module.parameters() if p.requires_grad] if isinstance(module, nn.Module) else []
    if not found:
        raise ValueError(f"{type(model).__name__} trains no part '{part}'.")
    return found
