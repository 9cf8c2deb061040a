"""Whether the default options learn on any data: `python -m benchmarks.defaults --data.root DIR [--models VAE IWAE]`.

Each model is trained for the same number of steps on each data set, once with the defaults and once with the start of
Burda et al. (2015), Glorot weights and no warm-up of beta. Printed are the bound on validation images in nats, and the
number of active units of each layer.
"""

import argparse
import contextlib
import csv
import io
import json
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

import train

GREY = ["--data.binarization", "grey", "--model.likelihood", "gaussian", "--model.learn_scale", "true"]
STARTS = {"defaults": [], "glorot": ["--model.init", "glorot", "--model.beta_warmup", "0"]}
MODELS = {
    "VAE": [],
    "IWAE": ["--model.num_samples", "5"],
    "HierarchicalVAE": [],
    "CVAE": [],
    "M2": [],
    "AffineVAE": [],
}
NETWORKS = {"mlp": [], "conv": ["--model.encoder", "conv", "--model.decoder", "conv"]}


def textured_shapes(path: Path, n: int = 6000, size: int = 32) -> None:
    """Write colour images of discs, squares and diamonds with noise as texture, and the kind of shape as label."""
    rng = np.random.default_rng(0)
    down, right = np.mgrid[:size, :size]
    x, y = np.empty((n, size, size, 3), np.uint8), rng.integers(3, size=n)
    for image, kind in zip(x, y, strict=True):
        a, b = rng.uniform(0.3 * size, 0.7 * size, 2)
        radius = rng.uniform(0.15 * size, 0.3 * size)
        inside = [
            (right - a) ** 2 + (down - b) ** 2 < radius**2,
            np.maximum(abs(right - a), abs(down - b)) < 0.9 * radius,
            abs(right - a) + abs(down - b) < 1.2 * radius,
        ][kind]
        colour = np.where(inside[..., None], rng.uniform(size=3), rng.uniform(size=3))
        image[:] = np.clip(255 * (0.1 + 0.8 * colour + rng.normal(0, 0.08, image.shape)), 0, 255).round()
    np.savez(path, x=x, y=y)


def data_sets(root: Path, scratch: Path) -> dict[str, tuple[list[str], bool, int | None]]:
    """The options of each data set, whether it has labels for CVAE and M2, and how many of them M2 is given."""
    textured_shapes(scratch / "shapes.npz")
    with np.load(root / "omniglot28.npz") as file:  # without the test alphabets, which training images never have
        np.savez(scratch / "omniglot28.npz", x=file["x"], y=file["y"])
    return {
        "Digits": ([], True, 100),
        "MNIST": (["--data", "MNIST", "--data.root", str(root)], True, 100),
        "BinaryMNIST": (["--data", "BinaryMNIST", "--data.root", str(root)], False, None),
        "omniglot28": (["--data", "NPZ", "--data.root", str(scratch / "omniglot28.npz")], True, None),
        "freyfaces": (["--data", "NPZ", "--data.root", str(root / "freyfaces.npz"), *GREY], False, None),
        "shapes": (["--data", "NPZ", "--data.root", str(scratch / "shapes.npz"), *GREY], True, 300),
    }


def run(options: list[str], folder: Path) -> dict[str, float]:
    """Train with these options, and return the last `val/bound` and the numbers of active units, by layer."""
    quiet = ["--num_samples", "0", "--callbacks", "[latent_statistics]", "--trainer.enable_progress_bar", "false"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = train.main([*options, *quiet, "--run_dir", str(folder)])
    if status:
        return {"error": said.getvalue().splitlines()[-1]}
    found = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            found |= {key: float(value) for key, value in row.items() if key.startswith("val/") and value}
    return {key: value for key, value in found.items() if key == "val/bound" or "active_units" in key}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data", nargs="*", help="Data sets; by default all.")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--starts", nargs="*", default=list(STARTS), choices=STARTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, help="A file for one line of JSON per run; runs in it are not run again.")
    args = parser.parse_args()
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out and args.out.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        sets = data_sets(args.root, Path(scratch))
        cells = product(args.seeds, args.models, args.data or sets, args.networks, args.starts)
        for number, (seed, model, data, network, start) in enumerate(cells):
            of_data, has_labels, num_labels = sets[data]
            if model in ("CVAE", "M2") and not has_labels:
                continue
            cell = {"data": data, "model": model, "network": network, "start": start, "seed": seed, "steps": args.steps}
            if any(cell.items() <= row.items() for row in done):
                continue
            options = ["--model", model, *MODELS[model], *of_data, "--seed", str(seed)]
            options += NETWORKS[network][: 2 if model == "AffineVAE" else 4]  # its decoder draws by coordinates
            options += [] if model == "M2" else STARTS[start][: 2 if model == "IWAE" else 4]
            options += ["--data.num_labels", str(num_labels)] if model == "M2" and num_labels else []
            limit = ["--trainer.max_steps", str(args.steps), "--trainer.max_epochs", "-1", "--steps_per_call", "10"]
            row = cell | run([*options, *limit], Path(scratch, str(number)))
            print(*row.values(), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
