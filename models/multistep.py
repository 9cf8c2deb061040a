"""Several optimizer steps per training step of the Trainer, whose overhead is as large as a small optimizer step.

This is the only module that changes the counters of the Trainer. A run may change the number of steps per call
whenever it is resumed.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor


def take_steps(model, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Take one optimizer step per batch, as the Trainer would, and return the means of the values to log.

    Lightning's hooks around the backward pass and the optimizer step are not called: they are most of the overhead.
    Callbacks that define `on_next_step(trainer)` are called before each step except the first.

    Args:
        model: A `Model` with `take_step`, attached to a Trainer, with manual optimization and without gradient scaling.
        batches: Pairs `(x, y)`.
    """
    trainer = model.trainer
    epoch_loop = trainer.fit_loop.epoch_loop
    progress = epoch_loop.manual_optimization.optim_step_progress  # the counter behind `trainer.global_step`
    hooks = [callback.on_next_step for callback in trainer.callbacks if hasattr(callback, "on_next_step")]
    step, values = model.graphed_step or model.take_step, []
    for index, batch in enumerate(batches):
        if trainer.global_step == trainer.max_steps:
            break
        if index > 0:
            for hook in hooks:
                hook(trainer)
        model.prepare_step()
        values.append(step(*batch))
        # One step for each batch, however many optimizers the model has.
        progress.increment_ready()
        progress.increment_completed()
    epoch_loop._batches_that_stepped = trainer.global_step - 1  # Lightning logs under this number, and counts calls
    if len(values) < len(batches):
        rewind(trainer, len(batches) - len(values))
    return {name: torch.stack([each[name] for each in values]).mean() for name in values[0]}


def rewind(trainer: Trainer, unused: int) -> None:
    """Return the last batches of a call, which `max_steps` has cut short, so that a longer run starts with these."""
    loader: Any = trainer.train_dataloader
    progress = trainer.fit_loop.epoch_loop.batch_progress
    # at the end of an epoch, the loader is at the start of the next one
    served = loader.steps if progress.is_last_batch else loader.position
    loader.load_state_dict({"epoch": trainer.current_epoch, "batch": served - unused})
    progress.is_last_batch = False
    trainer.val_check_batch = math.inf  # no validation, as in single steps


def correct_counters(checkpoint: dict[str, Any]) -> None:
    """Correct the Trainer's counters in a checkpoint that is being saved or loaded.

    There is one counter of optimizer steps for automatic and one for manual optimization, and a run reads its own: both
    are set to the number of steps. An epoch that `max_steps` has ended early is not finished: a longer run goes on with
    its next batch.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop")
    if not loops:
        return
    steps = checkpoint["global_step"]
    automatic = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    manual = loops["epoch_loop.manual_optimization.optim_step_progress"]
    for counter in (automatic["total"], manual["total"]):
        counter.update(ready=steps, completed=steps)
    if not loops["epoch_loop.batch_progress"]["is_last_batch"]:
        for counter in loops["epoch_progress"].values():
            unfinished = counter["started"] - 1
            counter.update(
                processed=min(counter["processed"], unfinished), completed=min(counter["completed"], unfinished)
            )


def restore_progress(trainer: Trainer) -> None:
    """Correct the Trainer's record of a resumed run, immediately before its first step."""
    finish_epoch(trainer)
    set_calls_done(trainer)


def finish_epoch(trainer: Trainer) -> None:
    """Count the epoch of a checkpoint from its end as finished. With `max_steps` the Trainer would count it twice."""
    fit_loop = trainer.fit_loop
    if fit_loop.restarted_on_epoch_end and fit_loop.epoch_loop.batch_progress.is_last_batch:
        fit_loop.epoch_progress.increment_completed()
        fit_loop.reset_restart_stage()
        fit_loop._restarting = fit_loop.epoch_loop.restarting = False


def set_calls_done(trainer: Trainer) -> None:
    """Set the number of calls in the epoch that a resumed run is in, which may have had other numbers of steps."""
    loader: Any = trainer.train_dataloader
    epoch_loop = trainer.fit_loop.epoch_loop
    if not epoch_loop.restarting or not hasattr(loader, "position"):
        return
    progress = epoch_loop.batch_progress
    calls = int(trainer.num_training_batches)
    current: Any = progress.current
    if not progress.is_last_batch:
        calls -= math.ceil((loader.steps - loader.position) / loader.size)
    unfinished = current.ready - current.completed
    current.ready = current.started = current.processed = calls
    current.completed = calls - unfinished
