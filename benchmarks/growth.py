"""Measure how run time scales with K, batch size, image size and data set size, and peak memory with K.

    python -m benchmarks.growth

Needs no data.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from math import log2
from pathlib import Path

import matplotlib
import psutil
import torch
from matplotlib.figure import Figure

from benchmarks.report import about, publish
from benchmarks.rounds import OtherLoad
from datamodules.batches import Batches, Split, bernoulli
from evaluation.metrics import likelihoods
from models import VAE
from runtime.processes import configure_performance

Work = Callable[[], object]


def images(n: int, side: int = 28) -> torch.Tensor:
    """Return n images of uint8 noise."""
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8)


def step(batch: int, K: int = 1, side: int = 28, network: str = "mlp") -> Work:
    """Return a function that takes a training step of a VAE, or of an IWAE if K is above 1."""
    objective = {"objective": "iwae", "num_samples": K} if K > 1 else {}
    model = VAE((1, side, side), encoder=network, decoder=network, **objective)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    x, y = (images(batch, side) > 127).float(), torch.zeros(batch, dtype=torch.long)

    def work() -> None:
        adam.zero_grad()
        model.loss(x, y).backward()
        adam.step()

    return work


def likelihood(K: int) -> Work:
    """Return a function that estimates log p(x) of 50 images with K samples."""
    model, x = VAE((1, 28, 28)), (images(50) > 127).float()
    return lambda: likelihoods(model, x, torch.zeros(50, dtype=torch.long), K)


def epoch(n: int) -> Work:
    """Return a function that iterates over all batches of n images."""
    batches = Batches(Split(images(n), torch.zeros(n, dtype=torch.long)), 100, pixel_sampler=bernoulli, shuffle=True)
    return lambda: [None for _ in batches]


def step_on_pixels(n: int, network: str) -> Work:
    """Return a function that takes a training step of a VAE on a batch of 64 images of n pixels."""
    return step(64, side=round(n**0.5), network=network)


# "title: name of the size" -> (function of the size, sizes)
GROWTH: dict[str, tuple[Callable[[int], Work], tuple[int, ...]]] = {
    "NLL of 50 images: K": (likelihood, (250, 500, 1000, 2000, 4000, 8000)),
    "IWAE step, batch 20: K": (lambda K: step(20, K), (2, 4, 8, 16, 32, 64, 128)),
    "VAE step: batch": (step, (16, 32, 64, 128, 256, 512, 1024, 2048)),
    "VAE step, mlp, batch 64: pixels": (lambda n: step_on_pixels(n, "mlp"), (196, 784, 3136, 12544)),
    "VAE step, conv, batch 64: pixels": (lambda n: step_on_pixels(n, "conv"), (196, 784, 3136, 12544)),
    "an epoch's batches of 100: images": (epoch, (2000, 8000, 32000, 128000)),
}


def seconds(works: dict[int, Work], rounds: int) -> dict[int, float]:
    """Return the median run time by size, in seconds. Sizes take turns, and the first round is not counted."""
    times: dict[int, list[float]] = {size: [] for size in works}
    for number in range(rounds + 1):
        for size, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                times[size].append(time.perf_counter() - start)
    return {size: statistics.median(values) for size, values in times.items()}


def peak(K: int) -> float:
    """Return the peak memory, in MiB, of a new process that computes the NLL of 50 images with K samples."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (K,))


def _peak(K: int) -> float:
    configure_performance()
    likelihood(K)()
    # VmHWM counts only this process; ru_maxrss starts with the peak of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def slope(times: dict[int, float]) -> float:
    """Return the exponent of the growth of run time with size, from the two largest sizes."""
    (a, ta), (b, tb) = sorted(times.items())[-2:]
    return log2(tb / ta) / log2(b / a)


def figure(measured: dict[str, dict[int, float]]) -> Figure:
    """Draw run time against size on logarithmic axes, one panel per entry; dashed: proportional to the size."""
    matplotlib.use("Agg")
    chart = Figure(figsize=(9, 5.4), layout="constrained")
    for axes, (name, times) in zip(chart.subplots(2, 3).flat, measured.items(), strict=True):
        title, size = name.rsplit(": ", 1)
        sizes, spent = zip(*sorted(times.items()), strict=True)
        axes.loglog(sizes, spent, marker="o", markersize=3, color="#c44e52")
        axes.loglog(sizes, [spent[-1] * n / sizes[-1] for n in sizes], "--", color="grey", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(size)
        axes.set_ylabel("seconds")
        axes.minorticks_off()  # their labels would overlap
        axes.grid(alpha=0.3)
    return chart


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measurements per size")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the table and figure")
    args = parser.parse_args()
    configure_performance()
    other_load = OtherLoad([psutil.Process()])
    measured = {
        name: seconds({size: make(size) for size in sizes}, args.rounds) for name, (make, sizes) in GROWTH.items()
    }
    conditions = about(other_load())
    peaks = {K: peak(K) for K in (100, 1000, 10_000, 100_000)}
    lines = ["## Growth", "", "| | median seconds | power at the end |", "|---|---|---:|"]
    for name, times in measured.items():
        spent = ", ".join(f"{size:,}: {value:.3g}" for size, value in times.items())
        lines.append(f"| {name} | {spent} | {slope(times):.2f} |")
    memory = ", ".join(f"{K:,}: {value:,.0f}" for K, value in peaks.items())
    lines += ["", f"Peak memory of the process in MiB, NLL of 50 images with K = {memory}.", "", conditions, ""]
    publish("\n".join(lines), args.out, "growth")
    figure(measured).savefig(args.out / "growth.png", dpi=150)


if __name__ == "__main__":
    main()
