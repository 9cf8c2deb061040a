"""Test log-likelihoods from checkpoints: `python evaluate.py RUN/checkpoints/best.ckpt [...]`.

A checkpoint knows its model, data and protocol. Each run folder gets an `evaluation.json` and `log_px.npy`, the
per-image values in test order; all runs together are printed as a table.
"""

import json
import math
import sys
from argparse import ArgumentError
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

import models
from callbacks.replace import replacing
from datamodules import DATAMODULES, ImageData
from models.estimators import active_units, importance
from options import explain
from tables import run_folder, tables

# Of evaluation.json, in this order; what a model does not have is null
KEYS = ("model", "data", "protocol", "seed", "quantity", "nll", "nll_se", "num_samples", "num_images", "elbo", "rate",
        "distortion", "ess_median", "active_units", "active_units_per_layer", "test_error", "criterion", "loss",
        "epochs", "labels_hash", "data_root", "checkpoint")  # fmt: skip
IMAGES, ROWS = 50, 5000  # images per pass, and decoder rows: memory does not grow with K


def likelihoods(model: models.Model, x: Tensor, y: Tensor, K: int) -> dict[str, np.ndarray]:
    """Per-image `log_px` and `ess` with K importance samples, and `rate` and `distortion`, each `(N,)`."""
    chunks = []
    with tqdm(total=len(x), unit="image", desc=f"log p(x), K={K}", disable=None, leave=False) as bar:
        for start in range(0, len(x), IMAGES):
            part, labels = x[start : start + IMAGES], y[start : start + IMAGES]
            estimate = importance(model, part, K, chunk=ROWS // IMAGES, y=labels, seed=start)
            values = {"log_px": estimate.log_px, "ess": estimate.ess}
            if hasattr(model, "rate_distortion"):
                with models.evaluating(model, seed=start):
                    values["rate"], values["distortion"] = model.rate_distortion(part, min(K, 100), labels)
            chunks.append(values)
            bar.update(len(part))
    return {name: torch.cat([values[name] for values in chunks]).double().cpu().numpy() for name in chunks[0]}


def summary(values: dict[str, np.ndarray]) -> dict:
    """The numbers of `evaluation.json` from per-image values: means over images, in nats."""
    log_px = values["log_px"]
    result = {
        "num_images": len(log_px),
        "nll": -log_px.mean(),
        "nll_se": log_px.std(ddof=1) / len(log_px) ** 0.5 if len(log_px) > 1 else None,
        "ess_median": np.median(values["ess"]),
    }
    if "rate" in values:
        rate, distortion = values["rate"].mean(), values["distortion"].mean()
        result |= {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    return result


def units(model: models.Model, x: Tensor) -> dict:
    """Active units over the images `x`, in all and in each stochastic layer."""
    with models.evaluating(model):
        parts = [[mean for mean, _ in model.latent_statistics(part)] for part in x.split(500)]
    per_layer = [active_units(torch.cat(means)) for means in zip(*parts, strict=True)]
    return {"active_units": sum(per_layer), "active_units_per_layer": per_layer}


def evaluate(
    checkpoint: dict, path: Path, data: ImageData, num_samples: int, limit: int | None = None, device: str = "cpu"
) -> dict:
    """Evaluates the contents of a checkpoint on the test images of `data` and writes the results into its run folder.

    Args:
        checkpoint: As `models.read_checkpoint(path)` gives it.
        path: Where it lies: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        num_samples: K, importance samples per image.
        limit: Evaluate the likelihood on the first so many test images; none takes all.
        device: Where to compute.
    """
    model = models.from_checkpoint(checkpoint).to(device)
    x, y = data.images("test", device=device)
    folder = run_folder(path)
    about = {
        "model": checkpoint["model"],
        **checkpoint["run"],
        "data_root": data.hparams.get("root"),
        "epochs": checkpoint["epoch"] + 1,
        "checkpoint": str(path),
    }
    result = dict.fromkeys(KEYS) | about
    if hasattr(model, "log_weights"):
        values = likelihoods(model, x[:limit], y[:limit], num_samples)
        result |= summary(values) | {"num_samples": num_samples, "quantity": model.quantity}
        if hasattr(model, "latent_statistics"):
            result |= units(model, x)
        with replacing(folder / "log_px.npy") as file:
            np.save(file, values["log_px"])
    else:
        with models.evaluating(model):
            losses = [model.measure(*part)["loss"] for part in zip(x.split(500), y.split(500), strict=True)]
        result |= {
            "loss": torch.cat(losses).double().mean().item(),
            "criterion": model.hparams.criterion,
            "num_images": len(x),
        }
    result = {key: plain(value) for key, value in result.items()}
    with replacing(folder / "evaluation.json") as file:
        file.write(json.dumps(result, indent=2, allow_nan=False).encode())
    return result


def plain(value):
    """A value as JSON has it: numpy's numbers as Python's, and None for what is not finite."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_checkpoint(path: str, overrides: dict) -> tuple[dict, ImageData]:
    """The contents of a checkpoint and its data module, not set up yet, where `overrides` replace remembered options.

    Raises:
        ValueError: No checkpoint, an option that its data does not have, or another protocol than it was trained on.
    """
    checkpoint = models.read_checkpoint(path)
    models.from_checkpoint(checkpoint)  # refuses one of another version before the work begins
    if "run" not in checkpoint or checkpoint["run"]["data"] not in DATAMODULES:
        raise ValueError(f"{path} does not say what data it was trained on: train it with train.py.")
    name, protocol = checkpoint["run"]["data"], checkpoint["run"]["protocol"]
    options = checkpoint.get("datamodule_hyper_parameters", {})
    for key in overrides:
        if key not in options:
            raise ValueError(f"{name}, which {path} was trained on, has no option --data.{key}: leave it out.")
    try:
        data = DATAMODULES[name](**options | overrides)
    except TypeError as error:
        raise ValueError(f"{path} does not fit this version of {name}: {error}") from error
    if data.protocol != protocol:
        raise ValueError(
            f"{path} was trained on {protocol} images and says nothing about {data.protocol} ones: "
            f"leave --data.binarization out, or train on {data.protocol} images."
        )
    return checkpoint, data


def parser() -> ArgumentParser:
    """The options of this script."""
    options = ArgumentParser(prog="evaluate.py", description=__doc__, exit_on_error=False, allow_abbrev=False)
    options.add_argument("checkpoints", nargs="+", type=str, help="Paths of .ckpt files.")
    options.add_argument("--num_samples", type=int, default=1000, help="K, importance samples per image.")
    options.add_argument(
        "--limit", type=int | None, default=None, help="Evaluate the likelihood on the first N test images."
    )
    options.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--data.root", type=str | None, default=None, help="Where the data lies, if it has moved.")
    options.add_argument(
        "--data.binarization", type=str | None, default=None, help="Refused unless it is the checkpoint's own."
    )
    return options


def check_numbers(num_samples: int, limit: int | None, least: int = 1) -> None:
    """ValueError, in a sentence, for numbers of samples or images that mean nothing."""
    if num_samples < least:
        raise ValueError(f"--num_samples must be at least {least}; got {num_samples}.")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1; got {limit}.")


def pick_device(name: str) -> str:
    """The device called `name`; `auto` is a GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device {name} here: use --device auto or cpu.") from error
    return name


def prepare(opened: list[tuple[dict, ImageData]]) -> list[tuple[dict, ImageData]]:
    """Reads the data of all checkpoints, once for those that share it: a missing file is known before the work."""
    ready: dict[str, ImageData] = {}
    for checkpoint, data in opened:
        data = ready.setdefault(f"{type(data).__name__} {dict(data.hparams)}", data)
        data.prepare_data()
        data.setup()
        expected = tuple(checkpoint["hyper_parameters"]["image_shape"])
        if data.image_shape != expected:
            raise ValueError(f"{checkpoint['model']} takes images {expected}, and the data have {data.image_shape}.")
    return [(checkpoint, ready[f"{type(data).__name__} {dict(data.hparams)}"]) for checkpoint, data in opened]


def main(argv: list[str] | None = None) -> int:
    # before any tensor: numbers too small for a normal float make large K several times slower
    torch.set_flush_denormal(True)
    try:
        args = parser().parse_args(argv)
        check_numbers(args.num_samples, args.limit)
        device = pick_device(args.device)
        overrides = {key: value for key, value in vars(args.data).items() if value is not None}
        ready = prepare([open_checkpoint(path, overrides) for path in args.checkpoints])
    except (ValueError, OSError, ArgumentError) as error:
        known = [key for key in parser().get_defaults().keys(branches=False) if key != "checkpoints"]
        print(f"error: {explain(error, {}, known)}", file=sys.stderr)
        return 2
    results = [
        evaluate(checkpoint, Path(path), data, args.num_samples, args.limit, device)
        for path, (checkpoint, data) in zip(args.checkpoints, ready, strict=True)
    ]
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
