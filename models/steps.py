"""Several optimiser steps in one call of the trainer, whose own work per call would cost as much as a small step."""

from collections.abc import Sequence

import torch
from torch import Tensor


def take_steps(model, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """One optimiser step for each batch, as the trainer would take it, and the mean of their losses.

    Args:
        model: A `Model` with a trainer and without automatic optimisation.
        batches: Pairs `(x, y)`.
    """
    optimiser, losses = model.optimizers(), []
    for x, y in batches:
        if model.trainer.global_step == model.trainer.max_steps:
            break
        loss = model.loss(x, y)
        optimiser.zero_grad()
        model.manual_backward(loss)
        optimiser.step()
        losses.append(loss.detach())
    # the step that Lightning logs under: it counts calls
    model.trainer.fit_loop.epoch_loop._batches_that_stepped = model.trainer.global_step - 1
    return torch.stack(losses).mean()
