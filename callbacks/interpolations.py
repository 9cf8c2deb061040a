"""Interpolations between test images during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model


class Interpolations(FigureCallback):
    """Draws the way between the codes of fixed pairs of test images, once straight and once along a sphere.

    Args:
        num_pairs: Pairs of images, a row each.
        num_steps: Images on the way, both ends included.
    """

    name = "interpolations"
    required_method = "interpolate"

    def __init__(self, num_pairs: int = 5, num_steps: int = 10):
        self.num_pairs, self.num_steps = num_pairs, num_steps

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", 2 * self.num_pairs, model.device)
        pairs = max(1, len(x) // 2)  # a data set may be small; a single image is paired with itself
        x0, x1 = x[:pairs], x[-pairs:]
        labels = model.condition_args(y[:pairs], y[-pairs:])
        found = {}
        for path in ("linear", "spherical"):
            images = model.interpolate(x0, x1, self.num_steps, path, *labels)  # (num_steps, num_pairs, C, H, W)
            title = f"{path.capitalize()} interpolation between codes of test images: {subject(model, data)}"
            found[f"interpolations_{path}"] = grids.interpolations(images, x0, x1, title=title)
        return found
