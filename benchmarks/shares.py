"""Profile training steps and NLL estimates by kind of operator: `python -m benchmarks.shares`. Needs no data."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import about, publish
from benchmarks.rounds import OtherLoad
from models import M2, VAE, Model
from models.estimators.importance import importance
from models.estimators.passes import MAX_DECODER_ROWS
from runtime.processes import configure_performance

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "Adam": ("aten::_fused_adam_",),
    "random numbers": ("aten::normal_", "aten::random_"),
    "log p(x given z)": (
        "LogBernoulli", "LogBernoulliBackward", "aten::binary_cross_entropy_with_logits", "aten::log_sigmoid_forward",
        "aten::exp_", "aten::prod", "aten::log_", "aten::addcmul_", "aten::sigmoid", "aten::log_sigmoid_backward",
    ),
    "casts and copies": ("aten::copy_",),
    "activations": ("aten::clamp_min", "aten::threshold_backward", "aten::softplus", "aten::softplus_backward"),
}  # fmt: skip


def binary(n: int) -> Tensor:
    """Return n images of binary noise."""
    return (torch.rand(n, 1, 28, 28) < 0.3).float()


def training_step(model: Model, x: Tensor, y: Tensor, precision: str) -> Callable[[], object]:
    """Return a function that takes a training step."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model.loss(x, y)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def nll(model: Model, x: Tensor, precision: str) -> Callable[[], object]:
    """Return a function that estimates log p(x) with K = 1000 samples."""
    return lambda: importance(model, x, 1000, MAX_DECODER_ROWS // len(x), precision=precision)


def works() -> dict[str, Callable[[], object]]:
    """Return the functions to profile, by name."""
    shape = (1, 28, 28)
    y = torch.cat([torch.arange(20) % 10, torch.full((180,), -1)])
    found: dict[str, Callable[[], object]] = {}
    for precision in ("fp32", "bf16"):
        for batch in (128, 1024):
            found[f"VAE, batch {batch}, {precision}"] = training_step(VAE(shape), binary(batch), y, precision)
        iwae = VAE(shape, objective="iwae", num_samples=50)
        found[f"IWAE, K = 50, batch 128, {precision}"] = training_step(iwae, binary(128), y, precision)
        m2 = M2(shape, 10, 0.05, hidden=[500], activation="softplus", batch_norm=False)
        found[f"M2, batch 200, {precision}"] = training_step(m2, binary(200), y, precision)
        found[f"NLL, K = 1000, 50 images, {precision}"] = nll(VAE(shape), binary(50), precision)
    return found


def shares(work: Callable[[], object], repeats: int) -> tuple[float, dict[str, float]]:
    """Return milliseconds per call, measured without the profiler, and the fraction of time per kind of operator.

    Args:
        work: The function to profile.
        repeats: Number of calls.

    The fractions are of the time with the profiler, which slows down small operators.
    """
    for _ in range(5):
        work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    spent = (time.perf_counter() - start) / repeats
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repeats):
            work()
        total = 1e6 * (time.perf_counter() - start)  # microseconds, as in the profiler
    own = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    parts = {kind: sum(own.get(name, 0.0) for name in names) / total for kind, names in KINDS.items()}
    others = sum(own.values()) / total - sum(parts.values())
    return 1e3 * spent, parts | {"other operators": others, "outside operators": 1 - sum(own.values()) / total}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, help="calls of each function")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the table")
    args = parser.parse_args()
    configure_performance()
    other_load = OtherLoad([psutil.Process()])
    lines = []
    for name, work in works().items():
        spent, parts = shares(work, args.repeats)
        lines.append(f"| {name} | {spent:.1f} | " + " | ".join(f"{part:.0%}" for part in parts.values()) + " |")
    columns = ["ms", *KINDS, "other operators", "outside operators"]
    head = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    text = "\n".join(["## Where the time goes", "", *head, *lines, "", about(other_load()), ""])
    publish(text, args.out, "shares")


if __name__ == "__main__":
    main()
