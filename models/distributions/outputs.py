"""From outputs of networks to parameters of distributions: limits of scales, and precision."""

import math

import torch
from torch import Tensor

LATENT_LIMIT = 7.0  # bounds the standard deviation of a latent to [e^-7, e^7]
SCALE_LIMIT = math.log(256)  # bounds a learned observation scale to [1/256, 256]; 1/256 is one grey level


def soft_clip(raw: Tensor, limit: float) -> Tensor:
    """Return limit * tanh(raw / limit): about `raw` near 0, within +-`limit`, so that its exponential is finite."""
    return limit * torch.tanh(raw / limit)


def inverse_soft_clip(value: float, limit: float) -> float:
    """Return the number that `soft_clip` maps to `value`."""
    return limit * math.atanh(value / limit)


def at_least_float32(outputs: Tensor) -> Tensor:
    """Return outputs of a network, converted to float32 if they have 16 bits: too few for log densities."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
