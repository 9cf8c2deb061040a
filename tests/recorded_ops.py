"""A stand-in for CUDA graphs on a CPU: record the operations of a function once and run the same ones again.

As with a CUDA graph, whatever Python computed is fixed: numbers, branches and addresses of tensors. Only the contents
of tensors and the state of the random generator are read anew.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Recorder(TorchDispatchMode):
    """Record all operations, with their arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("A value is read while operations are recorded.")
        results = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, results))
        return results


def replay(calls):
    """Run recorded operations again and write their results to the same tensors."""
    for func, args, kwargs, old in calls:
        inputs = {id(leaf) for leaf in tree_flatten((args, kwargs))[0]}
        new = func(*args, **kwargs)
        for before, after in zip(tree_flatten(old)[0], tree_flatten(new)[0], strict=True):
            is_view = isinstance(before, torch.Tensor) and before._is_view()
            if isinstance(before, torch.Tensor) and id(before) not in inputs and not is_view:
                before.copy_(after)


def capture(step, *inputs, restore):
    """Do what `runtime.cuda_graph.capture` does, on a CPU."""
    buffers = [example.clone() for example in inputs]
    noise = torch.get_rng_state()
    try:
        with Recorder():  # which refuses to read values
            step(*buffers)
    finally:
        restore()
        torch.set_rng_state(noise)
    with Recorder() as recorder:
        result = step(*buffers)
    restore()  # a CUDA graph records without running
    torch.set_rng_state(noise)

    @torch.no_grad()
    def replay_step(*new):
        for buffer, value in zip(buffers, new, strict=True):
            buffer.copy_(value)
        replay(recorder.calls)
        return result

    return replay_step
