"""How well a model tells what an image shows from how it lies, measured with moves that are known."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models import AE, VAE, Model, evaluating

CHUNK = 100  # images per pass
LEAST = 50  # images, for measures that mean something
LIMITS = 20.0, 1 / 14, 0.1  # degrees, share of the side, share: moves of test images where the data are not moved


def is_measured(model: Model, data) -> bool:
    """Whether there is something to measure: a model that infers poses, or another one on images with known moves."""
    plain = isinstance(model, AE | VAE) and not model.is_conditional
    if not hasattr(data, "transformed_test_images") or len(data.test.y) < LEAST:
        return False
    return model.can("pose") or (plain and bool(data.variant))


def moves(data):
    """How far the test images are moved, of the data or of ours, as their `limits` say it."""
    rotation, shift, scaling = LIMITS
    ours = type(data.limits)(rotation, round(shift * max(data.image_shape[1:]), 1), scaling)
    return data.limits if any(data.limits) else ours


def disentanglement(model: Model, data, device: torch.device | str = "cpu") -> dict[str, float]:
    """Measures on all test images, moved as the data are, or else within `LIMITS`.

    Of models with a pose, whose content is the rest of the code:

    - angle_correlation: circular correlation of inferred and applied angles (Jammalamadaka & SenGupta 2001);
    - shift_correlation: mean over both axes of the correlation of inferred and applied shifts;
    - scale_correlation: correlation of inferred and applied factors, as logarithms;
    - change_correlation, equivariance_error: of the angles between two moves of the same image, inferred and applied:
      their correlation, in which the slant of the handwriting has no part, and the mean absolute difference in degrees;
    - canonical_variance: variance of canonical images over that of the inputs, each summed over pixels.

    Of all models, where the content is the whole code if there is no pose:

    - reconstruction_variance: as above, of reconstructions; they are means, which vary less than binary inputs;
    - kmeans_accuracy: of as many clusters of the content as there are classes, matched with them one to one;
    - angle_r2: the part of the applied angle's variance that boosted trees predict from the content, on the half of the
      images that they were not fitted on.

    Args:
        model: A model with `is_measured`.
        data: Its data module, set up.
        device: Where the model is.

    Returns:
        The measures that have a meaning; none where codes are not finite or all images are alike.
    """
    limits = moves(data)
    x, poses = data.transformed_test_images(limits, "test images")
    x_again, poses_again = data.transformed_test_images(limits, "again")
    x, x_again = x.to(device), x_again.to(device)
    total = x.double().var(0).sum().item()
    content, result = codes(model.encode, x, model), {}
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
    """What a method of the model gives for all images, in float64 on the CPU."""
    with evaluating(model):
        return torch.cat([f(part).cpu().double() for part in x.split(CHUNK)])


def in_pixels(poses: Tensor, side: int) -> Tensor:
    """Affine maps `(N, 2, 3)` as angle (degrees, clockwise), shift (pixels right and down) and factor: `(N, 4)`.

    The angle is that of the rotation nearest to the map; `side` is the longer side of an image in pixels.
    """
    (a, b, right), (c, d, down) = poses.permute(1, 2, 0)
    angle = torch.atan2(c - b, a + d).rad2deg()
    return torch.stack([angle, right * side / 2, down * side / 2, (a * d - b * c).abs().sqrt()], -1)


def wrapped(angle: Tensor) -> Tensor:
    """Angles in degrees as those between -180 and 180."""
    return (angle + 180) % 360 - 180


def correlations(inferred: Tensor, applied: Tensor) -> dict[str, float]:
    """Of angles, shifts and factors, from poses `(N, 4)`; a part that was not applied has none."""
    varies = applied.std(0) > 0
    found = {}
    if varies[0]:
        found["angle_correlation"] = circular_correlation(inferred[:, 0].deg2rad(), applied[:, 0].deg2rad())
    if varies[1]:
        found["shift_correlation"] = sum(correlation(inferred[:, i], applied[:, i]) for i in (1, 2)) / 2
    if varies[3]:
        found["scale_correlation"] = correlation(inferred[:, 3].clamp(min=1e-6).log(), applied[:, 3].log())
    return found


def equivariance(inferred: Tensor, applied: Tensor) -> dict[str, float]:
    """Of changes of the angle `(N,)`, in degrees."""
    return {
        "change_correlation": circular_correlation(inferred.deg2rad(), applied.deg2rad()),
        "equivariance_error": wrapped(inferred - applied).abs().mean().item(),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; 0 where one does not vary."""
    if min(a.std(), b.std()) < 1e-9:
        return 0.0
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def circular_correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of two vectors of angles in radians: of the sines of their deviations from the mean directions.

    0 where one does not vary.
    """
    sines = [(angle - torch.atan2(angle.sin().mean(), angle.cos().mean())).sin() for angle in (a, b)]
    if min(sine.abs().max() for sine in sines) < 1e-9:
        return 0.0
    return ((sines[0] * sines[1]).sum() / (sines[0].norm() * sines[1].norm())).item()


def kmeans_accuracy(content: np.ndarray, y: np.ndarray) -> float:
    """The share of images in the cluster of their class, under the best one to one assignment; unknown labels -1."""
    from sklearn.cluster import KMeans  # only here: see `in_plane`

    labels, known = np.unique(y[y >= 0], return_inverse=True)
    cluster = KMeans(len(labels), n_init=10, random_state=0).fit_predict(content)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (cluster[y >= 0], known), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def r2(content: np.ndarray, angle: np.ndarray) -> float:
    """1 - (mean squared error) / variance of predicting angles of the second half of the images from their content."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # only here: see `in_plane`

    half = len(angle) // 2
    predicted = HistGradientBoostingRegressor(random_state=0).fit(content[:half], angle[:half]).predict(content[half:])
    return float(1 - ((predicted - angle[half:]) ** 2).mean() / angle[half:].var())
