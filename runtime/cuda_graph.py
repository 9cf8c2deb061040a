"""Capture a training step in a CUDA graph, which launches all its kernels at once."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_STEPS = 3  # before the capture, so that libraries allocate their workspaces


def capture(step: Callable[..., Tensor], *inputs: Tensor, restore: Callable[[], None]) -> Callable[..., Tensor]:
    """Return a function that replays `step` on new inputs of the same shapes.

    The random numbers of a replay are those that the eager step draws with the same state of the generator. A tensor
    that is returned is overwritten by the next replay.

    Args:
        step: Takes the inputs, runs forward, backward and the optimizer, and returns a tensor.
        inputs: Example inputs, on the GPU.
        restore: Undoes the effects of the steps that are taken before the capture.
    """
    buffers = [example.clone() for example in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    restore()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records the kernels without running them
        result = step(*buffers)

    def replay(*new: Tensor) -> Tensor:
        for buffer, value in zip(buffers, new, strict=True):
            buffer.copy_(value)
        graph.replay()
        return result

    return replay
