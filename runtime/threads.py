"""How many threads of the processor a run uses: as many as the size of its model can keep busy.

Results depend on the number in their last digits, so it is a function of the model and not of the load of the machine,
and a run that goes on keeps the number it began with.
"""

import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from models import Model, evaluating
from models.estimators.importance import MAX_DECODER_ROWS

# Multiply-adds of the forward pass of one step for which another thread pays. Measured on two idle cores, the second
# thread makes steps of 20 to 100 million (8x8 images; 28x28, batch 100) 1.2 times as fast, steps of 300 to 500 million
# (IWAE, K = 5; batch 500) 1.6 times. Beside another process the second thread made all of them slower.
WORK_PER_THREAD = 100e6


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> None:
    """Raise ValueError if `--threads` is no number of threads."""
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1; got {threads}.")


def layer_work(layer: nn.Module, given: Tensor, out: Tensor) -> int:
    """The multiply-adds of a linear or convolutional layer that makes `out` of `given`."""
    if isinstance(layer, nn.Linear):
        return out.numel() * layer.in_features
    kernel = layer.weight[0, 0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return given.numel() * layer.out_channels // layer.groups * kernel
    return out.numel() * layer.in_channels // layer.groups * kernel


def multiply_adds(model: Model, compute) -> int:
    """The multiply-adds of the layers of a model while `compute()` runs, which leaves model and noise as they are."""
    counts = []
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [
        layer.register_forward_hook(lambda layer, given, out: counts.append(layer_work(layer, given[0], out)))
        for layer in layers
    ]
    try:
        with evaluating(model):
            compute()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


def training_work(model: Model, data: Any) -> float:
    """The multiply-adds of the forward pass of one training step."""
    x, y = data.images("train", 2)
    loss = type(model).loss  # not the compiled one
    return multiply_adds(model, lambda: loss(model, x, y)) / len(x) * data.batch_size


def evaluation_work(model: Model, x: Tensor, y: Tensor) -> float:
    """The multiply-adds of one pass of importance sampling, or of 500 images where the model has no likelihood."""
    x, y = x[:1], y[:1]
    if not model.can("log_weights"):
        return 500 * multiply_adds(model, lambda: model.validation_metrics(x, y))
    samples = 10
    once = multiply_adds(model, lambda: model.log_weights(x, samples, *model.condition_args(y)))
    return once / samples * MAX_DECODER_ROWS / model.decoder_cost


def by_size(work: float, processes: int = 1) -> int:
    """The threads that so much work per step can keep busy, at most this process's share of the cores.

    Args:
        work: Multiply-adds.
        processes: Processes of this run on this machine.
    """
    return max(1, min(int(work / WORK_PER_THREAD), cores() // processes))


def is_set_by_environment() -> bool:
    """Whether the user, or a launcher, has said how many threads there are to be."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def use(threads: int, processes: int = 1) -> None:
    """Let torch use so many threads in this process, and in those that it starts for the same run."""
    torch.set_num_threads(threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # which Lightning would set otherwise
    if threads > cores():
        print(f"warning: {threads} threads on {cores()} cores wait for each other.", file=sys.stderr)


def set_for_training(threads: int | None, recorded: int | None, model: Model, data: Any, processes: int = 1) -> int:
    """Set and return the number of threads of a run: that of the option, of OMP_NUM_THREADS, of the checkpoint that it
    goes on from, or by the size of its model, in this order.

    Args:
        threads: `--threads`.
        recorded: What the checkpoint says.
        model: On the CPU.
        data: Its data module, set up.
        processes: Processes of this run on this machine.
    """
    if threads is None and is_set_by_environment():
        threads = torch.get_num_threads()
    elif threads is None:
        threads = recorded or by_size(training_work(model, data), processes)
    if recorded and threads != recorded:
        print(
            f"warning: This run had {counted(recorded)} before and has {counted(threads)} now: last digits may differ.",
            file=sys.stderr,
        )
    if threads != torch.get_num_threads() or processes > 1:
        use(threads, processes)
    return threads


def set_for_evaluation(threads: int | None, model: Model, x: Tensor, y: Tensor, processes: int = 1) -> None:
    """Set the number of threads for an evaluation, the same for a checkpoint alone and among others.

    Args:
        threads: `--threads`; by default OMP_NUM_THREADS, or else by the size of the model.
        model: On any device.
        x: Test images.
        y: Their labels.
        processes: Processes that share the work on this machine.
    """
    if threads is not None:
        use(threads)
    elif not is_set_by_environment():
        use(by_size(evaluation_work(model, x, y), processes))


def counted(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread" + ("" if threads == 1 else "s")
