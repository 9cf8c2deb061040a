"""Groups of batches, for models that take several optimizer steps per `training_step`."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor

from datamodules.batches import Batches


class Group(NamedTuple):
    """Consecutive batches of an epoch."""

    first: int  # number of the first batch within the epoch
    batches: tuple[tuple[Tensor, ...], ...]


class BatchGroups:
    """Iterable of groups of `size` consecutive batches; the last group of an epoch may be shorter.

    Args:
        batches: The batches to group.
        size: Batches per group.
    """

    batch_sampler = None  # Lightning reads it from any loader that has a sampler

    def __init__(self, batches: Batches, size: int):
        self.batches, self.size = batches, size

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def __iter__(self) -> Iterator[Group]:
        batches = iter(self.batches)
        for batch in batches:
            first = self.batches.position - 1
            yield Group(first, (batch, *islice(batches, self.size - 1)))

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.batches.steps

    @property
    def position(self) -> int:
        """Number of batches of the current epoch that have been served."""
        return self.batches.position

    @property
    def sampler(self) -> Batches:
        """The object on which Lightning calls `set_epoch`."""
        return self.batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position, in batches."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration at the position `state`; later iterations start at the beginning."""
        self.batches.load_state_dict(state)
