"""The canvas of a sequential model after each step, as a figure and as an animation, during training."""

from typing import Any

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures.animation import Drawing
from figures.canvas_steps import Canvases, canvas_animation, canvas_steps
from models import Model


class CanvasSteps(FigureCallback):
    """Draw the canvas after each step of generated images and of reconstructions, with the attention windows.

    The figure shows the first five images of each kind, and up to 16 steps; the animation shows all.

    Args:
        num_images: Number of generated images, and of test images.
    """

    name = "canvas_steps"
    required_method = "generate_steps"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Drawing]:
        x, _ = data.images("test", self.num_images, model.device)
        generated, rebuilt = model.generate_steps(self.num_images), model.reconstruct_steps(x)
        groups = [
            Canvases("generated", generated.canvas, generated.write),
            Canvases("reconstruction", rebuilt.canvas, rebuilt.write, rebuilt.read, x),
        ]
        of = subject(model, data)
        return {
            "canvas_steps": canvas_steps(groups, f"Canvas after each step: {of}"),
            "canvas_steps_animation": canvas_animation(groups, of),
        }
