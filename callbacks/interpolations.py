"""Interpolations between test images during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model


class Interpolations(FigureCallback):
    """Draw linear and spherical interpolations between the latent codes of fixed pairs of test images.

    Args:
        num_pairs: Number of pairs of images, one row each.
        num_steps: Number of interpolated images, both ends included.
    """

    name = "interpolations"
    required_method = "interpolate"

    def __init__(self, num_pairs: int = 5, num_steps: int = 10):
        self.num_pairs, self.num_steps = num_pairs, num_steps

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", 2 * self.num_pairs, model.device)
        pairs = max(1, len(x) // 2)  # small data sets have fewer pairs; a single image is paired with itself
        x0, x1 = x[:pairs], x[-pairs:]
        labels = model.given(y[:pairs], y[-pairs:])
        figures = {}
        for path in ("linear", "spherical"):
            images = model.interpolate(x0, x1, self.num_steps, path, *labels)  # (num_steps, num_pairs, C, H, W)
            title = f"{path.capitalize()} interpolation between codes of test images: {subject(model, data)}"
            figures[f"interpolations_{path}"] = grids.interpolations(images, x0, x1, title=title)
        return figures
