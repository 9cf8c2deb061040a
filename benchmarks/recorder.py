"""Record what every model computes, to show that a refactoring changes no bit of the results.

    python -m benchmarks.recorder --out before.json       # before the change
    python -m benchmarks.recorder --compare before.json   # after it: prints the differences; exit status 1 if any

Each model is trained on the digits for 60 steps (5 epochs), on the CPU with one thread, with the options of train.py
and evaluate.py. Recorded are the loss of each step, the validation metrics, log p(x) of each test image, the numbers
of evaluation.json, and hashes of all figures.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import evaluate
import train

RUNS = {
    "AE": ["AE"],
    "VAE": ["VAE"],
    "VAE iwae": ["VAE", "objective=iwae", "num_samples=5"],
    "VAE conv": ["VAE", "encoder=conv", "decoder=conv"],
    "IWAE": ["IWAE", "num_samples=5"],
    "IWAE dreg": ["IWAE", "num_samples=5", "objective=dreg"],
    "AffineVAE": ["AffineVAE"],
    "HierarchicalVAE": ["HierarchicalVAE"],
    "HierarchicalVAE iwae": ["HierarchicalVAE", "objective=iwae", "num_samples=5"],
    "LadderVAE": ["LadderVAE"],
    "LadderVAE conv": ["LadderVAE", "encoder=conv"],
    "DRAW": ["DRAW", "steps=4", "rnn_size=32"],
    "DRAW attention": ["DRAW", "steps=4", "rnn_size=32", "attention=True"],
    "CVAE": ["CVAE"],
    "CVAE iwae": ["CVAE", "objective=iwae", "num_samples=5"],
    "M2": ["M2"],
    "M1M2": ["M1M2"],
    "ADGM": ["ADGM"],
    "SDGM": ["SDGM"],
    "GMMN": ["GMMN"],
    "GAN": ["GAN"],
}
FEW_LABELS = ["--data.num_labels", "100"]
LABELS = {"M2": FEW_LABELS, "M1M2": FEW_LABELS, "ADGM": FEW_LABELS, "SDGM": FEW_LABELS}
NO_AIS = ("AE",)
# Keys of evaluation.json that depend on time, machine, paths or the version of the code
VOLATILE = ("checkpoint", "commit", "machine", "seconds", "weights_hash", "data_root")


def command(model: str, options: list[str], steps_per_call: int, m1: Path, folder: Path) -> list[str]:
    """Return the options of train.py for one run.

    Args:
        model: Name of the model.
        options: Options of the model, as "name=value".
        steps_per_call: Optimizer steps per training step of the Trainer.
        m1: Run folder of the VAE that M1M2 builds on.
        folder: Run folder.
    """
    argv = ["--model", model, "--data", "Digits", "--seed", "0", "--run_dir", str(folder)]
    argv += ["--steps_per_call", str(steps_per_call)]
    argv += ["--trainer.max_epochs", "5", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    argv += ["--trainer.log_every_n_steps", "1", "--num_samples", "20", "--limit", "100"]
    for option in options:
        name, value = option.split("=")
        argv += [f"--model.{name}", value]
    argv += LABELS.get(model, [])
    if model == "M1M2":
        argv += ["--model.m1", str(m1)]
    return argv


def quietly(main, argv: list[str]) -> None:
    """Run a command without output. Raise RuntimeError with the end of its output if it fails."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main(argv)
    if status:
        raise RuntimeError(f"{' '.join(argv)} failed with status {status}:\n{output.getvalue()[-2000:]}")


def metrics(folder: Path) -> dict[str, list[str]]:
    """Return the columns of metrics.csv with losses, validation metrics and estimates, as text."""
    columns: dict[str, list[str]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name.startswith(("train/loss", "val/", "estimate/")):
                    columns.setdefault(name, []).append(value)
    return columns


def digest(data: bytes) -> str:
    """Return a short hash."""
    return hashlib.sha256(data).hexdigest()[:16]


def files(folder: Path) -> dict[str, str]:
    """Return hashes of the per-image arrays and of the figures in a run folder."""
    found = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            kind = path.stem.split("_")[1]  # the rest of the file name is a hash of the sources
            for name in arrays.files:
                if arrays[name].dtype.kind == "f":
                    found[f"{kind} {name}"] = digest(arrays[name].tobytes())
    figures = sorted(folder.rglob("*.png"))
    return found | {str(path.relative_to(folder)): digest(path.read_bytes()) for path in figures}


def results(folder: Path) -> dict:
    """Return the contents of evaluation.json without the `VOLATILE` keys."""
    result = json.loads((folder / "evaluation.json").read_text())
    return {key: value for key, value in result.items() if key not in VOLATILE}


def record(scratch: Path) -> dict[str, dict]:
    """Train and evaluate every run of `RUNS`, and return the recorded entries by run."""
    found, m1 = {}, scratch / "m1"
    quietly(train.main, command("VAE", [], 1, m1, m1))
    for name, (model, *options) in RUNS.items():
        for steps_per_call in (1, 10):
            run = f"{name}, {steps_per_call} steps per call"
            folder = scratch / run.replace(" ", "_")
            quietly(train.main, command(model, options, steps_per_call, m1, folder))
            more = ["--num_samples", "50", "--limit", "50", "--device", "cpu"]
            if model not in NO_AIS and steps_per_call == 1:
                more += ["--ais", "--ais_temperatures", "20", "--ais_images", "10"]
            quietly(evaluate.main, [str(folder / "checkpoints" / "best.ckpt"), *more])
            found[run] = {**metrics(folder), **results(folder), **files(folder)}
            print(f"{run}: {len(found[run])} entries", file=sys.stderr, flush=True)
    return found


def differences(before: dict[str, dict], after: dict[str, dict]) -> list[str]:
    """Return one line per entry that differs between two records, and one per run that only one of them has."""
    lines = [f"{run}: only in one of the two records" for run in before.keys() ^ after.keys()]
    for run in before.keys() & after.keys():
        old, new = before[run], after[run]
        lines += [f"{run}: {key}" for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return sorted(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--out", type=Path, help="write the record to this JSON file")
    group.add_argument("--compare", type=Path, help="compare with the record in this JSON file")
    args = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    os.environ["OMP_NUM_THREADS"] = "1"  # which train.py and evaluate.py follow
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = record(Path(scratch))
    found = json.loads(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))
        print(f"{len(found)} runs: {args.out}")
        return 0
    before = json.loads(args.compare.read_text())
    lines = differences(before, found)
    entries = sum(map(len, before.values()))
    print("\n".join(lines) or f"All {entries} entries of {len(before)} runs are the same.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
