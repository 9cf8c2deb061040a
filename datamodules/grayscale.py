"""Base class of data sets of uint8 images: split, hide labels, transform and binarize."""

import hashlib
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.base import GREY_PROTOCOLS, ImageData, fixed_generator
from datamodules.batches import Batches, MixedBatches, Split, bernoulli, dequantise, seed_of, to_unit_interval
from datamodules.grouped import BatchGroups
from datamodules.labels import list_names
from datamodules.transforms import PoseLimits, apply_pose, draw_poses

Binarization = Literal["dynamic", "fixed", "threshold", "grey", "levels"]


class GrayscaleData(ImageData):
    """Images of intensities 0..255 with a validation set split off the training images. Subclasses define `fetch`.

    Args:
        batch_size: Images per batch and device.
        binarization: dynamic (training pixels are sampled again at each access, validation and test pixels once),
            fixed (all pixels are sampled once), threshold (1 if at least 128), grey (dequantised to [0, 1), not
            binarized) or levels (the 256 grey levels as they are, neither binarized nor dequantised). In train.py, the
            default follows from --model.likelihood.
        num_labels: Number of training labels to keep, the same for each class; all by default. The others become -1.
        labels_per_batch: Labelled images per training batch of partly labelled data; by default a tenth of the batch,
            or their share of the training images if that is larger.
        val_size: Validation images, taken from the training images.
        seed: Seed for choosing validation images and kept labels.
        label_seed: Seed for choosing kept labels, by default `seed`. With another one, a run has other labels but the
            same validation images. Requires num_labels.
        max_rotation: Rotate each image by a random angle of at most this many degrees; the same angles in every run.
        max_shift: Shift each image along both axes by at most this many pixels.
        max_scaling: Scale each image by a random factor; 0.1 means 0.9 to 1.1.

    Raises:
        ValueError: If an option is out of range, or the data cannot be used.
    """

    has_grey_levels = True
    _grey: dict[str, Tensor]  # images before binarization, of the splits that were asked for

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
        label_seed: int | None = None,
    ):
        super().__init__(batch_size)
        if binarization not in get_args(Binarization):
            allowed = ", ".join(get_args(Binarization))
            raise ValueError(f'binarization must be one of {allowed}, not "{binarization}".')
        if num_labels is not None and num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, not {num_labels}; leave it out to keep all.")
        if label_seed is not None and num_labels is None:
            raise ValueError("label_seed has no effect without num_labels: set num_labels, or leave label_seed out.")
        if val_size is not None and val_size < 1:
            raise ValueError(f"val_size must be at least 1, not {val_size}.")
        if labels_per_batch is not None and not 1 <= labels_per_batch < batch_size:
            raise ValueError(f"labels_per_batch must be between 1 and batch_size - 1; {labels_per_batch} is not.")
        if not (0 <= max_rotation <= 180 and 0 <= max_shift < math.inf and 0 <= max_scaling < 1):
            raise ValueError(
                "max_rotation must be between 0 and 180, max_shift finite and at least 0, max_scaling at least 0 and "
                f"below 1; got {max_rotation}, {max_shift} and {max_scaling}."
            )
        self.binarization = binarization
        self.train_pixel_sampler = {"dynamic": bernoulli, "grey": dequantise}.get(binarization)
        self.num_labels = num_labels
        self.labels_per_batch = labels_per_batch
        self.val_size = val_size
        self.seed = seed
        self.label_seed = seed if label_seed is None else label_seed
        self.limits = PoseLimits(max_rotation, max_shift, max_scaling)

    @property
    def protocol(self) -> str:
        """The binarization."""
        return self.binarization

    def train_dataloader(self) -> Batches | BatchGroups:
        """Return shuffled batches; those of partly labelled data hold a fixed number of labelled images each.

        A model that does not learn from labels gets ordinary batches, so that it sees all images equally often.

        Raises:
            ValueError: If `labels_per_batch` does not fit the data or has no effect.
        """
        num_labelled = int((self.train.y >= 0).sum())
        if num_labelled in (0, len(self.train.y)) or not getattr(self._model, "learns_from_labels", True):
            if self.labels_per_batch:
                raise ValueError(
                    "labels_per_batch requires a model that learns from labels (M2, M1M2, ADGM or SDGM) and partly "
                    "labelled data. Leave it out, or choose such a model and set num_labels."
                )
            return super().train_dataloader()
        labels_per_batch = self.labels_per_batch or self._default_labels_per_batch(num_labelled)
        if labels_per_batch > num_labelled or labels_per_batch >= self.batch_size:
            raise ValueError(
                f"A batch of {self.batch_size} images cannot hold {labels_per_batch} of {num_labelled} labelled "
                "images and an unlabelled one: choose another batch_size or labels_per_batch."
            )
        return self._train_batches(MixedBatches, labels_per_batch=labels_per_batch)

    def _default_labels_per_batch(self, num_labelled: int) -> int:
        """Return a tenth of the batch, or the labelled share of the training images if that is larger."""
        share = round(self.batch_size * num_labelled / len(self.train.y))
        limit = max(1, self.batch_size - 1)  # leaves room for an unlabelled image
        return min(max(1, self.batch_size // 10, min(share, limit)), num_labelled)

    @property
    def variant(self) -> str:
        """Description of the random transformations; empty if there are none."""
        return str(self.limits)

    @property
    def source(self) -> str:
        """Origin of the data, for messages."""
        return type(self).__name__

    def fetch(self) -> tuple[Split, Split]:
        """Return the training and test images as uint8, with their labels."""
        raise NotImplementedError

    def load(self) -> tuple[Split, Split, Split]:
        """Fetch, validate, split, hide labels, transform and binarize."""
        # Contiguous tensors make everything independent of the memory layout in the file.
        train, test = (Split(x.contiguous(), y.contiguous()) for x, y in self.fetch())
        validate_splits(self.source, train, test)
        if self.class_names is None and (num_classes := 1 + max(int(train.y.max()), int(test.y.max()))):
            self.class_names = [str(index) for index in range(num_classes)]
        self.num_classes = len(self.class_names or ())
        self._grey = {}
        train_index, val_index = self._split(len(train.y))
        self.label_indices = self._choose_labelled(train.y, train_index)
        train_y = torch.full_like(train.y, -1)
        train_y[self.label_indices] = train.y[self.label_indices]
        self._warn_of_unusual_data(train, test, train_y[train_index])

        # All training images are sampled before the split, so that the sample of an image does not depend on it.
        train_x, _ = self._transform(train.x, self.limits, "training images")
        binarized_x = self._binarize_once(train_x, "training images")
        test_x, _ = self._transform(test.x, self.limits, "test images")
        return (
            Split((train_x if self.train_pixel_sampler else binarized_x)[train_index], train_y[train_index]),
            Split(binarized_x[val_index], train.y[val_index]),
            Split(self._binarize_once(test_x, "test images"), test.y),
        )

    def grey_pixels(self, split: str) -> Tensor:
        """Return all images of a split before binarization, uint8 (N, C, H, W) in 0..255.

        Those of validation and test images are read again at the first call, and kept.
        """
        if self.binarization == "levels":
            return getattr(self, split).x
        if split == "train" and self.train_pixel_sampler:
            return self.train.x
        if split not in self._grey:
            train, test = self.fetch()
            if split == "test":
                self._grey[split], _ = self._transform(test.x.contiguous(), self.limits, "test images")
            else:
                x, _ = self._transform(train.x.contiguous(), self.limits, "training images")
                train_index, val_index = self._split(len(x))
                self._grey[split] = x[train_index if split == "train" else val_index]
        return self._grey[split]

    def _warn_of_unusual_data(self, train: Split, test: Split, train_y: Tensor) -> None:
        """Print warnings about constant images, binarized colours and unusual labels.

        Args:
            train: Training and validation images with all their labels.
            test: Test images.
            train_y: Labels of the training images after hiding.
        """
        if torch.equal(train.x[0], train.x[-1]) and (train.x == train.x[0]).all():
            self.note(f"warning: all training images of {self.source} are the same: there is nothing to learn.")
        if self.reads_user_files and self.binarization not in GREY_PROTOCOLS and has_colour_levels(train.x):
            self.note(
                f"warning: the colours of {self.source} are binarized, each channel to 0 or 1. To keep them, set "
                "--model.likelihood discretized_logistic or, for a model without this option, --data.binarization grey."
            )
        if self.num_classes > max(2, len(train_y) / 2):
            self.note(
                f"warning: the labels of {self.source} have {self.num_classes} distinct values for {len(train_y)} "
                "training images: are they classes?"
            )
            return
        train_labels = {-1, *train.y.unique().tolist()}
        test_only = [self.class_names[label] for label in test.y.unique().tolist() if label not in train_labels]
        if test_only and len(test_only) < self.num_classes:  # otherwise the training images have no labels at all
            subject = (
                f"class {test_only[0]} occurs" if len(test_only) == 1 else f"classes {list_names(test_only)} occur"
            )
            self.note(f"warning: {subject} only in the test images of {self.source}.")
        counts = train_y[train_y >= 0].bincount(minlength=self.num_classes).tolist()
        single = [name for name, count in zip(self.class_names or (), counts, strict=True) if count == 1]
        if single and self.num_labels is None:
            subject = f"class {single[0]} has" if len(single) == 1 else f"classes {list_names(single)} have"
            self.note(f"warning: {subject} a single training image in {self.source}.")

    def transformed_test_images(self, limits: PoseLimits, draw: str = "test images") -> tuple[Tensor, Tensor]:
        """Return the test images, randomly transformed within `limits`, and their poses.

        Args:
            limits: Largest transformations.
            draw: Name that seeds the poses; by default that of the data set's own transformations.

        Returns:
            Images float32 (N, C, H, W) in [0, 1], and poses (N, 4) as returned by `draw_poses`.
        """
        x, poses = self._transform(self.fetch()[1].x, limits, draw)
        return to_unit_interval(self._binarize_once(x, "test images")), poses

    def _transform(self, x: Tensor, limits: PoseLimits, draw: str) -> tuple[Tensor, Tensor]:
        """Return the images transformed by poses that `draw` seeds, and the poses (N, 4)."""
        poses = draw_poses(len(x), limits, fixed_generator(f"poses of {draw}"))
        return (apply_pose(x, poses) if any(limits) else x), poses

    def _split(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the training and the validation images."""
        val_size = self.val_size or max(1, size // 10)
        if val_size >= size:
            raise ValueError(f"val_size must be less than the {size} training images, not {val_size}.")
        order = self._split_order(size)
        return order[val_size:], order[:val_size]

    def _split_order(self, size: int) -> Tensor:
        """Return the indices of all images but the test images, ordered by `seed`; the first `val_size` validate."""
        return torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))

    def _choose_labelled(self, y: Tensor, train_index: Tensor) -> Tensor:
        """Return the sorted indices into `y` of the training images that keep their labels, and set `labels_hash`.

        Raises:
            ValueError: If `num_labels` labels cannot be distributed evenly over the classes.
        """
        if self.num_labels is None:
            return train_index[y[train_index] >= 0].sort().values
        if self.num_classes == 0:
            raise ValueError("num_labels cannot be used: the data have no labels.")
        generator = torch.Generator().manual_seed(seed_of("labels", self.label_seed))
        order = train_index[torch.randperm(len(train_index), generator=generator)]
        by_class = [order[y[order] == label] for label in range(self.num_classes)]
        smallest_class = min(map(len, by_class))
        if not smallest_class:
            empty = [name for name, index in zip(self.class_names, by_class, strict=True) if not len(index)]
            subject = f"class {empty[0]} has" if len(empty) == 1 else f"classes {list_names(empty, limit=20)} have"
            raise ValueError(
                f"num_labels requires training images of every class, but {subject} none: add some, or remove "
                f"{'the class' if len(empty) == 1 else 'these classes'} from the data."
            )
        labels_per_class, remainder = divmod(self.num_labels, self.num_classes)
        if remainder or labels_per_class > smallest_class:
            raise ValueError(
                f"num_labels must be a multiple of the number of classes ({self.num_classes}) and at most"
                f" {self.num_classes * smallest_class}, since the smallest class has {smallest_class} training images;"
                f" got {self.num_labels}."
            )
        kept = torch.cat([index[:labels_per_class] for index in by_class]).sort().values
        self.labels_hash = hashlib.sha256(kept.numpy().astype("<i8").tobytes()).hexdigest()[:12]
        return kept

    def _binarize_once(self, x: Tensor, name: str) -> Tensor:
        """Apply the protocol with the fixed random numbers of `name`.

        Returns:
            uint8 of 0 and 255, or for `grey` float32 in [0, 1), or for `levels` the images unchanged.
        """
        if self.binarization == "levels":
            return x
        if self.binarization == "grey":
            return dequantise(x, fixed_generator(name))
        on = x >= 128 if self.binarization == "threshold" else bernoulli(x, fixed_generator(name))
        return on.to(torch.uint8).mul_(255)


def has_colour_levels(x: Tensor) -> bool:
    """Return whether images (N, C, H, W) have 3 or 4 channels and, among the first 1000, levels besides 0 and 255."""
    first = x[:1000]
    return x.shape[1] in (3, 4) and bool(((first > 0) & (first < 255)).any())


def validate_splits(source: str, train: Split, test: Split) -> None:
    """Validate types, shapes and the range of labels, once, at load time.

    Raises:
        ValueError: If images or labels have a wrong type, shape, number or range.
    """
    for name, (x, y) in {"training": train, "test": test}.items():
        if x.dtype != torch.uint8 or x.dim() != 4 or 0 in x.shape:
            raise ValueError(
                f"{source}: {name} images must be uint8 of shape (N, C, H, W), not {x.dtype} {tuple(x.shape)}."
            )
        if y.shape != x.shape[:1]:
            raise ValueError(f"{source}: there are {len(x)} {name} images but {len(y)} labels.")
        if y.min() < -1:
            raise ValueError(f"{source}: {name} labels must be 0, 1, ... or -1 for unknown, not {y.min()}.")
    if train.x.shape[1:] != test.x.shape[1:]:
        shapes = f"{tuple(train.x.shape[1:])} and {tuple(test.x.shape[1:])}"
        raise ValueError(f"{source}: training and test images must have the same shape, not {shapes}.")
