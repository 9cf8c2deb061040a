"""Compare the default options with those of Burda et al. (2015) on several data sets.

    python -m benchmarks.defaults --data.root DIR [--models VAE IWAE]

Each model is trained for the same number of steps on each data set, with the default initialisation and with that of
Burda et al. (2015): Glorot weights and no warm-up of beta. Prints one line per run: data set, model, network, start,
seed, number of steps, the highest validation bound, which is that of best.ckpt, the last one (nats per image), and the
number of active units of each layer at the end. Single validations of a Gaussian likelihood with a learned scale can be
far below those before and after.
"""

import argparse
import contextlib
import csv
import io
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

import train

GREY = ["--data.binarization", "grey", "--model.likelihood", "gaussian", "--model.learn_scale", "true"]
STARTS = ("defaults", "glorot")
MODELS = {
    "VAE": [],
    "IWAE": ["--model.num_samples", "5"],
    "HierarchicalVAE": [],
    "CVAE": [],
    "M2": [],
    "AffineVAE": [],
}
NETWORKS = ("mlp", "conv", "resnet")
NEEDS_LABELS = ("CVAE", "M2")
NO_BETA_WARMUP = ("IWAE",)  # models without --model.beta_warmup
NO_INIT = ("M2",)  # models without --model.init and --model.beta_warmup: all starts are the same
SAME_STARTS = (("AffineVAE", "conv"),)  # no warm-up and a wide posterior by default, and --model.init is not for conv
NO_CONV_DECODER = ("AffineVAE",)  # its decoder is a network of pixel coordinates


class DataSet(NamedTuple):
    """A data set, and what the models that need labels get from it.

    Args:
        options: Options of train.py.
        has_labels: Whether CVAE and M2 can be trained on it.
        num_labels: Number of labels given to M2; None for all.
    """

    options: list[str]
    has_labels: bool
    num_labels: int | None = None


def textured_shapes(path: Path, n: int = 6000, size: int = 32) -> None:
    """Write colour images of discs, squares and diamonds with noise as texture; the label is the shape.

    Args:
        path: The .npz file to write.
        n: Number of images.
        size: Height and width.
    """
    rng = np.random.default_rng(0)
    down, right = np.mgrid[:size, :size]
    x, y = np.empty((n, size, size, 3), np.uint8), rng.integers(3, size=n)
    for image, shape in zip(x, y, strict=True):
        a, b = rng.uniform(0.3 * size, 0.7 * size, 2)
        radius = rng.uniform(0.15 * size, 0.3 * size)
        inside = [
            (right - a) ** 2 + (down - b) ** 2 < radius**2,
            np.maximum(abs(right - a), abs(down - b)) < 0.9 * radius,
            abs(right - a) + abs(down - b) < 1.2 * radius,
        ][shape]
        colour = np.where(inside[..., None], rng.uniform(size=3), rng.uniform(size=3))
        image[:] = np.clip(255 * (0.1 + 0.8 * colour + rng.normal(0, 0.08, image.shape)), 0, 255).round()
    np.savez(path, x=x, y=y)


def data_sets(root: Path, scratch: Path) -> dict[str, DataSet]:
    """Return the data sets by name.

    Args:
        root: Folder of MNIST, BinaryMNIST, omniglot28.npz and freyfaces.npz.
        scratch: Folder for data sets that are made here.
    """
    textured_shapes(scratch / "shapes.npz")
    with np.load(root / "omniglot28.npz") as file:  # without the test split: its classes have no training images
        np.savez(scratch / "omniglot28.npz", x=file["x"], y=file["y"])
    return {
        "Digits": DataSet(["--data", "Digits"], True, 100),
        "MNIST": DataSet(["--data", "MNIST", "--data.root", str(root)], True, 100),
        "BinaryMNIST": DataSet(["--data", "BinaryMNIST", "--data.root", str(root)], False),
        "omniglot28": DataSet(["--data", "NPZ", "--data.root", str(scratch / "omniglot28.npz")], True),
        "freyfaces": DataSet(["--data", "NPZ", "--data.root", str(root / "freyfaces.npz"), *GREY], False),
        "shapes": DataSet(["--data", "NPZ", "--data.root", str(scratch / "shapes.npz"), *GREY], True, 300),
    }


def start_options(model: str, start: str) -> list[str]:
    """Return the options of a start for this model."""
    if start == "defaults":
        return []
    options = ["--model.init", "glorot"]
    if model not in NO_BETA_WARMUP:
        options += ["--model.beta_warmup", "0"]
    return options


def network_options(model: str, network: str) -> list[str]:
    """Return the options of a network for this model."""
    if network == "mlp":
        return []
    options = ["--model.encoder", network]
    if model not in NO_CONV_DECODER:
        options += ["--model.decoder", network]
    return options


def command(model: str, data: DataSet, network: str, start: str, seed: int, steps: int) -> list[str]:
    """Return the options of train.py for one run."""
    options = ["--model", model, *MODELS[model], *data.options, "--seed", str(seed)]
    options += [*network_options(model, network), *start_options(model, start)]
    if model == "M2" and data.num_labels:
        options += ["--data.num_labels", str(data.num_labels)]
    return [*options, "--trainer.max_steps", str(steps), "--trainer.max_epochs", "-1", "--steps_per_call", "10"]


def is_redundant(model: str, data: DataSet, network: str, start: str) -> bool:
    """Return whether a model cannot be trained on this data set, or starts as with another start."""
    if model in NEEDS_LABELS and not data.has_labels:
        return True
    return start != "defaults" and (model in NO_INIT or (model, network) in SAME_STARTS)


def run(options: list[str], folder: Path) -> dict[str, float | str]:
    """Train with these options and return the highest bound, the last bound and the numbers of active units.

    If training fails, return the last line of its output as `error`.

    Raises:
        SystemExit: After a signal, which ends the benchmark and not only this run.
    """
    quiet = ["--num_samples", "0", "--callbacks", "[latent_statistics]", "--trainer.enable_progress_bar", "false"]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = train.main([*options, *quiet, "--run_dir", str(folder)])
    if status >= 128:
        raise SystemExit(status)
    if status:
        return {"error": output.getvalue().splitlines()[-1]}
    last, bounds = {}, []
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            last |= {key: float(value) for key, value in row.items() if "active_units" in key and value}
            bounds += [float(row["val/bound"])] if row.get("val/bound") else []
    return {"val/bound": max(bounds), "last_val/bound": bounds[-1]} | last if bounds else {"error": "no validation"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--data", nargs="*", help="data sets; all by default")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--starts", nargs="*", default=list(STARTS), choices=STARTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of each run")
    parser.add_argument("--out", type=Path, help="append one line of JSON per run, and skip the runs already in it")
    args = parser.parse_args()
    done = []
    if args.out and args.out.exists():
        done = [json.loads(line) for line in args.out.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        sets = data_sets(args.root, Path(scratch))
        runs = product(args.seeds, args.models, args.data or sets, args.networks, args.starts)
        for number, (seed, model, data, network, start) in enumerate(runs):
            if is_redundant(model, sets[data], network, start):
                continue
            key = {"data": data, "model": model, "network": network, "start": start, "seed": seed, "steps": args.steps}
            if any(key.items() <= row.items() for row in done):
                continue
            options = command(model, sets[data], network, start, seed, args.steps)
            row = key | run(options, Path(scratch, str(number)))
            print(*row.values(), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
