"""Figures as files: format, resolution, and writing them atomically."""

from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from figures.grids import DPI
from runtime.atomic_write import atomic_write

# Text as TrueType fonts in PDF, which publishers ask for, and as outlines in SVG; the same ids in each SVG
VECTOR_RC = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "figure"}
DATE_KEYS = {"pdf": "CreationDate", "svg": "Date"}  # left out: the same figure gives the same file
MIN_DPI, MAX_DPI = 50, 600


class FigureStyle(NamedTuple):
    """How figures are written.

    Args:
        format: Of the files, which is also the suffix of their names.
        dpi: Dots per inch.
    """

    format: Literal["png", "pdf", "svg"] = "png"
    dpi: int = DPI


DEFAULT_STYLE = FigureStyle()


def check_style(style: FigureStyle) -> FigureStyle:
    """The style itself; ValueError for a resolution that cannot be drawn."""
    if not MIN_DPI <= style.dpi <= MAX_DPI:
        raise ValueError(f"--figure_dpi must be from {MIN_DPI} to {MAX_DPI}; got {style.dpi}.")
    return style


def at_dpi(figure: Figure, dpi: int) -> Figure:
    """The figure at another resolution; a grid of images is laid out again, so that its pixels stay whole."""
    if dpi == figure.dpi:
        return figure
    if hasattr(figure, "at_dpi"):
        return figure.at_dpi(dpi)
    figure.set_dpi(dpi)
    return figure


def render(figure: Figure) -> Image.Image:
    """A figure in pixels, at its own size; one without colours in grey, which is half as large in a file."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    grey = (rgb == rgb[..., :1]).all()
    return Image.fromarray(rgb[..., 0] if grey else rgb)


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Writes a figure at its own size, in the format that the suffix of the path names: .png, .pdf or .svg."""
    figure, kind = at_dpi(figure, dpi), path.suffix[1:]
    with atomic_write(path) as file:
        if kind == "png":
            render(figure).save(file, format="png", dpi=(dpi, dpi))
            return
        with matplotlib.rc_context(VECTOR_RC):
            figure.savefig(file, format=kind, dpi=dpi, metadata={DATE_KEYS[kind]: None})
