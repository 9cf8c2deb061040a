"""Measure how well a model separates content from pose, with test images that are moved by known poses."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models import AE, VAE, Model, evaluating

CHUNK = 100  # images per pass
LEAST = 50  # min. number of images, and max. number of classes for k-means
# Limits of rotation (degrees), shift (fraction of the side) and scaling, used if the data set does not move images
LIMITS = 20.0, 1 / 14, 0.1


def is_measured(model: Model, data) -> bool:
    """Return whether the measures apply: the model infers poses, or is an AE or VAE on data with known moves."""
    plain = isinstance(model, AE | VAE) and not model.is_conditional
    if data.transformed_test_images is None or len(data.test.y) < LEAST:
        return False
    return model.can("pose") or (plain and any(data.limits))


def moves(data):
    """Return the limits of the moves of test images: those of the data, or else `LIMITS`."""
    rotation, shift, scaling = LIMITS
    ours = type(data.limits)(rotation, round(shift * max(data.image_shape[1:]), 1), scaling)
    return data.limits if any(data.limits) else ours


def disentanglement(model: Model, data, device: torch.device | str = "cpu") -> dict[str, float]:
    """Return measures on all test images, moved within the limits of the data, or else within `LIMITS`.

    For models with a pose, whose content is the rest of the code:

    - angle_correlation: circular correlation of inferred and applied angles (Jammalamadaka & SenGupta 2001);
    - shift_correlation: mean over both axes of the correlation of inferred and applied shifts;
    - scale_correlation: correlation of inferred and applied factors, as logarithms;
    - change_correlation, equivariance_error: of the angle differences between two moves of the same image, inferred
      and applied: their correlation, which the slant of the handwriting does not affect, and the mean absolute error in
      degrees;
    - canonical_variance: variance of canonical images over that of the inputs, each summed over pixels.

    For all models (without a pose, the content is the whole code):

    - reconstruction_variance: the same ratio for reconstructions; these are means, which vary less than binary inputs;
    - kmeans_accuracy: accuracy of k-means on the content, with one cluster per class, matched one to one;
    - angle_r2: R² of gradient-boosted trees that predict the applied angle from the content, fitted on one half of the
      images and tested on the other.

    Args:
        model: A model that `is_measured`.
        data: Its data module, set up.
        device: Device of the model.

    Returns:
        The measures that are defined, by name; none if codes are not finite or all images are equal.
    """
    limits = moves(data)
    x, poses = data.transformed_test_images(limits, "test images")
    x_again, poses_again = data.transformed_test_images(limits, "again")
    x, x_again = x.to(device), x_again.to(device)
    total = x.double().var(0).sum().item()
    content = codes(model.encode, x, model)
    result: dict[str, float] = {}
    if not content.isfinite().all() or not total:
        return {}
    if model.can("pose"):
        content = content[:, : model.code_dim]
        side = max(data.image_shape[1:])
        inferred, again = (in_pixels(codes(model.pose, images, model), side) for images in (x, x_again))
        result |= correlations(inferred, poses)
        if limits.rotation:
            result |= equivariance(*((b - a)[:, 0] for a, b in ((inferred, again), (poses, poses_again))))
        result["canonical_variance"] = codes(model.canonical, x, model).var(0).sum().item() / total
    result["reconstruction_variance"] = codes(model.reconstruct, x, model).var(0).sum().item() / total
    if 1 < len(data.test.y[data.test.y >= 0].unique()) <= LEAST:
        result["kmeans_accuracy"] = kmeans_accuracy(content.numpy(), data.test.y.numpy())
    if limits.rotation:
        result["angle_r2"] = r2(content.numpy(), poses[:, 0].numpy())
    return result


def codes(f, x: Tensor, model: Model) -> Tensor:
    """Return the output of a method of the model for all images, in float64 on the CPU."""
    with evaluating(model):
        return torch.cat([f(part).cpu().double() for part in x.split(CHUNK)])


def in_pixels(poses: Tensor, side: int) -> Tensor:
    """Convert affine maps to angle (degrees, clockwise), shift (pixels right and down) and factor, `(N, 4)`.

    The angle is that of the nearest rotation.

    Args:
        poses: Affine maps `(N, 2, 3)`.
        side: The longer side of an image in pixels.
    """
    (a, b, right), (c, d, down) = poses.permute(1, 2, 0)
    angle = torch.atan2(c - b, a + d).rad2deg()
    return torch.stack([angle, right * side / 2, down * side / 2, (a * d - b * c).abs().sqrt()], -1)


def wrapped(angle: Tensor) -> Tensor:
    """Wrap angles in degrees to [-180, 180)."""
    return (angle + 180) % 360 - 180


def correlations(inferred: Tensor, applied: Tensor) -> dict[str, float]:
    """Return correlations of angles, shifts and factors, from poses `(N, 4)`; none for parts that were not applied."""
    varies = applied.std(0) > 0
    result = {}
    if varies[0]:
        result["angle_correlation"] = circular_correlation(inferred[:, 0].deg2rad(), applied[:, 0].deg2rad())
    if varies[1]:
        result["shift_correlation"] = sum(correlation(inferred[:, i], applied[:, i]) for i in (1, 2)) / 2
    if varies[3]:
        result["scale_correlation"] = correlation(inferred[:, 3].clamp(min=1e-6).log(), applied[:, 3].log())
    return result


def equivariance(inferred: Tensor, applied: Tensor) -> dict[str, float]:
    """Return correlation and mean absolute error of changes of the angle, `(N,)` in degrees."""
    return {
        "change_correlation": circular_correlation(inferred.deg2rad(), applied.deg2rad()),
        "equivariance_error": wrapped(inferred - applied).abs().mean().item(),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two vectors; 0 if one is constant."""
    if min(a.std(), b.std()) < 1e-9:
        return 0.0
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def circular_correlation(a: Tensor, b: Tensor) -> float:
    """Return the circular correlation of two vectors of angles in radians (Jammalamadaka & SenGupta 2001).

    It is the correlation of the sines of the deviations from the mean directions; 0 if one vector is constant.
    """
    sines = [(angle - torch.atan2(angle.sin().mean(), angle.cos().mean())).sin() for angle in (a, b)]
    if min(sine.abs().max() for sine in sines) < 1e-9:
        return 0.0
    return ((sines[0] * sines[1]).sum() / (sines[0].norm() * sines[1].norm())).item()


def kmeans_accuracy(content: np.ndarray, y: np.ndarray) -> float:
    """Return the share of images in the cluster of their class, under the best one-to-one assignment.

    Args:
        content: Codes `(N, d)`.
        y: Labels `(N,)`, -1 if unknown.
    """
    from sklearn.cluster import KMeans  # slow to import

    labels, known = np.unique(y[y >= 0], return_inverse=True)
    cluster = KMeans(len(labels), n_init=10, random_state=0).fit_predict(content)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (cluster[y >= 0], known), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def r2(content: np.ndarray, angle: np.ndarray) -> float:
    """Return R² of angles predicted from the content, fitted on the first half of the images, tested on the second."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # slow to import

    half = len(angle) // 2
    predicted = HistGradientBoostingRegressor(random_state=0).fit(content[:half], angle[:half]).predict(content[half:])
    return float(1 - ((predicted - angle[half:]) ** 2).mean() / angle[half:].var())
