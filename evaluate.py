"""Test log-likelihoods and errors from checkpoints: `python evaluate.py RUN/checkpoints/best.ckpt [...]`.

A checkpoint knows its model, data and protocol. Each run folder gets an `evaluation.json` and `log_px.npy`, the
per-image values in test order, and figures of a classifier; all runs together are printed as a table, with means over
runs that differ in their seeds alone.
"""

import json
import math
import sys
from argparse import ArgumentError
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import models
from callbacks import figures
from callbacks.analogies import one_of_each
from callbacks.baselines import baselines, can_have_baselines, wants_baselines
from callbacks.confusion_matrix import confusion
from callbacks.record import save_figure
from callbacks.replace import replacing
from datamodules import DATAMODULES, ImageData
from models.estimators import active_units, importance
from options import build_evaluation_parser, check_numbers, explain
from tables import means, run_folder, tables

# Of evaluation.json, in this order; what a model does not have is null
KEYS = ("model", "data", "protocol", "seed", "quantity", "nll", "nll_se", "num_samples", "num_images", "elbo", "rate",
        "distortion", "ess_median", "active_units", "active_units_per_layer", "test_error", "test_error_images",
        "confusion", "baselines", "criterion", "loss", "epochs", "labels_hash", "data_root", "checkpoint")  # fmt: skip
IMAGES, ROWS = 50, 5000  # images per pass, and decoder rows: memory does not grow with K


def likelihoods(model: models.Model, x: Tensor, y: Tensor, K: int) -> dict[str, np.ndarray]:
    """Per-image `log_px` and `ess` with K importance samples, and `rate` and `distortion`, each `(N,)`."""
    chunks, chunk = [], max(1, ROWS // IMAGES // model.rows_per_sample)
    with tqdm(total=len(x), unit="image", desc=f"log p(x), K={K}", disable=None, leave=False) as bar:
        for start in range(0, len(x), IMAGES):
            part, labels = x[start : start + IMAGES], model.given(y[start : start + IMAGES])
            estimate = importance(model, part, K, chunk, *labels, seed=start)
            values = {"log_px": estimate.log_px, "ess": estimate.ess}
            if hasattr(model, "rate_distortion"):
                with models.evaluating(model, seed=start):
                    values["rate"], values["distortion"] = model.rate_distortion(part, min(K, chunk), *labels)
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
        # not the mean log weight: M2 sums the labels out of its weights, which is a bound of another kind
        result |= {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    return result


def units(model: models.Model, x: Tensor, y: Tensor) -> dict:
    """Active units over the images `x`, in all and in each stochastic layer."""
    parts = zip(x.split(500), y.split(500), strict=True)
    with models.evaluating(model):
        parts = [[mean for mean, _ in model.latent_statistics(part, *model.given(labels))] for part, labels in parts]
    per_layer = [active_units(torch.cat(means)) for means in zip(*parts, strict=True)]
    return {"active_units": sum(per_layer), "active_units_per_layer": per_layer}


def classification(model: models.Model, x: Tensor, y: Tensor, folder: Path) -> dict:
    """Error and confusion matrix of all test images whose label is known; draws it, and analogies, into `folder`."""
    with models.evaluating(model):
        counts = confusion(model, x, y)
        if hasattr(model, "analogies"):
            originals = x[one_of_each(y, 10)]
            save_figure(figures.analogies(originals, model.analogies(originals)), folder / "analogies_test.png")
    if not counts.sum():
        return {}
    save_figure(figures.confusion_matrix(counts, "test"), folder / "confusion_matrix_test.png")
    right, images = counts.trace().item(), counts.sum().item()
    return {"test_error": (images - right) / images, "confusion": counts.tolist()}


def evaluate(
    checkpoint: dict,
    path: Path,
    data: ImageData,
    num_samples: int,
    limit: int | None = None,
    device: str = "cpu",
    with_baselines: bool | None = None,
) -> dict:
    """Evaluates the contents of a checkpoint on the test images of `data` and writes the results into its run folder.

    Args:
        checkpoint: As `models.read_checkpoint(path)` gives it.
        path: Where it lies: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        num_samples: K, importance samples per image.
        limit: Evaluate the likelihood on the first so many test images; none takes all, or the model's default.
        device: Where to compute.
        with_baselines: Fit classifiers of scikit-learn too; by default beside a classifier that was given few labels.
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
        limit = limit or model.default_limit
        values = likelihoods(model, x[:limit], y[:limit], num_samples)
        result |= summary(values) | {"num_samples": num_samples, "quantity": model.quantity}
        if hasattr(model, "latent_statistics"):
            result |= units(model, x, y)
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
    if hasattr(model, "classify"):
        result |= classification(model, x, y, folder / "figures")
    if wants_baselines(type(model), data.train.y, with_baselines):
        result["baselines"] = baselines(model, data.images("train", device=device), (x, y))
    if result["test_error"] is not None or result["baselines"]:
        result["test_error_images"] = int((y >= 0).sum())
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
        options = checkpoint["hyper_parameters"]
        expected = tuple(options["image_shape"])
        if data.image_shape != expected:
            raise ValueError(f"{checkpoint['model']} takes images {expected}, and the data have {data.image_shape}.")
        if (classes := options.get("num_classes", data.num_classes)) != data.num_classes:
            raise ValueError(f"{checkpoint['model']} knows {classes} classes, and the data have {data.num_classes}.")
    return [(checkpoint, ready[f"{type(data).__name__} {dict(data.hparams)}"]) for checkpoint, data in opened]


def main(argv: list[str] | None = None) -> int:
    # before any tensor: numbers too small for a normal float make large K several times slower
    torch.set_flush_denormal(True)
    try:
        args = build_evaluation_parser().parse_args(argv)
        check_numbers(args.num_samples, args.limit)
        device = pick_device(args.device)
        overrides = {key: value for key, value in vars(args.data).items() if value is not None}
        opened = [open_checkpoint(path, overrides) for path in args.checkpoints]
        if args.baselines and not any(
            can_have_baselines(models.MODELS[checkpoint["model"]]) for checkpoint, _ in opened
        ):
            raise ValueError("--baselines needs the checkpoint of a VAE, an M2 or an M1M2: leave it out.")
        ready = prepare(opened)
    except (ValueError, OSError, ArgumentError) as error:
        known = [key for key in build_evaluation_parser().get_defaults().keys(branches=False) if key != "checkpoints"]
        print(f"error: {explain(error, {}, known)}", file=sys.stderr)
        return 2
    results = [
        evaluate(checkpoint, Path(path), data, args.num_samples, args.limit, device, args.baselines)
        for path, (checkpoint, data) in zip(args.checkpoints, ready, strict=True)
    ]
    print(tables(results))
    if over_seeds := means(results, [checkpoint for checkpoint, _ in ready]):
        print(over_seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
