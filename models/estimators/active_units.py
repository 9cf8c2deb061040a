"""The number of active units."""

from torch import Tensor


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Return the number of dimensions with Var_x(E_q[z]) > threshold (Burda et al. 2015, section 5.2).

    Args:
        means: Posterior means `(N, d)` of a data set.
        threshold: Variance above which a unit is active.
    """
    variance = means.double().var(0, correction=min(1, len(means) - 1))  # 0, not NaN, for a single image
    return int((variance > threshold).sum())
