"""Random state as a function of (seed, rank, step), so that nothing between two steps can change training."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from datamodules.batches import seed_of


class StepRNG(Callback):
    """Reseed the generator of the model's device before each batch.

    A training batch is identified by (epoch, batch), so batches accumulated into one step have different noise. A
    validation batch has the same noise in every epoch, so that its metrics change only with the model.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.generator: torch.Generator | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        device = trainer.strategy.root_device
        # Seed this generator only: torch.manual_seed seeds every device type and takes a hundred times longer.
        self.generator = torch.default_generator
        if device.type == "cuda":
            torch.cuda.init()  # creates the CUDA generators
            self.generator = torch.cuda.default_generators[device.index]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch = getattr(batch, "first", batch_idx)  # a Group of batches (`--steps_per_call`)
        self._seed(trainer)

    def on_next_step(self, trainer: Trainer) -> None:
        """Reseed between two optimizer steps that the Trainer runs as one batch."""
        self.batch += 1
        self._seed(trainer)

    def _seed(self, trainer: Trainer) -> None:
        key = seed_of("train", self.seed, trainer.global_rank, trainer.current_epoch, self.batch)
        self.generator.manual_seed(key)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.generator.manual_seed(seed_of("validation", self.seed, trainer.global_rank, batch_idx))
