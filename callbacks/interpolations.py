"""Interpolations between test images, or between samples, during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model, evaluating

PATHS = ("linear", "spherical")


class Interpolations(FigureCallback):
    """Draw linear and spherical interpolations between the latent codes of fixed pairs of test images.

    A model without an encoder interpolates between pairs of samples, with the same noise at each epoch.

    Args:
        num_pairs: Number of pairs of images, one row each.
        num_steps: Number of interpolated images, both ends included.
    """

    name = "interpolations"
    required_method = "interpolate"
    alternative_method = "interpolate_samples"

    def __init__(self, num_pairs: int = 5, num_steps: int = 10):
        self.num_pairs, self.num_steps = num_pairs, num_steps

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        return None if model.can(cls.alternative_method) else super().unsupported_reason(model)

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        draw = self.between_images if model.can(self.required_method) else self.between_samples
        return draw(model, data)

    def between_images(self, model: Model, data: Any) -> dict[str, Figure]:
        """Return figures of interpolations between the codes of test images."""
        x, y = data.images("test", 2 * self.num_pairs, model.device)
        pairs = max(1, len(x) // 2)  # small data sets have fewer pairs; a single image is paired with itself
        x0, x1 = x[:pairs], x[-pairs:]
        labels = model.condition_args(y[:pairs], y[-pairs:])
        figures = {}
        for path in PATHS:
            images = model.interpolate(x0, x1, self.num_steps, path, *labels)  # (num_steps, num_pairs, C, H, W)
            title = f"{path.capitalize()} interpolation between codes of test images: {subject(model, data)}"
            figures[f"interpolations_{path}"] = grids.interpolations(images, x0, x1, title=title)
        return figures

    def between_samples(self, model: Model, data: Any) -> dict[str, Figure]:
        """Return figures of interpolations between samples, the same samples for each path."""
        figures = {}
        for path in PATHS:
            with evaluating(model, self.seed):  # restarts the noise
                images = model.interpolate_samples(self.num_pairs, self.num_steps, path)
            title = f"{path.capitalize()} interpolation between samples: {subject(model, data)}"
            figures[f"interpolations_{path}"] = grids.sample_interpolations(images, title=title)
        return figures
