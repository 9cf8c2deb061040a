"""Charts with axes as pure functions of tensors, beside the grids of images in `figures`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from callbacks.figures import DPI

ACTIVE, INACTIVE = "tab:blue", "silver"
BLUE, RED = (0.12, 0.47, 0.71), (0.84, 0.15, 0.16)


def kl_per_dimension(kl: Sequence[Tensor], active: Sequence[Tensor]) -> Figure:
    """The KL of each latent dimension, sorted, one panel per stochastic layer.

    Args:
        kl: KL of each dimension in nats, `(d,)` for each layer.
        active: Whether each dimension is an active unit, boolean `(d,)` for each layer.
    """
    figure = Figure((7, 2.6 * len(kl)), dpi=DPI, facecolor="white", layout="constrained")
    for layer, axes in enumerate(figure.subplots(len(kl), 1, squeeze=False, sharey=True)[:, 0]):
        order = kl[layer].argsort(descending=True).cpu()
        values, on = kl[layer].cpu()[order].numpy(), active[layer].cpu()[order].numpy()
        place = np.arange(1, len(values) + 1)
        axes.bar(place, values, color=np.where(on, ACTIVE, INACTIVE))
        counts = ((ACTIVE, f"{on.sum()} active"), (INACTIVE, f"{(~on).sum()} inactive"))
        axes.legend(handles=[Patch(color=color, label=label) for color, label in counts], frameon=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlim=(0.4, len(values) + 0.6), ylabel="KL (nats)", xlabel="latent dimension, sorted by KL")
        axes.spines[["top", "right"]].set_visible(False)
        name = f"Layer {layer + 1}: " if len(kl) > 1 else ""
        axes.set_title(f"{name}KL of each dimension, {values.sum():.1f} nats in all", fontsize=10, loc="left")
    return figure


def confusion_matrix(counts: Tensor, of: str) -> Figure:
    """Counts `(num_classes, num_classes)`, rows true and columns predicted: blue what is right, red what is not.

    Args:
        counts: How many images of the class of the row were taken for the class of the column.
        of: What was classified, such as "test", for the title.
    """
    counts = counts.cpu().numpy()
    side, images, right = len(counts), counts.sum(), counts.trace()
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    # a few mistakes among a hundred should show: their colour grows with the root
    shade = np.where(np.eye(side, dtype=bool), 0.8 * share, 0.8 * np.sqrt(share))[..., None]
    canvas = 1 - shade * np.where(np.eye(side, dtype=bool)[..., None], 1 - np.array(BLUE), 1 - np.array(RED))
    inches = max(0.42 * side, 3.4)  # the title is about so long
    figure = Figure((inches + 0.8, inches + 1.1), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shade[row, column, 0] > 0.55 else "0.15" if count else "0.75"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=color)
    axes.set(xticks=range(side), yticks=range(side), xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    error = f"{(images - right) / images:.2%}" if images else "unknown"
    axes.set_title(f"{error} error: {images - right:,} of {images:,} {of} images", fontsize=10, loc="left")
    return figure


def error_curve(errors: dict[int, float]) -> Figure:
    """The error on validation images, a fraction, after each of the epochs that are the keys."""
    epochs, percent = list(errors), [100 * error for error in errors.values()]
    figure = Figure((7, 3), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, percent, color=ACTIVE, marker="." if len(epochs) < 50 else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="epoch", ylabel="error (%)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_title(f"Error on validation images: {percent[-1]:.2f}% after epoch {epochs[-1]}", fontsize=10, loc="left")
    return figure
