"""Tables and figures of the measured rates."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import psutil
import torch
from matplotlib.figure import Figure

from benchmarks.jobs import OURS, Comparison
from benchmarks.rounds import Measured

PACKAGES = ("torch", "pytorch-lightning", "torchvision", "pythae", "pyro-ppl", "pixyz")
COLOURS = {True: "#c44e52", False: "#4c72b0"}


def processor() -> str:
    """Return the name of the processor and its AVX-512 and 16-bit instruction sets."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    lines = {key.strip(): value.strip() for key, value in pairs}
    flags = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in lines.get("flags", "").split()]
    return " ".join([lines.get("model name", platform.machine()), *flags])


def commit() -> str:
    """Return the commit of this project, with "-dirty" if there are uncommitted changes."""
    root = Path(__file__).parent
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def versions() -> str:
    """Return the versions of Python and of the installed `PACKAGES`."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def about(other_load: float) -> str:
    """Return command, commit, machine, versions and load of other programs, in Markdown."""
    module = "benchmarks" if Path(sys.argv[0]).stem == "__main__" else f"benchmarks.{Path(sys.argv[0]).stem}"
    command = " ".join(["python -m", module, *sys.argv[1:]])
    return (
        f"`{command}`, commit {commit()}, {psutil.cpu_count()} cores of {processor()}, "
        f"{torch.get_num_threads()} threads each; {versions()}. "
        f"Other programs used {other_load:.0%} of the machine meanwhile."
    )


def publish(text: str, folder: Path, name: str) -> None:
    """Print a table and write it to `folder/name.md`."""
    print(text, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)


def table(comparison: Comparison, measured: Measured) -> str:
    """Return a Markdown table of images per second and ratios, followed by the targets."""
    ratio_header = f"{OURS} of the same precision is so many times as fast"
    lines = [f"## {comparison.title}", "", f"| | images/s | {ratio_header} |", "|---|---:|---:|"]
    for name in measured.rates:
        ours = [other for other in measured.rates if other.startswith(OURS) and ("bf16" in other) == ("bf16" in name)]
        ratio = " "
        if ours and not name.startswith(OURS):
            center, low, high = measured.ratio(ours[0], name)
            ratio = f"{center:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {name} | {measured.rate(name):,.0f} | {ratio} |")
    lines += [f"| {name} | {reason} | |" for name, reason in measured.missing.items()]
    lines.append("")
    for name, other, target in comparison.targets:
        if name in measured.rates and other in measured.rates:
            center, low, high = measured.ratio(name, other)
            verdict = "met" if center >= target else "missed"
            lines.append(f"- {name} / {other}: {center:.2f} ({low:.2f} to {high:.2f}); at least {target:g}: {verdict}")
    return "\n".join(lines)


def figure(comparison: Comparison, measured: Measured) -> Figure:
    """Draw a bar chart of images per second, the fastest on top; thin lines show the quartiles over rounds."""
    matplotlib.use("Agg")
    names = sorted(measured.rates, key=measured.rate)
    chart = Figure(figsize=(7, 0.8 + 0.32 * len(names)), layout="constrained")
    axes = chart.subplots()
    for place, name in enumerate(names):
        rates = sorted(measured.rates[name])
        axes.barh(place, measured.rate(name), color=COLOURS[name.startswith(OURS)], height=0.7)
        axes.plot([rates[len(rates) // 4], rates[-1 - len(rates) // 4]], [place, place], color="black", linewidth=1)
        end = max(rates[-1 - len(rates) // 4], measured.rate(name))
        axes.annotate(f" {measured.rate(name):,.0f}", (end, place), va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("images per second")
    axes.set_title(comparison.title, fontsize=10)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return chart
