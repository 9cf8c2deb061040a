"""Looking at numbers of a GPU without waiting for it."""

from typing import Any

import torch
from torch import Tensor, distributed


class Late:
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


def over_ranks(value: Tensor, op: str) -> Tensor:
    """The SUM or MAX of `value` over all processes of a run, known to each; itself where there is but one."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value, getattr(distributed.ReduceOp, op))
    return value
