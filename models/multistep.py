"""Several optimizer steps per training step of the Trainer, whose overhead is as large as a small optimizer step."""

from collections.abc import Sequence

import torch
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
    steps = []
    for index, (x, y) in enumerate(batches):
        if trainer.global_step == trainer.max_steps:
            break
        if index > 0:
            for hook in hooks:
                hook(trainer)
        model.prepare_step()
        steps.append(model.take_step(x, y))
        # One step for each batch, however many optimizers the model has.
        progress.increment_ready()
        progress.increment_completed()
    epoch_loop._batches_that_stepped = trainer.global_step - 1  # Lightning logs under this number, and counts calls
    return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}
