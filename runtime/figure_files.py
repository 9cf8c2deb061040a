"""Figures as files: format, resolution, and writing them atomically."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from figures.animation import Animation, Drawing
from figures.grids import DPI
from runtime.atomic_write import atomic_write

# PDF: embed TrueType fonts, as publishers require. SVG: text as outlines, and the same ids in each file.
VECTOR_RC: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "figure"}
DATE_KEYS = {"pdf": "CreationDate", "svg": "Date"}  # removed, so that the same figure gives the same bytes
MIN_DPI, MAX_DPI = 50, 600


class FigureStyle(NamedTuple):
    """File format and resolution of figures.

    Args:
        format: File format, which is also the file suffix.
        dpi: Dots per inch.
    """

    format: Literal["png", "pdf", "svg"] = "png"
    dpi: int = DPI


DEFAULT_STYLE = FigureStyle()


def check_style(style: FigureStyle) -> FigureStyle:
    """Return the style; raise ValueError if its resolution is out of range."""
    if not MIN_DPI <= style.dpi <= MAX_DPI:
        raise ValueError(f"--figure_dpi must be from {MIN_DPI} to {MAX_DPI}; got {style.dpi}.")
    return style


def at_dpi(figure: Figure, dpi: int) -> Figure:
    """Return the figure at another resolution; an image grid is laid out again, so that image pixels stay whole."""
    if dpi == figure.dpi:
        return figure
    if hasattr(figure, "at_dpi"):
        return figure.at_dpi(dpi)
    figure.set_dpi(dpi)
    return figure


def render(figure: Figure) -> Image.Image:
    """Return a figure as pixels at its own size; in grayscale if it has no colours, which halves the file size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    is_grayscale = (rgb == rgb[..., :1]).all()
    return Image.fromarray(rgb[..., 0] if is_grayscale else rgb)


def as_palette(image: Image.Image) -> Image.Image:
    """Return an image with a palette, as GIF files have it; without dithering, which would look like noise.

    Maximum coverage is exact to a few grey levels; a median cut changes rare colours, such as those of thin lines.
    """
    if image.mode == "L":
        return image.convert("P")
    return image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def save_animation(animation: Animation, path: Path) -> None:
    """Write an animation as a GIF file that repeats, at the default resolution: a GIF has pixels only."""
    first, *others = map(as_palette, map(render, animation.frames()))
    with atomic_write(path) as file:
        first.save(
            file, format="gif", save_all=True, append_images=others, duration=list(animation.milliseconds), loop=0
        )


def file_suffix(drawing: Drawing, style: FigureStyle) -> str:
    """Return the suffix of the file of a figure or animation, without the dot."""
    return "gif" if isinstance(drawing, Animation) else style.format


def save_figure(figure: Drawing, path: Path, dpi: int = DPI) -> None:
    """Write a figure at its own size, in the format of the file suffix: .png, .pdf or .svg; an animation as .gif."""
    if isinstance(figure, Animation):
        save_animation(figure, path)
        return
    figure, file_format = at_dpi(figure, dpi), path.suffix[1:]
    with atomic_write(path) as file:
        if file_format == "png":
            render(figure).save(file, format="png", dpi=(dpi, dpi))
            return
        with matplotlib.rc_context(VECTOR_RC):
            figure.savefig(file, format=file_format, dpi=dpi, metadata={DATE_KEYS[file_format]: None})
