"""Active units: the latent dimensions that carry information about the image."""

import torch
from torch import Tensor

THRESHOLD = 0.01  # of the variance (Burda et al. 2015, section 5.2)


def is_active(means: Tensor, variance: Tensor | float = 1.0) -> Tensor:
    """Return which of the d latent units are active, boolean `(d,)`: those with Var_x(E_q[z]) > 0.01.

    Args:
        means: Posterior means `(N, d)` of a data set.
        variance: Variance of each unit under the prior, `(d,)`, to which the threshold is relative.
    """
    means = means.double() / torch.as_tensor(variance, device=means.device).double().sqrt()
    return means.var(0, correction=min(1, len(means) - 1)) > THRESHOLD  # 0, not NaN, for a single image
