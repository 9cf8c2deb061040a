"""A stand-in for CUDA graphs on a CPU: record the operations of a function once and run the same ones again.

As with a CUDA graph, whatever Python computed is fixed: numbers, branches and addresses of tensors. Only the contents
of tensors and the state of the random generator are read anew.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

aten = torch.ops.aten
# Operations that wait for the GPU. `normal` with tensors, as in `Normal.sample`, checks that no scale is negative.
WAITING = {
    aten._local_scalar_dense.default, aten.normal.Tensor_Tensor, aten.normal.float_Tensor, aten.nonzero.default,
    aten.masked_select.default, aten.multinomial.default, aten._unique2.default, aten.repeat_interleave.Tensor,
}  # fmt: skip


class Recorder(TorchDispatchMode):
    """Record all operations, with their arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITING:
            raise RuntimeError(f"{func} waits for the GPU.")
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
