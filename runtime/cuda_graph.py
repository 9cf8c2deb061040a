"""Capture an optimizer step as a CUDA graph, whose replay launches all its kernels at once."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models import Model

WARM_UP_STEPS = 3  # before the capture, so that libraries allocate their workspaces
LOSS_TOLERANCE = (1e-4, 1e-4)  # relative and absolute, between a replay and the eager loss


def capture(step: Callable[..., Any], *inputs: Tensor, restore: Callable[[], None]) -> "CapturedStep":
    """Return a callable that replays `step` on new inputs of the same shapes.

    A replay draws the same random numbers as the eager step with the same state of the generator. The next replay
    overwrites the tensors that a replay returns.

    Args:
        step: Takes the inputs, runs forward, backward and the optimizer, and returns tensors.
        inputs: Example inputs, on the GPU.
        restore: Undoes the effects of the steps that are taken before the capture.

    Raises:
        RuntimeError: The step cannot be captured, for example because it waits for a value from the GPU.
    """
    buffers = [example.clone() for example in inputs]
    noise = random_state(buffers[0].device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side), synchronization_forbidden():
            for _ in range(WARM_UP_STEPS):
                step(*buffers)
    finally:
        torch.cuda.current_stream().wait_stream(side)
        restore()
        set_random_state(buffers[0].device, noise)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records the kernels without running them
        result = step(*buffers)

    return CapturedStep(graph, step, buffers, result)


class CapturedStep:
    """Replays a captured step on new inputs of the same shapes.

    Args:
        graph: The captured kernels.
        step: What was captured. It is kept because the kernels use the memory of its tensors, such as the weights.
        buffers: The inputs that the kernels read.
        result: What the step returned; each replay overwrites its tensors.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, step: Callable[..., Any], buffers: list[Tensor], result: Any):
        self.graph, self.step, self.buffers, self.result = graph, step, buffers, result

    def __call__(self, *inputs: Tensor) -> Any:
        for buffer, value in zip(self.buffers, inputs, strict=True):
            buffer.copy_(value)
        self.graph.replay()
        return self.result


@contextmanager
def synchronization_forbidden() -> Iterator[None]:
    """Raise RuntimeError when an operation waits for the GPU; in a capture it would leave the GPU in a broken state."""
    before = torch.cuda.get_sync_debug_mode()
    set_sync_debug_mode("error")
    try:
        yield
    finally:
        set_sync_debug_mode(before)


def set_sync_debug_mode(mode: int | str) -> None:
    """Set what happens when an operation waits for the GPU, without PyTorch's warning that this is a prototype.

    The mode is set before the warning: where warnings are errors, it would stay set.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)


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

    The step is captured when a shape of batches occurs for the second time, because the first step allocates and
    compiles. If it cannot be captured, or if the loss of a replay differs from that of the model, a warning is printed
    and all further steps are eager. The losses differ if the model reads a changing number that is not a tensor on the
    GPU, because its value is fixed in the graph.

    Args:
        model: A model on a GPU, attached to a Trainer, with manual optimization.
    """

    def __init__(self, model: Model):
        self.model = model
        self.seen: set[tuple] = set()  # shapes of batches
        self.graphs: dict[tuple, Callable[..., dict[str, Tensor]]] = {}  # for each shape
        self.works = True
        self.replays = 0

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Take one optimizer step and return the values to log."""
        shape = tuple(part.shape for part in batch)
        if not self.seen:
            for optimizer in self.model.all_optimizers():
                prepare_optimizer(optimizer, batch[0].device)
        if shape in self.seen and shape not in self.graphs and self.works:
            self.capture(shape, batch)
        self.seen.add(shape)
        return self.replay(shape, batch) if self.works and shape in self.graphs else self.model.take_step(*batch)

    def capture(self, shape: tuple, batch: tuple[Tensor, ...]) -> None:
        """Capture the step for batches of a shape."""
        model, optimizers = self.model, self.model.all_optimizers()
        restore = snapshot([*model.parameters(), *model.buffers()], optimizers)
        try:
            self.graphs[shape] = capture(model.take_step, *batch, restore=restore)
        except RuntimeError as error:
            restore()
            for optimizer in optimizers:
                optimizer.zero_grad()  # gradients may lie in the memory of the graph
            self.give_up(f"they cannot be captured ({str(error).splitlines()[0]})")

    def replay(self, shape: tuple, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Replay the step and return copies of its values; check the loss of replays 1, 2, 4, 8, ..."""
        self.replays += 1
        is_checked = self.replays & (self.replays - 1) == 0 and not self.model.takes_own_steps
        expected = self.loss(batch) if is_checked else None
        values = {name: value.clone() for name, value in self.graphs[shape](*batch).items()}
        if expected is not None and not torch.allclose(values["loss"], expected, *LOSS_TOLERANCE, equal_nan=True):
            self.give_up(
                f"a replay has a loss of {values['loss']:.6g} instead of {expected:.6g}, because "
                f"{type(self.model).__name__} computes it from a changing number that is not a tensor on the GPU"
            )
        return values

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the eager loss of the next step, and restore the generator and the buffers."""
        noise, restore = random_state(batch[0].device), snapshot(self.model.buffers(), [])
        loss = self.model.loss(*batch).detach()  # with gradients, for which a compiled loss is compiled already
        restore()
        set_random_state(batch[0].device, noise)
        return loss

    def give_up(self, reason: str) -> None:
        """Print a warning; all further steps are eager."""
        self.works = False
        print(f"warning: steps are not replayed as a CUDA graph: {reason}.", file=sys.stderr)


def random_state(device: torch.device) -> Tensor:
    """Return the state of the default generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Set the state of the default generator of a device."""
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)
