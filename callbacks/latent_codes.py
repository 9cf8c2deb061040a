"""A scatter plot of the latent codes of test images, during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.codes import codes_of_test_images, in_plane
from callbacks.titles import class_names, subject
from figures import charts
from models import Model

MIN_POINTS = 3  # fewer points are not drawn


class LatentCodes(FigureCallback):
    """Draw the latent codes of up to 2000 test images, coloured by label; more than two dimensions by PCA."""

    name = "latent_codes"
    required_method = "encode"

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        if len(z) < MIN_POINTS:
            return {}
        points, axes = in_plane(z)
        panel = charts.Panel(points, f"Codes of {len(z):,} test images", *axes)
        classes = class_names(data, int(y.max()) + 1)
        return {"latent_codes": charts.scatter([panel], y, classes, subject(model, data))}
