"""Style analogies of test images during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks import figures
from callbacks.schedule import Drawing
from callbacks.selection import one_of_each
from models import Model


class Analogies(Drawing):
    """Draws every label in the style of test images of different classes (Kingma et al. 2014, figure 1).

    Args:
        num_images: Images, a row each.
    """

    name = "analogies"
    needs = "analogies"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test")
        x = x[one_of_each(y, self.num_images)].to(model.device)
        return {"analogies": figures.analogies(x, model.analogies(x))}
