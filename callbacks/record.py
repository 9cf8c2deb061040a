"""Where figures and numbers of the callbacks go: the run folder always, W&B when it is on."""

from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.figures import DPI
from callbacks.replace import replacing

# Text as TrueType fonts in PDF, which publishers ask for, and as outlines in SVG; the same ids in each SVG
VECTOR = {"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "figure"}
DATE = {"pdf": "CreationDate", "svg": "Date"}  # left out: the same figure gives the same file
LEAST_DPI, MOST_DPI = 50, 600


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
    if not LEAST_DPI <= style.dpi <= MOST_DPI:
        raise ValueError(f"--figure_dpi must be from {LEAST_DPI} to {MOST_DPI}; got {style.dpi}.")
    return style


def finished_epochs(trainer: Trainer) -> int:
    """Epochs of training behind us: the same number at the end of an epoch and, afterwards, at the end of training."""
    return trainer.fit_loop.epoch_progress.current.processed


def position(trainer: Trainer) -> tuple[int, int]:
    """The epoch and the step that Lightning gives the validation metrics of the epoch just finished, both from 0.

    W&B gets both as values: its own step counts calls, and what comes with a smaller one is dropped.
    """
    return finished_epochs(trainer) - 1, trainer.global_step - 1


@rank_zero_only
def record_metrics(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Logs numbers beside the validation metrics of the epoch just finished.

    Straight to the loggers, because `LightningModule.log` is closed at the end of training, where an early stop shows.
    """
    epoch, step = position(trainer)
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, "epoch": epoch}, step=step)


def at_dpi(figure: Figure, dpi: int) -> Figure:
    """The figure at another resolution; a grid of images is laid out again, so that its pixels stay whole."""
    if dpi == figure.dpi:
        return figure
    if hasattr(figure, "at_dpi"):
        return figure.at_dpi(dpi)
    figure.set_dpi(dpi)
    return figure


def picture(figure: Figure) -> Image.Image:
    """A figure in pixels, at its own size; one without colours in grey, which is half as large in a file."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    grey = (rgb == rgb[..., :1]).all()
    return Image.fromarray(rgb[..., 0] if grey else rgb)


def save_figure(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Writes a figure at its own size, in the format that the suffix of the path names: .png, .pdf or .svg."""
    figure, kind = at_dpi(figure, dpi), path.suffix[1:]
    with replacing(path) as file:
        if kind == "png":
            picture(figure).save(file, format="png", dpi=(dpi, dpi))
            return
        with matplotlib.rc_context(VECTOR):
            figure.savefig(file, format=kind, dpi=dpi, metadata={DATE[kind]: None})


@rank_zero_only
def record_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Saves `figures/<name>_epoch0001.png` (epochs from 1) in the run folder; W&B gets it as `figures/<name>`.

    `trainer.figure_style`, where it is set, gives the format and resolution of the file; W&B takes pixels only.
    """
    style = getattr(trainer, "figure_style", DEFAULT_STYLE)
    path = Path(trainer.default_root_dir, "figures", f"{name}_epoch{finished_epochs(trainer):04d}.{style.format}")
    save_figure(figure, path, style.dpi)
    epoch, step = position(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            image = str(path) if style.format == "png" else picture(at_dpi(figure, style.dpi))
            logger.log_metrics({f"figures/{name}": wandb.Image(image), "epoch": epoch}, step=step)
