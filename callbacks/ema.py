"""Exponential moving average (EMA) of the weights, which validation and checkpoints use instead of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# Running statistics of batch norm are averaged like the weights that they belong to; other buffers are copied.
AVERAGED_BUFFERS = ("running_mean", "running_var")


def decay_after(updates: int, decay: float) -> float:
    """Return the decay of the next update, min(decay, (1 + t) / (10 + t)) after t updates.

    The first weights are random: with a constant decay of 0.999 they would dominate the average for thousands of steps.
    """
    return min(decay, (1 + updates) / (10 + updates))


class MovingAverage(AveragedModel):
    """A copy of a model whose weights are the moving average of the model's weights.

    The first update copies the weights. Each further one sets average = d * average + (1 - d) * weights, where d is
    `decay_after` the earlier updates.

    Args:
        model: The model.
        device: Device of the average.
        decay: The decay that d grows to.
    """

    n_averaged: Tensor  # number of updates

    def __init__(self, model: nn.Module, device: torch.device, decay: float):
        super().__init__(model, device)
        self.n_averaged = self.n_averaged.cpu()  # on a GPU, reading it would wait for the step to finish
        self.decay = decay
        self.pairs: tuple[list[Tensor], ...] | None = None

    def find_pairs(self, model: nn.Module) -> tuple[list[Tensor], ...]:
        """Return the tensors to average with those of `model`, then the tensors to copy with those of `model`."""
        own, others = dict(self.module.named_buffers()), dict(model.named_buffers())
        averaged = [name for name in own if name.rpartition(".")[2] in AVERAGED_BUFFERS]
        copied = [name for name in own if name not in averaged]
        parameters = [parameter.detach() for parameter in self.module.parameters()]
        others_parameters = [parameter.detach() for parameter in model.parameters()]
        return (
            parameters + [own[name] for name in averaged],
            others_parameters + [others[name] for name in averaged],
            [own[name] for name in copied],
            [others[name] for name in copied],
        )

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the current weights of the model, always the same one."""
        if self.pairs is None:
            self.pairs = self.find_pairs(model)
        averages, weights, copies, buffers = self.pairs
        updates = int(self.n_averaged)
        if updates == 0:
            torch._foreach_copy_(averages, weights)
        else:
            get_ema_multi_avg_fn(decay_after(updates, self.decay))(averages, weights, updates)
        for copy, buffer in zip(copies, buffers, strict=True):
            copy.copy_(buffer)
        self.n_averaged += 1


class EMA(WeightAveraging):
    """Average the weights after each optimizer step; validate with the average.

    In checkpoints, `state_dict` holds the average, so that it is what is loaded. The weights that training continues
    with are in `current_model_state`. This callback must precede those that save checkpoints or use the model.

    Args:
        decay: `--ema`, the decay that the average grows to.

    Raises:
        ValueError: `decay` is not between 0 and 1.
    """

    def __init__(self, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"--ema must be between 0 and 1, such as 0.999; got {decay}.")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # at this point the model is not yet on the device that it is trained on
        if stage == "fit":
            self._average_model = MovingAverage(pl_module, trainer.strategy.root_device, self.decay)

    def on_next_step(self, trainer: Trainer) -> None:
        """Update the average between two optimizer steps that the Trainer runs as one batch."""
        self.on_train_batch_end(trainer, trainer.lightning_module, None, None, 0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        elif self._average_model is not None:  # a run that is resumed with --ema, and had no average until now
            self._average_model.module.load_state_dict(checkpoint["state_dict"])

    @contextmanager
    def in_use(self, model: LightningModule) -> Iterator[None]:
        """Give the model the averaged weights, and its own ones again afterwards."""
        self._swap_models(model)
        try:
            yield
        finally:
            self._swap_models(model)


@contextmanager
def averaged_weights(trainer: Trainer, model: LightningModule) -> Iterator[None]:
    """Give the model the weights that validation uses: the averaged ones in a run with `--ema`, else its own."""
    average = next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)
    if average is None:
        yield
        return
    with average.in_use(model):
        yield


def restore_training_weights(trainer: Trainer, model: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Load the training weights of a checkpoint that also holds their average into a run without an average."""
    is_averaged = any(isinstance(callback, EMA) for callback in trainer.callbacks)
    if "current_model_state" in checkpoint and not is_averaged:
        model.load_state_dict(checkpoint["current_model_state"])
