"""Mini-batches sliced on the device that holds the images, without worker processes or per-image Python."""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

PixelSampler = Callable[[Tensor, torch.Generator], Tensor]  # uint8 pixels -> model input


class Split(NamedTuple):
    """Images and their labels."""

    x: Tensor  # (N, C, H, W) uint8 in 0..255, or float32 in [0, 1) if dequantised once; or (N, D) float32 features
    y: Tensor  # (N,) int64, -1 for unlabelled images

    def subset(self, index: Tensor | slice) -> "Split":
        """Return the images and labels at `index`."""
        return Split(self.x[index], self.y[index])

    def to(self, device: torch.device | str) -> "Split":
        """Return a copy on `device`."""
        return Split(self.x.to(device), self.y.to(device))


def bernoulli(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return binary pixels sampled with probability x / 255 of being 1."""
    # P(r < x) = x / 255 for r uniform on 0..254. This takes a quarter of the time of torch.bernoulli on a CPU.
    # `random_` fills in memory order; a contiguous tensor makes the sample independent of the layout of x.
    r = torch.empty_like(x, memory_format=torch.contiguous_format)
    return r.random_(0, 255, generator=generator) < x


def dequantise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return (x + u) / 256 with u uniform on [0, 1)."""
    # 8 bits of x and 16 bits of u are exact in float32, so the result never rounds up to 1.
    # A contiguous tensor makes the sample independent of the memory layout of x.
    u = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    return u.random_(0, 2**16, generator=generator).div_(2**16).add_(x).div_(256)


def to_unit_interval(x: Tensor) -> Tensor:
    """Return pixels as float32 in [0, 1]: uint8 is divided by 255, other types are cast."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def seed_of(*key: int | str) -> int:
    """Return a 64-bit seed that depends only on `key`, the same on every machine; faster than numpy's SeedSequence."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


class Batches:
    """Iterable of the batches `(x, y)` of one rank: x float32 (B, C, H, W) in [0, 1], y int64 (B,).

    With `grey`, batches are `(x, y, grey)`, the last of the form of x.

    The order is a function of (seed, epoch), the sampled pixels of a batch one of (seed, epoch, rank, batch). All
    ranks get the same number of batches. With `shuffle`, they also get the same number of images: the remainder of
    fewer than `world` images is dropped. Without `shuffle`, each image occurs exactly once, and the last batch may
    hold one image more than `batch_size`. Iterating to the end advances to the next epoch; `set_epoch` sets any epoch.

    Args:
        split: Images and labels; batches are created on their device.
        batch_size: Images per batch and rank.
        pixel_sampler: Samples pixels from uint8 images at each access; by default they are divided by 255.
        shuffle: Shuffle the images in each epoch.
        seed: Seed of the order and of the sampled pixels.
        rank: Rank of this process.
        world: Number of processes.
        grey: The images before binarization, uint8 (N, C, H, W), for models that predict labels from these.

    Raises:
        ValueError: If there are fewer images than ranks.
    """

    batch_sampler = None  # Lightning reads it from any loader that has a sampler
    size = 1  # batches per item, as in `BatchGroups`

    def __init__(
        self,
        split: Split,
        batch_size: int,
        pixel_sampler: PixelSampler | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        grey: Tensor | None = None,
    ):
        if len(split.y) < world:
            raise ValueError(f"{len(split.y)} images cannot be split over {world} processes.")
        self.split = split
        self.grey = None if grey is None else grey.to(split.x.device)
        self.batch_size = batch_size
        self.pixel_sampler = pixel_sampler
        self.shuffle = shuffle
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0
        self._start = 0  # first batch of the next iteration
        self.position = 0  # number of batches of this epoch that have been served

    def __len__(self) -> int:
        full_batches, remainder = divmod(len(self.split.y) // self.world, self.batch_size)
        # Batch norm cannot train on one image: in training a single remaining image joins the previous batch.
        return max(1, full_batches + (remainder > 1 if self.shuffle else remainder > 0))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # A generator's body runs at the first next(): Lightning creates the iterator before it sets the epoch.
        epoch, start = self.epoch, self._start
        self._start = 0
        order = self.order(epoch)
        generator = torch.Generator(order.device)
        for batch in range(start, len(self)):
            index = order[batch * self.batch_size :]
            if batch + 1 < len(self):
                index = index[: self.batch_size]
            generator.manual_seed(seed_of("pixels", self.seed, epoch, self.rank, batch))
            self.position = batch + 1
            yield self._batch(index, generator)
        self.set_epoch(epoch + 1)

    def order(self, epoch: int) -> Tensor:
        """Return the indices of this rank's images in the order of `epoch`."""
        size = len(self.split.y)
        if not self.shuffle:
            return torch.arange(self.rank, size, self.world, device=self.split.x.device)
        # The permutation is sampled on the CPU, so that the order does not depend on the device.
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        order = torch.randperm(size, generator=generator)
        return order[self.rank :: self.world][: size // self.world].to(self.split.x.device)

    def _batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        x = self.split.x.index_select(0, index)  # (B, C, H, W)
        y = self.split.y.index_select(0, index)
        if self.pixel_sampler:
            return self.pixel_sampler(x, generator).float(), y
        if self.grey is None:
            return to_unit_interval(x), y
        return to_unit_interval(x), y, to_unit_interval(self.grey.index_select(0, index))

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self)

    @property
    def sampler(self) -> "Batches":
        """The object on which Lightning calls `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, or keep the position if it is the current epoch."""
        if epoch != self.epoch:
            self.epoch, self._start, self.position = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch and its first batch that has not been served."""
        return {"epoch": self.epoch, "batch": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at the position `state`; later iterations start at the beginning."""
        self.epoch = state["epoch"]
        self._start = self.position = state["batch"]


class MixedBatches(Batches):
    """Shuffled batches of partly labelled data, with a fixed number of labelled images in each.

    Labelled and unlabelled images form two pools. An epoch is one pass over the pool that takes more batches; the
    other pool is repeated, each time in a new order. Each rank sees its own share of the images, except that
    repeated labelled images are seen by all ranks.

    Args:
        split: Labelled and unlabelled images; batches are created on their device.
        batch_size: Images per batch and rank.
        labels_per_batch: Labelled images per batch and rank.
        options: Further arguments of `Batches`.

    Raises:
        ValueError: If there are fewer unlabelled images than ranks.
    """

    def __init__(self, split: Split, batch_size: int, labels_per_batch: int, **options):
        super().__init__(split, batch_size, shuffle=True, **options)
        y = split.y.cpu()
        self.labels_per_batch = labels_per_batch
        self.labelled, self.unlabelled = (y >= 0).nonzero()[:, 0], (y < 0).nonzero()[:, 0]
        if len(self.unlabelled) < self.world:
            raise ValueError(f"{len(self.unlabelled)} unlabelled images cannot be split over {self.world} processes.")

    @property
    def unlabelled_steps(self) -> int:
        """Batches per pass over each rank's share of the unlabelled images."""
        return math.ceil((len(self.unlabelled) // self.world) / (self.batch_size - self.labels_per_batch))

    @property
    def labelled_steps(self) -> int:
        """Batches per pass over each rank's share of the labelled images."""
        return math.ceil((len(self.labelled) // self.world) / self.labels_per_batch)

    def __len__(self) -> int:
        return max(self.unlabelled_steps, self.labelled_steps)

    def order(self, epoch: int) -> Tensor:
        unlabelled_per_batch = self.batch_size - self.labels_per_batch
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        if self.unlabelled_steps >= self.labelled_steps:
            unlabelled = self._rank_share(self.unlabelled, len(self.unlabelled) // self.world, generator)
        else:
            unlabelled = self._rank_share(self.unlabelled, len(self) * unlabelled_per_batch, generator)

        # If the labelled images are split over the ranks, all ranks need the same order; otherwise each has its own.
        is_split = self.labelled_steps >= self.unlabelled_steps
        generator.manual_seed(seed_of("labelled", self.seed, epoch, 0 if is_split else self.rank))
        if self.labelled_steps > self.unlabelled_steps:
            labelled = self._rank_share(self.labelled, len(self.labelled) // self.world, generator)
        elif is_split:
            labelled = self._rank_share(self.labelled, len(self) * self.labels_per_batch, generator)
        else:
            labelled = repeat_shuffled(self.labelled, len(self) * self.labels_per_batch, generator)

        batches = zip(labelled.split(self.labels_per_batch), unlabelled.split(unlabelled_per_batch), strict=True)
        return torch.cat([part for batch in batches for part in batch]).to(self.split.x.device)

    def _rank_share(self, pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the first `count` indices of this rank's share of the repeated pool."""
        return repeat_shuffled(pool, count * self.world, generator)[self.rank :: self.world]


def repeat_shuffled(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` entries of successive random permutations of the pool."""
    permutations = math.ceil(count / len(pool))
    return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(permutations)])[:count]
