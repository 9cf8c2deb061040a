"""Several optimizer steps per training step of the Trainer, whose overhead is as large as a small optimizer step."""

from collections.abc import Sequence

import torch
from torch import Tensor


def take_steps(model, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Take one optimizer step per batch, as the Trainer would, and return the mean of their losses.

    Lightning's hooks around the backward pass and the optimizer step are not called: they are most of the overhead.
    Callbacks that define `on_next_step(trainer)` are called before each step except the first.

    Args:
        model: A `Model` attached to a Trainer, with manual optimization and without gradient scaling.
        batches: Pairs `(x, y)`.
    """
    trainer = model.trainer
    optimizer = model.optimizers().optimizer
    epoch_loop = trainer.fit_loop.epoch_loop
    progress = epoch_loop.manual_optimization.optim_step_progress  # the counter behind `trainer.global_step`
    hooks = [callback.on_next_step for callback in trainer.callbacks if hasattr(callback, "on_next_step")]
    losses = []
    for index, (x, y) in enumerate(batches):
        if trainer.global_step == trainer.max_steps:
            break
        if index > 0:
            for hook in hooks:
                hook(trainer)
        model.prepare_step()
        loss = model.loss(x, y)
        optimizer.zero_grad()
        # Backward runs outside autocast, as in automatic optimization.
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        progress.increment_ready()
        optimizer.step()
        progress.increment_completed()
        losses.append(loss.detach())
    epoch_loop._batches_that_stepped = trainer.global_step - 1  # Lightning logs under this number, and counts calls
    return torch.stack(losses).mean()
