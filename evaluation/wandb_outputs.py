"""What train.py adds to the W&B run at its end: the checkpoint, the identity of the data, and tables of test images."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import models
from datamodules import ImageData
from evaluation.cache import cache_key, cache_path, load_if_current, weights_hash
from evaluation.evaluate import likelihood_options
from evaluation.schema import Evaluation
from models.checkpoints import BEST
from runtime.checkpoint_io import link_or_copy

MAX_ROWS = 10_000  # rows of a table that W&B shows
RECONSTRUCTED_IMAGES = 16
# Fields of an evaluation that are added to the metadata of the model artifact
RESULT_KEYS = ("num_samples", "num_images", "nll", "nll_se", "loss", "criterion", "test_error")


class RunOutputs(NamedTuple):
    """What a finished run has produced. Nothing is read before W&B asks for it.

    Args:
        best: Path of the best checkpoint, or of the last one of a run without validation.
        evaluated: Path of the checkpoint that has been evaluated.
        folder: The run folder, with `config.yaml`.
        data: The data module, set up.
        result: The evaluation, if there is one.
        limit: The option --limit of the evaluation.
        device: The device that computes reconstructions.
    """

    best: Path
    evaluated: Path
    folder: Path
    data: ImageData
    result: Evaluation | None
    limit: int | None
    device: str

    def writers(self) -> list[Callable[[Any], None]]:
        """Return functions that each add one output to a W&B run, the most important one first."""
        tables = [self.log_per_image_values, self.log_reconstructions] if self.result is not None else []
        return [self.log_model, *tables, self.use_data]

    def log_model(self, run) -> None:
        """Log the checkpoint and `config.yaml` as the model artifact of the run, with the aliases best and latest.

        W&B adds no new version if the contents equal those of the latest version, for example if a finished run is
        started again.
        """
        import wandb

        # Hard links keep the contents for `wandb sync`, without using space, when a later start replaces the files.
        links = Path(run.settings.sync_dir, "model")
        links.mkdir(parents=True, exist_ok=True)
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=self.metadata())
        for file in (self.best, self.folder / "config.yaml"):
            link_or_copy(file, links / file.name)
            artifact.add_file(str(links / file.name), policy="immutable", skip_cache=True)
        aliases = ["best", "latest"] if self.best.name == BEST else ["latest"]
        run.log_artifact(artifact, aliases=aliases)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the model artifact: the checkpoint, its data, and its results if it was evaluated."""
        checkpoint = models.read_checkpoint(self.best)
        result = self.result.to_dict() if self.result is not None and self.evaluated == self.best else {}
        return {
            "model": checkpoint["model"],
            "epochs": checkpoint["epoch"] + 1,
            "step": checkpoint["global_step"],
            "weights_hash": weights_hash(checkpoint),
            **self.data_identity(),
            **{key: result[key] for key in RESULT_KEYS if result.get(key) is not None},
        }

    def data_identity(self) -> dict[str, Any]:
        """Return what identifies the data of the run: data set, protocol, hashes of the images and the known labels."""
        data = self.data
        return {
            "data": type(data).__name__,
            "protocol": data.protocol,
            "images_hash": data.images_hash,
            "labels_hash": data.labels_hash,
        }

    def use_data(self, run) -> None:
        """Declare that the run uses its data: a dataset artifact that holds their identity and no images.

        Its contents are the same for all runs on the same data, so that W&B shows these runs at one artifact.
        """
        import wandb

        data = self.data
        sizes = {split: len(getattr(data, split).y) for split in ("train", "val", "test")}
        content = self.data_identity() | {"image_shape": list(data.image_shape), "images": sizes}
        artifact = wandb.Artifact(f"data-{type(data).__name__}", type="dataset", metadata=content)
        file = Path(run.settings.sync_dir, "data", "data.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2, sort_keys=True))
        artifact.add_file(str(file), policy="immutable", skip_cache=True)
        # run.use_artifact does the same, but refuses offline runs, and waits for the server without a limit.
        run._log_artifact(artifact, aliases=["latest"], is_user_created=True, use_after_commit=True)

    def log_per_image_values(self, run) -> None:
        """Log a table of test images: index, label, log p(x) and the other values that the evaluation has cached."""
        import wandb

        model = models.load(self.evaluated)
        if not model.can("log_weights"):
            return
        x, y = (part[: self.limit or model.default_limit] for part in self.data.images("test"))
        values = self.cached_likelihoods(model, x, y)
        if values is None:
            return
        columns = {"image": list(range(len(x))), **self.label_column(y)}
        for name, array in values.items():
            columns |= number_columns(name, array)
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        run.log({"test/per_image": wandb.Table(columns=list(columns), data=rows[:MAX_ROWS])})

    def cached_likelihoods(self, model: models.Model, x: Tensor, y: Tensor) -> dict[str, np.ndarray] | None:
        """Return the per-image values of the evaluation, log p(x) first; None if they could not be cached."""
        assert self.result is not None
        assert self.result.num_samples is not None
        options = likelihood_options(model, x, y, self.result.num_samples, "fp32")
        file = cache_path(self.evaluated, "likelihoods", options)
        values = load_if_current(file, cache_key(models.read_checkpoint(self.evaluated), options))
        return None if values is None else {"log_px": values.pop("log_px"), **values}

    def log_reconstructions(self, run) -> None:
        """Log a table of the first test images and their reconstructions, if the model can reconstruct."""
        import wandb

        model = models.load(self.evaluated)
        if not model.can("reconstruct"):
            return
        model.to(self.device)
        x, y = self.data.images("test", RECONSTRUCTED_IMAGES, self.device)
        with models.evaluating(model):
            reconstructed = model.reconstruct(x, *model.condition_args(y))
        columns = {
            "image": list(range(len(x))),
            **self.label_column(y),
            "test image": [wandb.Image(pixels(image)) for image in x],
            "reconstruction": [wandb.Image(pixels(image)) for image in reconstructed],
        }
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        run.log({"test/reconstructions": wandb.Table(columns=list(columns), data=rows)})

    def label_column(self, y: Tensor) -> dict[str, list]:
        """Return the column `label`: names of the classes, None where unknown. No column if all are unknown."""
        if not (y >= 0).any():
            return {}
        names = self.data.class_names
        return {"label": [None if label < 0 else names[label] if names else str(label) for label in y.tolist()]}


def number_columns(name: str, values: np.ndarray) -> dict[str, list[float | None]]:
    """Return the column of per-image values `(n,)`; of values per layer `(n, L)` the columns `name_1` ... `name_L`."""
    parts = {name: values} if values.ndim == 1 else {f"{name}_{i + 1}": part for i, part in enumerate(values.T)}
    return {key: [number_or_none(value) for value in part.tolist()] for key, part in parts.items()}


def number_or_none(value: float) -> float | None:
    """Return a number, or None if it is not finite."""
    return value if math.isfinite(value) else None


def pixels(image: Tensor) -> np.ndarray:
    """Return an image `(C, H, W)` in [0, 1] as uint8 `(H, W)` or `(H, W, C)`."""
    values = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return values[:, :, 0] if values.shape[2] == 1 else values
