"""Base class of all data modules: three splits of images, served as batches on the training device."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from datamodules.batches import Batches, PixelSampler, Split, seed_of, to_unit_interval
from datamodules.grouped import BatchGroups, Group

PROTOCOLS = ("dynamic", "fixed", "threshold", "grey", "levels", "larochelle")
GREY_PROTOCOLS = ("grey", "levels")  # whose pixels are not binarized


def fixed_generator(name: str) -> torch.Generator:
    """Return a CPU generator seeded by `name` alone: the same in every run and on every machine."""
    return torch.Generator().manual_seed(seed_of("fixed", name))


class ImageData(LightningDataModule):
    """Base class of all data modules. Subclasses define `protocol` and `load`.

    `setup` sets `train`, `val` and `test` (`Split`s) and `image_shape` (C, H, W). `num_classes` is 0 for data without
    labels; otherwise `class_names` holds one name per class. `label_indices` are the sorted indices of the labelled
    training images in the original array. If labels were hidden, `labels_hash` is a hash of `label_indices`.

    Args:
        batch_size: Images per batch and device.

    Raises:
        ValueError: If an option is out of range, or the data cannot be used.
    """

    run_seed = 0  # seed of the order and the pixel sampling of training batches; set by train.py
    train_pixel_sampler: PixelSampler | None = None  # samples training pixels anew at each access
    steps_per_call = 1  # training batches per item of the data loader; set by train.py
    default_epochs = 100  # default of --trainer.max_epochs
    num_classes = 0
    class_names: list[str] | None = None
    labels_hash: str | None = None
    reads_user_files = False  # whether the images are those in files of the user, at `root`
    has_grey_levels = False  # whether `grey_pixels` are available
    version = ""  # which of several versions of the published images these are, for titles of tables
    variant = ""  # description of changes to the images, such as resizing or rotation
    images_read_as = ""  # how images of the user were read: type, scale and rounding error, or conversions
    label_indices: Tensor
    # (limits, draw) -> test images moved by random affine maps, and the maps; None for data that cannot be moved
    transformed_test_images: Callable[..., tuple[Tensor, Tensor]] | None = None

    _model_without_trainer: Any = None
    _device_without_trainer: torch.device | str = "cpu"

    def __init__(self, batch_size: int = 100):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.save_hyperparameters()  # includes the arguments of the subclass
        self.batch_size = batch_size
        self._printed_notes: set[str] = set()

    @property
    def protocol(self) -> str:
        """The binarization protocol, one of `PROTOCOLS`."""
        raise NotImplementedError

    def load(self) -> tuple[Split, Split, Split]:
        """Return the training, validation and test splits, and set the attributes that describe the labels."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Load the data on the first call."""
        if not hasattr(self, "train"):
            self.train, self.val, self.test = self.load()
            self.image_shape = tuple(self.train.x.shape[1:])

    def note(self, text: str) -> None:
        """Print a message about the data to stderr, once and on rank 0 only."""
        if text not in self._printed_notes and rank_zero_only.rank == 0:
            print(text, file=sys.stderr)
        self._printed_notes.add(text)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores in addition to the options: the names of the classes."""
        return {"class_names": self.class_names} if self.class_names else {}

    @cached_property
    def images_hash(self) -> str:
        """A short hash of the training, validation and test images, independent of the path of the data."""
        digest = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            digest.update(f"{split.x.dtype} {tuple(split.x.shape)}".encode())
            digest.update(split.x.cpu().numpy().tobytes())  # `tobytes` is row-major for any memory layout
        return digest.hexdigest()[:12]

    @property
    def classes_without_training_images(self) -> list[str]:
        """Names of the classes that have no labelled training image."""
        counts = self.train.y[self.train.y >= 0].bincount(minlength=self.num_classes)
        return [name for name, count in zip(self.class_names or (), counts.tolist(), strict=True) if not count]

    @property
    def labelled_fraction(self) -> float:
        """Fraction of the training images that are labelled."""
        return (self.train.y >= 0).double().mean().item()

    def train_mean(self) -> Tensor:
        """Return the mean training image, float32 (C, H, W) in [0, 1]."""
        # Summing in chunks is many times faster, and integer sums are exact in any order.
        sums = torch.stack([part.sum(0) for part in self.train.x.split(500)])
        return sums.sum(0).double().div(255 * len(self.train.y)).float()

    def train_deviation(self) -> float:
        """Return the standard deviation of the training pixels around the mean training image, in [0, 0.5]."""
        sums = torch.stack([part.int().square().sum(0) for part in self.train.x.split(500)])  # integers, as above
        mean_squares = sums.sum(0).double().div(255**2 * len(self.train.y))
        return (mean_squares - self.train_mean().double().square()).mean().clamp(min=0).sqrt().item()

    def images(
        self, split: str, n: int | None = None, device: torch.device | str = "cpu", grey: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the first `n` images of a split for evaluation: x float32 (n, C, H, W) in [0, 1], and y int64 (n,).

        Args:
            split: "train", "val" or "test". Training pixels that are sampled at each access get one fixed sample.
            n: Number of images; all by default.
            device: Device of the returned tensors.
            grey: Return the images before binarization.

        Raises:
            ValueError: If the split does not exist, or the data have no grey levels.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f'There is no split "{split}"; use "train", "val" or "test".')
        if grey:
            x, y = self.grey_pixels(split)[:n], getattr(self, split).y[:n]
            return to_unit_interval(x).to(device), y.to(device)
        x, y = getattr(self, split).subset(slice(n))
        if split == "train" and self.train_pixel_sampler:
            x = self.train_pixel_sampler(x, fixed_generator("training images")).float()
        return to_unit_interval(x).to(device), y.to(device)

    def grey_pixels(self, split: str) -> Tensor:
        """Return all images of a split before binarization, uint8 (N, C, H, W) in 0..255.

        Raises:
            ValueError: If the data have no grey levels.
        """
        raise ValueError(f"{type(self).__name__} has no grey levels.")

    def stored_images(self, split: str, chunk: int) -> Iterator[Tensor]:
        """Yield all images of a split in chunks, float32 (n, C, H, W) in [0, 1], without sampling pixels.

        Images whose pixels are sampled at each access have their grey values.
        """
        for part in getattr(self, split).x.split(chunk):
            yield to_unit_interval(part)

    def train_dataloader(self) -> Batches | BatchGroups:
        """Return shuffled batches; order and pixel sampling depend on `run_seed`."""
        return self._train_batches(shuffle=True)

    def train_batches(self, model: Any, device: torch.device | str) -> Batches:
        """Return the batches of `train_dataloader` for a model that is trained without a Trainer.

        Args:
            model: The model.
            device: Device of the batches.
        """
        self._model_without_trainer, self._device_without_trainer = model, device
        return self.train_dataloader()

    def val_dataloader(self) -> Batches:
        """Return the validation images in their stored order."""
        grey = self.grey_pixels("val") if getattr(self._model, "classifies_grey", False) else None
        return self._batches(self.val, grey=grey)

    def test_dataloader(self) -> Batches:
        """Return the test images in their stored order."""
        return self._batches(self.test)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on `device`. Batches of this class already are, which skips Lightning's slow traversal."""
        first = batch.batches[0][0] if isinstance(batch, Group) else batch[0]
        on_device = isinstance(first, Tensor) and first.device == device
        return batch if on_device else super().transfer_batch_to_device(batch, device, dataloader_idx)

    @property
    def _model(self) -> Any:
        """The model that is trained, if it is known."""
        return self.trainer.lightning_module if self.trainer else self._model_without_trainer

    def _train_batches(self, batches_class: type[Batches] = Batches, **options) -> Batches | BatchGroups:
        """Return a data loader of the training images, or of what the model computes from each of them once."""
        split, pixel_sampler = self.train, self.train_pixel_sampler
        features = self._model.training_features(self) if hasattr(self._model, "training_features") else None
        if features is not None:
            split, pixel_sampler = split._replace(x=features), None
        batches = self._batches(split, batches_class, pixel_sampler=pixel_sampler, seed=self.run_seed, **options)
        if self.steps_per_call == 1 or self.trainer is None:
            return batches
        return BatchGroups(batches, self.steps_per_call)

    def _batches(self, split: Split, batches_class: type[Batches] = Batches, **options) -> Batches:
        """Return a data loader of the split, on the device and for the rank of the trainer if there is one."""
        if self.trainer is None:
            return batches_class(split.to(self._device_without_trainer), self.batch_size, **options)
        ranks = {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        return batches_class(split.to(self.trainer.strategy.root_device), self.batch_size, **options, **ranks)
