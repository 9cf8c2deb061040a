"""Record a training step in a CUDA graph, which launches all its kernels at once."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models import Model

WARM_UP_STEPS = 3  # before the capture, so that libraries allocate their workspaces


def capture(step: Callable[..., Any], *inputs: Tensor, restore: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that replays `step` on new inputs of the same shapes.

    The random numbers of a replay are those that the eager step draws with the same state of the generator. What is
    returned is overwritten by the next replay.

    Args:
        step: Takes the inputs, runs forward, backward and the optimizer, and returns tensors.
        inputs: Example inputs, on the GPU.
        restore: Undoes the effects of the steps that are taken before the capture.

    Raises:
        RuntimeError: The step cannot be captured, for example since it waits for a value from the GPU.
    """
    buffers = [example.clone() for example in inputs]
    noise = torch.cuda.get_rng_state()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side), synchronization_forbidden():
            for _ in range(WARM_UP_STEPS):
                step(*buffers)
    finally:
        torch.cuda.current_stream().wait_stream(side)
        restore()
        torch.cuda.set_rng_state(noise)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records the kernels without running them
        result = step(*buffers)

    def replay(*new: Tensor) -> Any:
        for buffer, value in zip(buffers, new, strict=True):
            buffer.copy_(value)
        graph.replay()
        return result

    return replay


@contextmanager
def synchronization_forbidden() -> Iterator[None]:
    """Raise RuntimeError when an operation waits for the GPU; in a capture it would leave the GPU in a broken state."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def snapshot(tensors: Iterable[Tensor], optimizers: Iterable[torch.optim.Optimizer]) -> Callable[[], None]:
    """Return a function that restores the values of tensors and the state of Adam optimizers to what they are now."""
    values = [(tensor, tensor.detach().clone()) for tensor in tensors]
    optimizers = list(optimizers)
    moments = [
        {parameter: {name: entry.clone() for name, entry in state.items()} for parameter, state in each.state.items()}
        for each in optimizers
    ]

    @torch.no_grad()
    def restore() -> None:
        for tensor, before in values:
            tensor.copy_(before)
        for optimizer, then in zip(optimizers, moments, strict=True):
            for parameter, state in optimizer.state.items():
                for name, entry in state.items():
                    # Adam starts with moments and a number of steps of 0
                    entry.copy_(then[parameter][name]) if then.get(parameter) else entry.zero_()

    return restore


def prepare_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let Adam be captured: its learning rate becomes a tensor on the GPU, which a replay reads."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)


class GraphedStep:
    """The optimizer step of a model, `take_step`, as a CUDA graph.

    A shape of batches is captured when it occurs for the second time: the first step allocates and compiles. If that
    is impossible, a warning is printed and all steps run one kernel after the other.

    Args:
        model: A model on a GPU, attached to a Trainer, with manual optimization.
    """

    def __init__(self, model: Model):
        self.model = model
        self.seen: set[tuple] = set()  # shapes of batches
        self.steps: dict[tuple, Callable[..., dict[str, Tensor]]] = {}  # for each shape

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Take one optimizer step and return the values to log."""
        step = self.step_for(tuple(part.shape for part in batch), batch)
        return {name: value.clone() for name, value in step(*batch).items()}

    def step_for(self, shape: tuple, batch: tuple[Tensor, ...]) -> Callable[..., dict[str, Tensor]]:
        """Return the step for batches of a shape: the graph, from the second time on."""
        if not self.seen:
            for optimizer in self.model.all_optimizers():
                prepare_optimizer(optimizer, batch[0].device)
        if shape not in self.seen:
            self.seen.add(shape)
            return self.model.take_step
        if shape not in self.steps:
            self.steps[shape] = self.captured(*batch)
        return self.steps[shape]

    def captured(self, *batch: Tensor) -> Callable[..., dict[str, Tensor]]:
        """Return the captured step, or `take_step` with a warning if it cannot be captured."""
        model, optimizers = self.model, self.model.all_optimizers()
        restore = snapshot([*model.parameters(), *model.buffers()], optimizers)
        try:
            return capture(model.take_step, *batch, restore=restore)
        except RuntimeError as error:
            restore()
            for optimizer in optimizers:
                optimizer.zero_grad()  # gradients may lie in the memory of the graph
            reason = str(error).splitlines()[0]
            print(f"warning: steps cannot be captured in a CUDA graph and run one by one: {reason}", file=sys.stderr)
            return model.take_step
