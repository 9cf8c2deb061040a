"""Several batches at a time, for models that take several steps per call."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from datamodules.batches import Batches


class BatchGroups:
    """An iterable of tuples of `size` batches, the last of an epoch perhaps of fewer; otherwise as `batches`.

    Args:
        batches: Where they come from.
        size: How many at a time.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def __init__(self, batches: Batches, size: int):
        self.batches, self.size = batches, size

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
        batches = iter(self.batches)
        while call := tuple(islice(batches, self.size)):
            yield call

    @property
    def sampler(self) -> Batches:
        """Where Lightning looks for `set_epoch`."""
        return self.batches

    def state_dict(self) -> dict[str, Any]:
        """The position, in batches."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration, once, begin at the position `state`."""
        self.batches.load_state_dict(state)
