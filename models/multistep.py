"""Several optimiser steps in one call of the trainer, whose own work per call would cost as much as a small step."""

from collections.abc import Sequence

import torch
from torch import Tensor


def take_steps(model, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """One optimiser step for each batch, as the trainer would take it, and the mean of their losses.

    Lightning's hooks around each backward pass and optimiser step are left out, because most of the work is theirs.
    Before each step but the first, callbacks that define `on_next_step(trainer)` are called.

    Args:
        model: A `Model` with a trainer, without automatic optimisation and without scaling of gradients.
        batches: Pairs `(x, y)`.
    """
    trainer, optimiser, losses = model.trainer, model.optimizers().optimizer, []
    loop = trainer.fit_loop.epoch_loop
    progress = loop.manual_optimization.optim_step_progress  # what `trainer.global_step` counts
    between = [callback.on_next_step for callback in trainer.callbacks if hasattr(callback, "on_next_step")]
    for number, (x, y) in enumerate(batches):
        if trainer.global_step == trainer.max_steps:
            break
        if number:
            for act in between:
                act(trainer)
        model.prepare_step()
        loss = model.loss(x, y)
        optimiser.zero_grad()
        with torch.autocast(loss.device.type, enabled=False):  # as without calls: this is within the trainer's context
            loss.backward()
        progress.increment_ready()
        optimiser.step()
        progress.increment_completed()
        losses.append(loss.detach())
    loop._batches_that_stepped = trainer.global_step - 1  # the step that Lightning logs under: it counts calls
    return torch.stack(losses).mean()
