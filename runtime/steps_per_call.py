"""Choose how many optimizer steps the Trainer takes per training step.

Each call of `training_step` costs one to two milliseconds in the Trainer, as long as a step of a small network.
"""

import math
import sys
from typing import Any, Literal

from pytorch_lightning import Trainer

from models import Model
from runtime.cuda_graph import GraphedStep
from runtime.threads import training_work

# A call lasts about CALL_SECONDS and has at most MOST_STEPS steps: longer calls are not faster and delay signals.
CALL_SECONDS = {"cpu": 0.2, "cuda": 0.1}
MOST_STEPS = {"cpu": 10, "cuda": 50}
# Multiply-adds of the forward pass per second of a whole step. One thread of a CPU reaches 5 to 15e9;
# a GPU is far from its peak with networks of this size.
WORK_PER_SECOND = {"cpu": 1e10, "cuda": 1e12}

# Methods of a model that the Trainer calls in single steps only
HOOKS = (
    "backward", "configure_gradient_clipping", "configure_optimizers", "lr_scheduler_step", "on_after_backward",
    "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end",
    "on_train_batch_start", "optimizer_step", "optimizer_zero_grad", "training_step",
)  # fmt: skip

StepsPerCall = int | Literal["auto"]


def check_steps_per_call(steps: StepsPerCall) -> None:
    """Raise ValueError if `--steps_per_call` is below 1."""
    if steps != "auto" and steps < 1:
        raise ValueError(f"--steps_per_call must be auto or at least 1; got {steps}.")


def need_single_steps(trainer: Trainer, model: Model) -> list[str]:
    """Return the options and the methods of the model that require that the Trainer sees each step."""
    options = {
        "--trainer.devices": trainer.world_size > 1,
        "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
        "--trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "--trainer.precision 16-mixed": trainer.precision == "16-mixed",  # scales gradients
        "--trainer.limit_train_batches": trainer.limit_train_batches != 1.0,
        "--trainer.val_check_interval": trainer.val_check_interval != 1.0,
        "--trainer.min_steps": trainer.min_steps is not None,  # early stopping may end training at this very step
    }
    kind = type(model)
    methods = [f"{kind.__name__}.{name}" for name in HOOKS if getattr(kind, name) is not getattr(Model, name)]
    return [name for name, is_set in options.items() if is_set] + methods


def choose(work: float, device: str, intervals: list[int]) -> int:
    """Return a number of steps per call.

    Args:
        work: Multiply-adds of the forward pass of one step.
        device: Type of the device, cpu or cuda.
        intervals: Numbers of steps after which something is due: multiples of the number that is returned, if possible.
    """
    seconds = work / WORK_PER_SECOND[device]
    most = max(1, min(MOST_STEPS[device], int(CALL_SECONDS[device] / max(seconds, 1e-9))))
    interval = math.gcd(*intervals) if intervals else 0  # 0 is a multiple of every number
    steps = max(steps for steps in range(1, most + 1) if interval % steps == 0)
    # an interval such as 53 has no divisor: what is due within a call then happens at its end
    return most if 2 * steps < most <= min(intervals, default=0) else steps


def can_replay(device: str) -> bool:
    """Return whether this type of device can capture and replay steps."""
    return device == "cuda"


def configure_steps_per_call(
    trainer: Any, data: Any, model: Model, steps: StepsPerCall, intervals: list[int], cuda_graph: bool
) -> int:
    """Set and return the number of optimizer steps per `training_step`.

    It is 1 if something needs single steps, with a warning if another number was asked for, or if a GPU could
    otherwise replay captured steps.

    Args:
        trainer: The Trainer of the run.
        data: Its data module, set up.
        model: Its model, on the CPU.
        steps: `--steps_per_call`.
        intervals: Numbers of steps after which the user wants to see or save something.
        cuda_graph: Whether a GPU may replay captured steps.
    """
    obstacles = need_single_steps(trainer, model)
    device = trainer.strategy.root_device.type
    chosen = choose(training_work(model, data), device, intervals) if steps == "auto" else steps
    if obstacles and chosen > 1 and trainer.is_global_zero:
        required_by = f"as {', '.join(obstacles)} requires"
        if steps != "auto":
            print(f"warning: --steps_per_call is set to 1, {required_by}.", file=sys.stderr)
        elif can_replay(device) and cuda_graph:
            print(
                f"warning: Steps are not replayed as a CUDA graph, {required_by}: small models train several times "
                "slower.",
                file=sys.stderr,
            )
    number = 1 if obstacles else chosen
    data.steps_per_call = number
    model.automatic_optimization = number == 1 and not model.takes_own_steps
    if can_replay(device) and cuda_graph and number > 1:
        model.graphed_step = GraphedStep(model)
    trainer.log_every_n_steps = max(1, trainer.log_every_n_steps // number)
    return number


def steps_per_call_text(steps: int, model: Model) -> str:
    """Return the number of steps per call as text: 10 steps per call, 50 steps per call, replayed as a CUDA graph."""
    graph = ", replayed as a CUDA graph" if model.graphed_step is not None else ""
    return f"{steps} step{'' if steps == 1 else 's'} per call{graph}"
