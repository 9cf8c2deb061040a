"""Looking at numbers of a GPU without waiting for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed


class DelayedReader:
    """Hands back a number of a GPU at the next call, when it has long been computed; one of the CPU at once."""

    def __init__(self):
        self.before: tuple[Tensor, Any, torch.cuda.Event] | None = None

    def __call__(self, value: Tensor, note: Any = None) -> tuple[Tensor, Any] | None:
        """What the call before was given, on the CPU, or nothing at the first one; on the CPU what this one is given.

        Args:
            value: A tensor, the same kind at each call.
            note: Handed back beside it.
        """
        if value.device.type == "cpu":
            return value, note
        copy = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        before, self.before = self.before, (copy, note, event)
        if before is None:
            return None
        before[2].synchronize()  # waits for that copy, and not for the work that has been given to the GPU since
        return before[:2]


def all_reduce(value: Tensor, op: str) -> Tensor:
    """The SUM or MAX of `value` over all processes of a run, known to each; itself where there is but one."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value, getattr(distributed.ReduceOp, op))
    return value


def broadcast_from_rank0(value):
    """The value that the first process of a distributed run has."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def rank_indices(parts: int) -> range:
    """Which of so many parts are the work of this process."""
    several = distributed.is_available() and distributed.is_initialized()
    return range(distributed.get_rank(), parts, distributed.get_world_size()) if several else range(parts)


def map_across_ranks(compute: Callable[[int], dict[str, Tensor]], parts: int) -> dict[str, Tensor]:
    """The results of `compute(0), ..., compute(parts - 1)`, joined in this order, on the CPU.

    The processes of a distributed run share the parts, each of which is computed exactly once, and all of them get all
    results. Where noise is a function of the part, the results are the same to the bit on any number of processes.

    Args:
        compute: Results of a part by their names, each with the part's images as first dimension.
        parts: How many there are, at least 1.
    """
    own = {part: {name: values.cpu() for name, values in compute(part).items()} for part in rank_indices(parts)}
    shares = [own]
    if distributed.is_available() and distributed.is_initialized():
        shares = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(shares, own)
    results = [shares[part % len(shares)][part] for part in range(parts)]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}
