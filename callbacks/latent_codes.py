"""Where the codes of test images lie, during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks import plots
from callbacks.codes import codes_of_test_images, in_plane
from callbacks.schedule import Drawing
from models import Model

FEWEST = 3  # points that make a picture


class LatentCodes(Drawing):
    """Draws the codes of up to 2000 test images, coloured by label: one or two dimensions as they are, more by PCA."""

    name = "latent_codes"
    needs = "encode"

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        if len(z) < FEWEST:
            return {}
        points, axes = in_plane(z)
        return {"latent_codes": plots.scatter([plots.Panel(points, f"Codes of {len(z):,} test images", *axes)], y)}
