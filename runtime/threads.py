"""Choose the number of CPU threads of a run from the size of its model.

Results depend on the number of threads in their last digits. It is therefore a function of the model and not of the
load of the machine, and a resumed run keeps the number it started with.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models import Model
from models.estimators.passes import MAX_DECODER_ROWS
from models.layer_sums import sum_over_layers
from runtime.processes import is_srun_task

# Multiply-adds per forward pass and step from which one more thread pays off. Measured on two idle cores: the second
# thread makes steps of 20 to 100 million (8x8 images; 28x28, batch 100) 1.2 times as fast, steps of 120 million (28x28,
# batch 128) 1.3 times, and steps of 300 to 500 million (IWAE, K = 5; batch 500) 1.6 times. With another process on the
# cores, it made all of them slower.
WORK_OF_TWO_THREADS, WORK_PER_THREAD = 120e6, 100e6  # of the first two, and of each further one


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_each(processes: int) -> int:
    """Return the number of cores for this process, if all processes of the run have equally many.

    srun gives each of its tasks a number of cores. A task may be able to use those of other tasks too, so the number
    that it was given counts.

    Args:
        processes: Number of processes of this run on this machine.
    """
    per_task = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) if is_srun_task() else 0
    return min(per_task, cores()) if per_task else max(1, cores() // processes)


def check_threads(threads: int | None) -> None:
    """Raise ValueError if `--threads` is below 1."""
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1; got {threads}.")


def layer_work(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, inputs: Tensor, out: Tensor) -> int:
    """Return the multiply-adds of a linear or convolutional layer that maps `inputs` to `out`."""
    if isinstance(layer, nn.Linear):
        return out.numel() * layer.in_features
    kernel = layer.weight[0, 0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return inputs.numel() * layer.out_channels // layer.groups * kernel
    return out.numel() * layer.in_channels // layer.groups * kernel


def multiply_adds(model: Model, compute: Callable[[], Any]) -> int:
    """Return the multiply-adds of the layers of a model in `compute()`; model and random state stay unchanged."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    return sum_over_layers(model, layers, lambda layer, inputs, out: layer_work(layer, inputs[0], out), compute)


def training_work(model: Model, data: Any) -> float:
    """Return the multiply-adds of the forward pass of one training step; 0 if the loss needs the Trainer."""
    x, y = data.images("train", 2)
    loss = type(model).loss  # not the compiled one
    try:
        return multiply_adds(model, lambda: loss(model, x, y)) / len(x) * data.batch_size
    except RuntimeError as error:
        if "not attached to a `Trainer`" not in str(error):
            raise
        return 0.0


def evaluation_work(model: Model, x: Tensor, y: Tensor) -> float:
    """Return the multiply-adds of one pass of importance sampling, or of 500 images if the model has no likelihood."""
    x, y = x[:1], y[:1]
    if not model.can("log_weights"):
        return 500 * multiply_adds(model, lambda: model.validation_metrics(x, y))
    samples = 10
    once = multiply_adds(model, lambda: model.log_weights(x, samples, *model.condition_args(y)))
    return once / samples * MAX_DECODER_ROWS / model.decoder_cost


def threads_for_work(work: float, processes: int = 1) -> int:
    """Return the number of threads for a step, at most this process's share of the cores.

    Args:
        work: Multiply-adds per step.
        processes: Number of processes of this run on this machine.
    """
    useful = 1 if work < WORK_OF_TWO_THREADS else 2 + int((work - WORK_OF_TWO_THREADS) / WORK_PER_THREAD)
    return min(useful, cores_of_each(processes))


def is_set_by_environment() -> bool:
    """Return whether the user or a launcher has set OMP_NUM_THREADS."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def set_threads(threads: int, processes: int = 1) -> None:
    """Set torch's number of threads in this process, and in the processes that it starts for the same run."""
    torch.set_num_threads(threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # otherwise Lightning sets its own value
    if threads > cores():
        print(
            f"warning: {threads} threads on {cores()} cores will slow each other down.",
            file=sys.stderr,
        )


def set_for_training(threads: int | None, recorded: int | None, model: Model, data: Any, processes: int = 1) -> int:
    """Set and return the number of threads of a run.

    In order of precedence: the option, OMP_NUM_THREADS, the resumed checkpoint, the size of the model.

    Args:
        threads: `--threads`, or None.
        recorded: The number in the resumed checkpoint, or None.
        model: The model, on the CPU.
        data: Its data module, set up.
        processes: Number of processes of this run on this machine.
    """
    if threads is None and is_set_by_environment():
        threads = torch.get_num_threads()
    elif threads is None:
        threads = recorded or threads_for_work(training_work(model, data), processes)
    if recorded and threads != recorded:
        print(
            f"warning: This run had {thread_count_text(recorded)} before and has {thread_count_text(threads)} now: "
            "last digits may differ.",
            file=sys.stderr,
        )
    if threads != torch.get_num_threads() or processes > 1:
        set_threads(threads, processes)
    return threads


def set_for_evaluation(threads: int | None, model: Model, x: Tensor, y: Tensor, processes: int = 1) -> None:
    """Set the number of threads for an evaluation; it does not depend on other checkpoints of the same command.

    Args:
        threads: `--threads`; by default OMP_NUM_THREADS, or else by the size of the model.
        model: The model, on any device.
        x: Test images `(N, C, H, W)`.
        y: Their labels `(N,)`.
        processes: Number of processes that share the work on this machine.
    """
    if threads is not None:
        set_threads(threads)
    elif not is_set_by_environment():
        set_threads(threads_for_work(evaluation_work(model, x, y), processes))


def thread_count_text(threads: int) -> str:
    """Return a number of threads as text: 1 thread, 2 threads."""
    return f"{threads} thread" + ("" if threads == 1 else "s")
