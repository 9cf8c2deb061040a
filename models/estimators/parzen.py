"""The Parzen window estimate of log p(x): a Gaussian kernel density around samples of a model (Goodfellow et al. 2014).

It needs samples only, and papers on generators used to report it. It misranks models: it favours those that copy
training images, and on MNIST it is hundreds of nats below the log-likelihood (Theis et al. 2016; Wu et al. 2017,
section 4).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.mmd import squared_distances

SCALES = tuple(0.02 * 50 ** (i / 39) for i in range(40))  # grid of kernel widths from 0.02 to 1, in units of pixels
IMAGES_PER_PASS = 100
SAMPLES_PER_PASS = 2000


def parzen_log_px(x: Tensor, samples: Tensor, scales: Sequence[float]) -> Tensor:
    """Return the log density of images under (1/N) sum_j N(x; sample_j, s^2 I) for each width s.

    Args:
        x: Images `(B, ...)`.
        samples: Samples `(N, ...)` of the model.
        scales: Standard deviations s of the Gaussians.

    Returns:
        `(S, B)` in float64, in nats per image.
    """
    x, samples = x.flatten(1).double(), samples.flatten(1).double()  # float32 distances would be off by 0.01 nats
    parts = [log_kernel_sums(part, samples, scales) for part in x.split(IMAGES_PER_PASS)]
    widths = torch.tensor(scales, dtype=torch.float64, device=x.device)
    log_constants = math.log(len(samples)) + x.shape[1] * (math.log(2 * math.pi) / 2 + widths.log())  # (S,)
    return torch.cat(parts, 1) - log_constants[:, None]


def log_kernel_sums(x: Tensor, samples: Tensor, scales: Sequence[float]) -> Tensor:
    """Return log sum_j exp(-||x - sample_j||^2 / (2 s^2)) for `x (B, D)` and each width s: `(S, B)`."""
    chunks = []
    for chunk in samples.split(SAMPLES_PER_PASS):
        squared = squared_distances(x, chunk)  # (B, n)
        chunks.append(torch.stack([(-squared / (2 * s**2)).logsumexp(1) for s in scales]))
    return torch.stack(chunks).logsumexp(0)


def choose_parzen_scale(x: Tensor, samples: Tensor, scales: Sequence[float] = SCALES) -> float:
    """Return the width with the highest mean log density of (validation) images `(B, ...)`."""
    means = parzen_log_px(x, samples, scales).mean(1)
    return scales[int(means.argmax())]
