"""Data that comes as grey images: split, hide labels, binarize."""

import hashlib
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.base import ImageData, fixed_generator
from datamodules.batches import Batches, MixedBatches, Split, bernoulli, dequantise, seed_of, to_unit_interval
from datamodules.labels import shortened
from datamodules.transforms import PoseLimits, apply_pose, draw_poses

Binarization = Literal["dynamic", "fixed", "threshold", "grey"]


class GreyData(ImageData):
    """Grey images with a validation set cut from the training images. Subclasses define `fetch`.

    Args:
        batch_size: Images per batch and device.
        binarization: dynamic (training pixels redrawn at each access, validation and test pixels drawn once),
            fixed (all drawn once), threshold (on from 128) or grey (dequantised to [0, 1), not binarized).
        num_labels: Training labels to keep, equally many of each class; all by default. The others become -1.
        labels_per_batch: Labelled images in each training batch where some have no label; by default a tenth of it, or
            their share of the training images where that is more.
        val_size: Validation images, taken from the training images.
        seed: Seed of the choice of validation images and of kept labels.
        max_rotation: Turn each image by an angle of its own, at most so many degrees; the same in every run.
        max_shift: Shift each image along both axes by at most so many pixels.
        max_scaling: Scale each image by a factor of its own; 0.1 is 0.9 to 1.1.

    Raises:
        ValueError: If an option is out of its range, or the data cannot be used.
    """

    def __init__(
        self,
        batch_size: int = 100,
        binarization: Binarization = "dynamic",
        num_labels: int | None = None,
        labels_per_batch: int | None = None,
        val_size: int | None = None,
        seed: int = 0,
        max_rotation: float = 0.0,
        max_shift: float = 0.0,
        max_scaling: float = 0.0,
    ):
        super().__init__(batch_size)
        if binarization not in get_args(Binarization):
            allowed = ", ".join(get_args(Binarization))
            raise ValueError(f'binarization must be one of {allowed}, not "{binarization}".')
        if num_labels is not None and num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, not {num_labels}; leave it out to keep all.")
        if val_size is not None and val_size < 1:
            raise ValueError(f"val_size must be at least 1, not {val_size}.")
        if labels_per_batch is not None and not 1 <= labels_per_batch < batch_size:
            raise ValueError(f"labels_per_batch must be between 1 and batch_size - 1; {labels_per_batch} is not.")
        self.limits = PoseLimits(max_rotation, max_shift, max_scaling)
        if not (0 <= max_rotation <= 180 and 0 <= max_shift < math.inf and 0 <= max_scaling < 1):
            raise ValueError(
                "max_rotation must be between 0 and 180, max_shift finite and at least 0, max_scaling at least 0 and "
                f"below 1; got {max_rotation}, {max_shift} and {max_scaling}."
            )
        self.binarization, self.num_labels = binarization, num_labels
        self.labels_per_batch = labels_per_batch
        self.val_size, self.seed = val_size, seed
        self.train_draw = {"dynamic": bernoulli, "grey": dequantise}.get(binarization)

    @property
    def protocol(self) -> str:
        """The binarization."""
        return self.binarization

    def train_dataloader(self) -> Batches:
        """Shuffled batches; where labels are hidden, each holds equally many labelled images.

        But not for a model that has no use for labels, which would see few images very often.
        """
        known = int((self.train.y >= 0).sum())
        model = self.trainer.lightning_module if self.trainer else None
        if known in (0, len(self.train.y)) or not getattr(model, "learns_from_labels", True):
            if self.labels_per_batch:
                raise ValueError(
                    "labels_per_batch is for M2 and M1M2 on data of which some have no label: leave it out, or choose "
                    "one of them and set num_labels."
                )
            return super().train_dataloader()
        each = self.labels_per_batch or self._default_labels_per_batch(known)
        if each > known or each >= self.batch_size:
            raise ValueError(
                f"Each batch of {self.batch_size} would hold {each} labelled images, of {known} in all: "
                "choose another batch_size or labels_per_batch."
            )
        return self._batches(self.train, MixedBatches, labels_per_batch=each, draw=self.train_draw, seed=self.run_seed)

    def _default_labels_per_batch(self, known: int) -> int:
        """A tenth of the batch, or the labelled images' share of the training images where that is more."""
        share = round(self.batch_size * known / len(self.train.y))
        most = max(1, self.batch_size - 1)  # leaves room for an image without a label
        return min(max(1, self.batch_size // 10, min(share, most)), known)

    @property
    def variant(self) -> str:
        """How the images differ from those published."""
        return str(self.limits)

    @property
    def source(self) -> str:
        """Where the data come from, for the messages of errors."""
        return type(self).__name__

    def fetch(self) -> tuple[Split, Split]:
        """Read the training and test images as bytes, with their labels."""
        raise NotImplementedError

    def load(self) -> tuple[Split, Split, Split]:
        """Fetch, check, split, hide labels and binarize."""
        # Contiguous, so that nothing depends on how the arrays lay in their file.
        train, test = (Split(x.contiguous(), y.contiguous()) for x, y in self.fetch())
        check(self.source, train, test)
        if self.class_names is None and (classes := 1 + max(int(train.y.max()), int(test.y.max()))):
            self.class_names = [str(index) for index in range(classes)]
        self.num_classes = len(self.class_names or ())
        train_index, val_index = self._split(len(train.y))
        self.label_indices = self._labelled(train.y, train_index)
        hidden = torch.full_like(train.y, -1)
        hidden[self.label_indices] = train.y[self.label_indices]
        self._remark(train, test, hidden[train_index])
        # All training images are drawn, whichever are used: an image's draw does not depend on the split.
        x, _ = self._moved(train.x, self.limits, "training images")
        drawn = self._fix(x, "training images")
        known = x if self.train_draw else drawn
        return (
            Split(known[train_index], hidden[train_index]),
            Split(drawn[val_index], train.y[val_index]),
            Split(self._fix(self._moved(test.x, self.limits, "test images")[0], "test images"), test.y),
        )

    def _remark(self, train: Split, test: Split, trained: Tensor) -> None:
        """Say what is odd about these images, or about the labels `trained` of the training images."""
        if torch.equal(train.x[0], train.x[-1]) and (train.x == train.x[0]).all():
            self.note(f"warning: all training images of {self.source} are the same: there is nothing to learn.")
        if self.num_classes > max(2, len(trained) / 2):
            self.note(
                f"warning: the labels of {self.source} have {self.num_classes} different values, for {len(trained)} "
                "training images: are they classes?"
            )
            return
        found = {-1, *train.y.unique().tolist()}
        only = [self.class_names[label] for label in test.y.unique().tolist() if label not in found]
        if only and len(only) < self.num_classes:  # else the training images have no labels
            named = f"class {only[0]} occurs" if len(only) == 1 else f"classes {shortened(only)} occur"
            self.note(f"warning: {named} among the test images of {self.source} only.")
        counts = trained[trained >= 0].bincount(minlength=self.num_classes).tolist()
        single = [name for name, count in zip(self.class_names or (), counts, strict=True) if count == 1]
        if single and self.num_labels is None:
            named = f"class {single[0]} has" if len(single) == 1 else f"classes {shortened(single)} have"
            self.note(f"warning: {named} a single training image in {self.source}.")

    def moved_test(self, limits: PoseLimits, draw: str = "test images") -> tuple[Tensor, Tensor]:
        """The test images as evaluation sees them, float32 (N, C, H, W), but moved within `limits`; and their poses.

        Args:
            limits: How far.
            draw: Name of the draw; that of the data themselves by default.
        """
        x, poses = self._moved(self.fetch()[1].x, limits, draw)
        return to_unit_interval(self._fix(x, "test images")), poses

    def _moved(self, x: Tensor, limits: PoseLimits, draw: str) -> tuple[Tensor, Tensor]:
        """Images moved by the draw of this name, and their poses (N, 4): angle, shift and factor."""
        poses = draw_poses(len(x), limits, fixed_generator(f"poses of {draw}"))
        return (apply_pose(x, poses) if any(limits) else x), poses

    def _split(self, size: int) -> tuple[Tensor, Tensor]:
        val_size = self.val_size or max(1, size // 10)
        if val_size >= size:
            raise ValueError(f"val_size must be less than the {size} training images, not {val_size}.")
        order = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))
        return order[val_size:], order[:val_size]

    def _labelled(self, y: Tensor, train_index: Tensor) -> Tensor:
        """Sorted positions in `y` of the training images that keep their labels."""
        if self.num_labels is None:
            return train_index[y[train_index] >= 0].sort().values
        if self.num_classes == 0:
            raise ValueError("num_labels cannot be used: these data have no labels.")
        generator = torch.Generator().manual_seed(seed_of("labels", self.seed))
        order = train_index[torch.randperm(len(train_index), generator=generator)]
        by_class = [order[y[order] == label] for label in range(self.num_classes)]
        most = min(map(len, by_class))
        if not most:
            missing = next(name for name, index in zip(self.class_names, by_class, strict=True) if not len(index))
            raise ValueError(
                f"num_labels needs training images of every class, and class {missing} has none: add some, or leave "
                "the class out of the data."
            )
        each, rest = divmod(self.num_labels, self.num_classes)
        if rest or each > most:
            raise ValueError(
                f"num_labels must be a multiple of the {self.num_classes} classes and at most"
                f" {self.num_classes * most}, the smallest class having {most} training images;"
                f" {self.num_labels} is not."
            )
        kept = torch.cat([index[:each] for index in by_class]).sort().values
        self.labels_hash = hashlib.sha256(kept.numpy().astype("<i8").tobytes()).hexdigest()[:12]
        return kept

    def _fix(self, x: Tensor, name: str) -> Tensor:
        """The pixels of the protocol, drawn once: bytes of 0 and 255, or float32 in [0, 1)."""
        if self.binarization == "grey":
            return dequantise(x, fixed_generator(name))
        on = x >= 128 if self.binarization == "threshold" else bernoulli(x, fixed_generator(name))
        return on.to(torch.uint8).mul_(255)


def check(source: str, train: Split, test: Split) -> None:
    """Check once what nobody checks again.

    Raises:
        ValueError: If images or labels are of the wrong type, shape, number or range.
    """
    for name, (x, y) in {"training": train, "test": test}.items():
        if x.dtype != torch.uint8 or x.dim() != 4 or 0 in x.shape:
            found = f"{x.dtype} {tuple(x.shape)}"
            raise ValueError(f"{source}: {name} images must be bytes (N, C, H, W), not {found}.")
        if y.shape != x.shape[:1]:
            raise ValueError(f"{source}: there are {len(x)} {name} images but {len(y)} labels.")
        if y.min() < -1:
            raise ValueError(f"{source}: {name} labels must be 0, 1, ... or -1 for unknown, not {y.min()}.")
    if train.x.shape[1:] != test.x.shape[1:]:
        shapes = f"{tuple(train.x.shape[1:])} and {tuple(test.x.shape[1:])}"
        raise ValueError(f"{source}: training and test images must have one shape, not {shapes}.")
