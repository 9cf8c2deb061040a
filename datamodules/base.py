"""What every data module is: three splits of images, and batches of them on the training device."""

import hashlib
import sys
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from datamodules.batches import Batches, Draw, Split, seed_of, to_unit_interval
from datamodules.grouped import BatchGroups

PROTOCOLS = ("dynamic", "fixed", "threshold", "grey", "larochelle")


def fixed_generator(name: str) -> torch.Generator:
    """A CPU generator for the draw called `name`, the same in every run, on every machine."""
    return torch.Generator().manual_seed(seed_of("fixed", name))


class ImageData(LightningDataModule):
    """The base of all data modules. Subclasses define `protocol` and `load`.

    After `setup`: `train`, `val` and `test` are `Split`s, `image_shape` is (C, H, W), and `num_classes` is 0
    without labels; else `class_names` are the names of the classes. `label_indices` are the labelled training images,
    as sorted positions in the array the data came in; `labels_hash` names that choice where labels were hidden.

    Args:
        batch_size: Images per batch and device.

    Raises:
        ValueError: If an option is out of its range, or the data cannot be used.
    """

    run_seed = 0  # the run's seed, for order and draws of training batches; the trainer's script assigns it
    train_draw: Draw | None = None  # how training pixels are drawn at each access
    steps_per_call = 1  # how many training batches are handed out at a time; assigned like the seed
    batches_per_epoch: int  # known once batches are handed out several at a time
    default_epochs = 100  # of training, where nobody says how many
    num_classes = 0
    class_names: list[str] | None = None
    labels_hash: str | None = None
    variant = ""  # how the images differ from those published, in words
    label_indices: Tensor

    def __init__(self, batch_size: int = 100):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.save_hyperparameters()  # those of the subclass too
        self.batch_size = batch_size
        self._noted: set[str] = set()

    @property
    def protocol(self) -> str:
        """Which pixels the model is given: one of `PROTOCOLS`."""
        raise NotImplementedError

    def load(self) -> tuple[Split, Split, Split]:
        """Read the training, validation and test images, and set what is known of the labels."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once."""
        if not hasattr(self, "train"):
            self.train, self.val, self.test = self.load()
            self.image_shape = tuple(self.train.x.shape[1:])

    def note(self, text: str) -> None:
        """Print a remark on the data to stderr, once, and in one process only."""
        if text not in self._noted and rank_zero_only.rank == 0:
            print(text, file=sys.stderr)
        self._noted.add(text)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data besides the options: what its classes are called."""
        return {"class_names": self.class_names} if self.class_names else {}

    @cached_property
    def images_hash(self) -> str:
        """A short hash of the training, validation and test images: the same wherever the data lie."""
        digest = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            digest.update(f"{split.x.dtype} {tuple(split.x.shape)}".encode())
            digest.update(split.x.cpu().numpy().tobytes())  # in row-major order, whatever the memory layout
        return digest.hexdigest()[:12]

    @property
    def classes_without_training_images(self) -> list[str]:
        """Names of the classes of which no training image is known."""
        counts = self.train.y[self.train.y >= 0].bincount(minlength=self.num_classes)
        return [name for name, count in zip(self.class_names or (), counts.tolist(), strict=True) if not count]

    @property
    def labelled_fraction(self) -> float:
        """The part of the training images whose label is known."""
        return (self.train.y >= 0).double().mean().item()

    def train_mean(self) -> Tensor:
        """The mean training image, float32 (C, H, W) in [0, 1]."""
        # some at a time, which is many times faster; sums of bytes are exact in any order
        sums = torch.stack([part.sum(0) for part in self.train.x.split(500)])
        return sums.sum(0).double().div(255 * len(self.train.y)).float()

    def images(self, split: str, n: int | None = None, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """The first `n` images of a split as evaluation sees them: x float32 (n, C, H, W) in [0, 1], and y.

        Args:
            split: "train", "val" or "test"; training pixels that are redrawn at each access get a fixed draw.
            n: How many images; all by default.
            device: Where to put them.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f'There is no split "{split}"; use "train", "val" or "test".')
        x, y = getattr(self, split).take(slice(n))
        if split == "train" and self.train_draw:
            x = self.train_draw(x, fixed_generator("training images")).float()
        return to_unit_interval(x).to(device), y.to(device)

    def train_dataloader(self) -> Batches:
        """Shuffled batches; order and draws follow `run_seed`."""
        return self._batches(self.train, draw=self.train_draw, shuffle=True, seed=self.run_seed)

    def val_dataloader(self) -> Batches:
        """The validation images in order."""
        return self._batches(self.val)

    def test_dataloader(self) -> Batches:
        """The test images in order."""
        return self._batches(self.test)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch: those of this class are on the device already, and Lightning's own way looks at each tensor."""
        first = batch[0][0] if isinstance(batch[0], tuple) else batch[0]
        on_device = isinstance(first, Tensor) and first.device == device
        return batch if on_device else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _batches(self, split: Split, kind: type[Batches] = Batches, **options) -> Batches:
        if self.trainer is None:
            return kind(split, self.batch_size, **options)
        ranks = {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        batches = kind(split.to(self.trainer.strategy.root_device), self.batch_size, **options, **ranks)
        if split is self.train and self.steps_per_call > 1:
            self.batches_per_epoch = len(batches)
            return BatchGroups(batches, self.steps_per_call)
        return batches
