"""Collective operations over the ranks of a run, and reading GPU scalars without synchronising."""

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
PATIENCE = timedelta(days=1)  # longer than any rank works alone


class DelayedReader:
    """Return a GPU tensor one call late, so that reading never waits for the GPU; CPU tensors at once."""

    def __init__(self) -> None:
        self.pending: tuple[Tensor, Any, torch.cuda.Event] | None = None

    def __call__(self, value: Tensor, note: Any = None) -> tuple[Tensor, Any] | None:
        """Return the tensor of the previous call, on the CPU, with its note; None at the first call.

        A CPU tensor is returned by the same call.

        Args:
            value: A tensor, on the same device at each call.
            note: Anything to return together with the tensor.
        """
        if value.device.type == "cpu":
            return value, note
        copy = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        pending, self.pending = self.pending, (copy, note, event)
        if pending is None:
            return None
        pending[2].synchronize()  # waits for that copy only, not for work queued since
        return pending[:2]


def all_reduce(value: Tensor, op: str) -> Tensor:
    """Return the SUM or MAX of `value` over all ranks, on every rank; `value` itself if there is only one process."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value, getattr(distributed.ReduceOp, op))
    return value


def broadcast_from_rank0(value):
    """Return the value of rank 0 on every rank."""
    return from_rank0(lambda: value)


@lru_cache(maxsize=1)
def group_beside(world: Any) -> Any:
    """Return a new process group of the ranks of `world`, with gloo and a timeout of `PATIENCE`."""
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def patient_group() -> Any:
    """Return the process group in which ranks wait for each other during an evaluation. All ranks must call it.

    In the group of training, waiting fails after 30 minutes, but one rank may work alone for hours. If a rank ends,
    the ranks that wait for it fail at once, since its connections close.
    """
    return group_beside(distributed.group.WORLD)


def from_rank0(compute: Callable[[], T]) -> T:
    """Run `compute` on rank 0 only, and return its result on every rank. The other ranks wait."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return compute()
    group = patient_group()
    values: list[Any] = [compute() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(values, src=0, group=group)
    return values[0]


def rank_indices(parts: int) -> range:
    """Return the indices of the parts that this rank computes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return range(parts)
    return range(distributed.get_rank(), parts, distributed.get_world_size())


def map_across_ranks(compute: Callable[[int], dict[str, Tensor]], parts: int) -> dict[str, Tensor]:
    """Return the results of `compute(0), ..., compute(parts - 1)`, concatenated in this order, on the CPU.

    Each part is computed once, by one rank, and every rank gets all results. If the noise is a function of the part,
    the results are bit-identical for any number of processes.

    Args:
        compute: Returns the results of a part by name, each with the part's images as first dimension.
        parts: The number of parts, at least 1.
    """
    shares = gather_from_ranks(lambda: compute_parts(compute, rank_indices(parts)))
    results = [shares[part % len(shares)][part] for part in range(parts)]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def compute_parts(compute: Callable[[int], dict[str, Tensor]], parts: range) -> dict[int, dict[str, Tensor]]:
    """Return the results of `compute` on the CPU, by part."""
    computed = {part: compute(part) for part in parts}  # first, since copying waits for a GPU
    return {part: {name: values.cpu() for name, values in found.items()} for part, found in computed.items()}


def gather_from_ranks(compute: Callable[[], Any]) -> list[Any]:
    """Return the results of `compute` of all ranks in their order, on every rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [compute()]
    group = patient_group()
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, compute(), group=group)
    return shares
