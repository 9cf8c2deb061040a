"""Batches of images, cut on the device where the images lie: no workers, no Python per image."""

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Draw = Callable[[Tensor, torch.Generator], Tensor]


class Split(NamedTuple):
    """Images and their labels."""

    x: Tensor  # (N, C, H, W) uint8 in 0..255; float32 in [0, 1) where grey values were dequantised once
    y: Tensor  # (N,) int64, -1 where the label is unknown

    def take(self, index: Tensor | slice) -> "Split":
        """The images at `index`."""
        return Split(self.x[index], self.y[index])

    def to(self, device: torch.device | str) -> "Split":
        """The same images on `device`."""
        return Split(self.x.to(device), self.y.to(device))


def bernoulli(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw pixels that are on with probability x / 255."""
    # A uniform r of 0..254 is below x with probability x / 255: a quarter of torch.bernoulli's time on a CPU.
    # Tensors are filled in memory order: contiguous ones give the same draw whatever the layout of x.
    r = torch.empty_like(x, memory_format=torch.contiguous_format)
    return r.random_(0, 255, generator=generator) < x


def dequantise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (x + u) / 256 with u uniform on [0, 1)."""
    # 16 bits of u beside 8 bits of x are exact in float32: rounding never reaches 1.
    # Contiguous, so that the draw does not depend on the memory layout of x.
    u = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    return u.random_(0, 2**16, generator=generator).div_(2**16).add_(x).div_(256)


def to_unit_interval(x: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: bytes are divided by 255, other values are only cast."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x.float()


def seed_of(*key: int | str) -> int:
    """A seed that depends on nothing but `key`, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


class Batches:
    """An iterable of `(x, y)`, one rank's share of a split: x float32 (B, C, H, W) in [0, 1], y int64 (B,).

    The order is a function of (seed, epoch), the draw of a batch one of (seed, epoch, rank, batch). All ranks
    get equally many batches. Shuffled, they get equally many images too: the end of an epoch's order, fewer
    than `world` images, is left out. In order, each image comes exactly once, and the last batch may hold one
    more than `batch_size`. Iterating to the end moves on to the next epoch, and `set_epoch` to any.

    Args:
        split: Images and labels; batches are made on their device.
        batch_size: Images per batch on each rank.
        draw: Makes pixels of bytes and a generator, anew at each access; without it bytes are divided by 255.
        shuffle: Whether each epoch has its own order.
        seed: Seed of order and draws.
        rank: Which share of the images.
        world: Number of shares.

    Raises:
        ValueError: If there are fewer images than ranks.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(
        self,
        split: Split,
        batch_size: int,
        draw: Draw | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        if len(split.y) < world:
            raise ValueError(f"{len(split.y)} images cannot be shared by {world} processes.")
        self.split, self.batch_size, self.draw, self.shuffle = split, batch_size, draw, shuffle
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0
        self._start = 0  # where the next iteration begins
        self._next = 0  # the first batch not yet handed out

    def __len__(self) -> int:
        full, rest = divmod(len(self.split.y) // self.world, self.batch_size)
        # Batch norm cannot train on a single image: one that is left over joins the batch before.
        return max(1, full + (rest > 1 if self.shuffle else rest > 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Runs at the first next() only: Lightning makes its iterator before it sets the epoch.
        epoch, start = self.epoch, self._start
        self._start = 0
        share = self._share(epoch)
        generator = torch.Generator(share.device)
        for batch in range(start, len(self)):
            index = share[batch * self.batch_size :]
            if batch + 1 < len(self):
                index = index[: self.batch_size]
            generator.manual_seed(seed_of("pixels", self.seed, epoch, self.rank, batch))
            self._next = batch + 1
            yield self._batch(index, generator)
        self.set_epoch(epoch + 1)

    def _share(self, epoch: int) -> Tensor:
        size = len(self.split.y)
        if not self.shuffle:
            return torch.arange(self.rank, size, self.world, device=self.split.x.device)
        # Permuted on the CPU, so that the order does not depend on the device.
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        order = torch.randperm(size, generator=generator)
        return order[self.rank :: self.world][: size // self.world].to(self.split.x.device)

    def _batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = self.split.x.index_select(0, index)  # (B, C, H, W)
        return self.draw(x, generator).float() if self.draw else to_unit_interval(x), self.split.y.index_select(
            0, index
        )

    @property
    def sampler(self) -> "Batches":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; the epoch that is already under way keeps its position."""
        if epoch != self.epoch:
            self.epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: the epoch, and its first batch not yet handed out."""
        return {"epoch": self.epoch, "batch": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration, once, begin at the position `state`."""
        self.epoch = state["epoch"]
        self._start = self._next = state["batch"]


class MixedBatches(Batches):
    """Shuffled batches of partly labelled data, with a fixed number of labelled images in each.

    Images with and without a label are two pools. An epoch goes once through the pool that takes more batches. The
    other pool is repeated as often as it takes, each time in a new order. Each rank sees its own share of the images,
    except of labelled images that are repeated: every rank goes through all of these.

    Args:
        split: Images, some labelled and some not; batches are made on their device.
        batch_size: Images per batch on each rank.
        labels_per_batch: Labelled images among them.
        options: As for `Batches`.

    Raises:
        ValueError: If there are fewer images without a label than ranks.
    """

    def __init__(self, split: Split, batch_size: int, labels_per_batch: int, **options):
        super().__init__(split, batch_size, shuffle=True, **options)
        y = split.y.cpu()
        self.labels_per_batch = labels_per_batch
        self.known, self.unknown = (y >= 0).nonzero()[:, 0], (y < 0).nonzero()[:, 0]
        if len(self.unknown) < self.world:
            raise ValueError(f"{len(self.unknown)} images without a label cannot be shared by {self.world} processes.")

    @property
    def unlabelled_steps(self) -> int:
        """Batches that it takes to see each rank's share of the images without a label."""
        return math.ceil((len(self.unknown) // self.world) / (self.batch_size - self.labels_per_batch))

    @property
    def labelled_steps(self) -> int:
        """Batches that it takes to see each rank's share of the labelled images."""
        return math.ceil((len(self.known) // self.world) / self.labels_per_batch)

    def __len__(self) -> int:
        return max(self.unlabelled_steps, self.labelled_steps)

    def _share(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        if self.unlabelled_steps >= self.labelled_steps:
            unknown = self._own(self.unknown, len(self.unknown) // self.world, generator)
        else:
            unknown = self._own(self.unknown, len(self) * (self.batch_size - self.labels_per_batch), generator)

        # One order for all ranks where they share the labelled images, else one for each rank.
        shared = self.labelled_steps >= self.unlabelled_steps
        generator.manual_seed(seed_of("labelled", self.seed, epoch, 0 if shared else self.rank))
        if self.labelled_steps > self.unlabelled_steps:
            known = self._own(self.known, len(self.known) // self.world, generator)
        elif shared:
            known = self._own(self.known, len(self) * self.labels_per_batch, generator)
        else:
            known = repeated(self.known, len(self) * self.labels_per_batch, generator)
        parts = zip(
            known.split(self.labels_per_batch),
            unknown.split(self.batch_size - self.labels_per_batch),
            strict=True,
        )
        return torch.cat([part for pair in parts for part in pair]).to(self.split.x.device)

    def _own(self, pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The first `count` images of this rank's share of the repeated pool."""
        return repeated(pool, count * self.world, generator)[self.rank :: self.world]


def repeated(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` entries of the pool: all of it in a random order, then all again in another one, and so on."""
    rounds = math.ceil(count / len(pool))
    return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(rounds)])[:count]
