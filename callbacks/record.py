"""Where figures and numbers of the callbacks go: the run folder always, W&B when it is on."""

from pathlib import Path

from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from runtime.figure_files import DEFAULT_STYLE, at_dpi, render, save_figure


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

            image = str(path) if style.format == "png" else render(at_dpi(figure, style.dpi))
            logger.log_metrics({f"figures/{name}": wandb.Image(image), "epoch": epoch}, step=step)
