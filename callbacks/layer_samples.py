"""Samples from each level of a hierarchy of latents, during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import layer_samples
from models import Model


class LayerSamples(FigureCallback):
    """Draw a panel of samples for each layer of latents: the layer and those below it are redrawn within each row.

    The layers above are fixed within a row, so that the images of a row differ in what the redrawn layers determine.

    Args:
        num_rows: Rows of each panel, each with other layers above.
        num_images: Images of each row.
    """

    name = "layer_samples"
    required_method = "sample_layers"

    def __init__(self, num_rows: int = 2, num_images: int = 10):
        self.num_rows, self.num_images = num_rows, num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        images = model.sample_layers(self.num_images, self.num_rows)
        layers = len(images)
        shown = len(layer_samples.shown_layers(layers))
        count = f" ({shown} of {layers} layers)" if shown < layers else ""
        title = (
            f"Samples from the prior{count}: within a row, the named layers are redrawn, those above are fixed\n"
            f"{subject(model, data)}"
        )
        return {"layer_samples": layer_samples.layer_samples(images, title)}
