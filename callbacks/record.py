"""Record figures and metrics of callbacks in the run folder, and in W&B if it is switched on."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from figures.animation import Animation, Drawing
from runtime.figure_files import DEFAULT_STYLE, at_dpi, file_suffix, render, save_figure


def finished_epochs(trainer: Trainer) -> int:
    """Return the number of completed training epochs: the same in `on_train_epoch_end` and `on_train_end`."""
    return trainer.fit_loop.epoch_progress.current.processed


def position(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch and step, both from 0, under which Lightning logs the validation metrics of the last epoch.

    Both are logged to W&B as values, because W&B's own step counts calls and drops rows with a smaller step.
    """
    return finished_epochs(trainer) - 1, trainer.global_step - 1


@rank_zero_only
def record_metrics(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Log metrics under the epoch and step of the validation metrics of the last epoch.

    Writes to the loggers directly, because `LightningModule.log` does not work in `on_train_end`.
    """
    epoch, step = position(trainer)
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, "epoch": epoch}, step=step)


@rank_zero_only
def record_figure(trainer: Trainer, name: str, figure: Drawing) -> None:
    """Save `figures/<name>_epoch0001.png` (epochs from 1) in the run folder, and log it to W&B as `figures/<name>`.

    `trainer.figure_style`, if set, defines the format and resolution of the file. W&B always gets pixels. An animation
    is a GIF file, for W&B too.
    """
    style = getattr(trainer, "figure_style", DEFAULT_STYLE)
    file_name = f"{name}_epoch{finished_epochs(trainer):04d}.{file_suffix(figure, style)}"
    path = Path(trainer.default_root_dir, "figures", file_name)
    save_figure(figure, path, style.dpi)
    epoch, step = position(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_metrics({f"figures/{name}": wandb_media(figure, path, style.dpi), "epoch": epoch}, step=step)


def wandb_media(figure: Drawing, path: Path, dpi: int) -> Any:
    """Return what W&B logs of a figure or animation: its file if it has pixels, else the figure as pixels."""
    import wandb

    if isinstance(figure, Animation):
        return wandb.Video(str(path), format="gif")  # a file is copied as it is, without the library that makes videos
    return wandb.Image(str(path) if path.suffix == ".png" else render(at_dpi(figure, dpi)))
