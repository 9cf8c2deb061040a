"""Where figures and numbers of the callbacks go: the run folder always, W&B when it is on."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from callbacks.replace import replacing


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


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure at its own size; one without colours as a grey image, which is half as large."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    grey = (rgb == rgb[..., :1]).all()
    with replacing(path) as file:
        Image.fromarray(rgb[..., 0] if grey else rgb).save(file, format="png")


@rank_zero_only
def record_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Saves `figures/<name>_epoch0001.png` (epochs from 1) in the run folder; W&B gets the file as `figures/<name>`."""
    path = Path(trainer.default_root_dir, "figures", f"{name}_epoch{finished_epochs(trainer):04d}.png")
    save_figure(figure, path)
    epoch, step = position(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.log_metrics({f"figures/{name}": wandb.Image(str(path)), "epoch": epoch}, step=step)
