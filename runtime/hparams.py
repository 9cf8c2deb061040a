"""Options stored in a checkpoint: of the model, of the model that it builds on, of the data and the training."""

import inspect
from collections.abc import Callable
from typing import Any

from pytorch_lightning.callbacks import WeightAveraging

from datamodules import DATAMODULES
from models import AE, MODELS, VAE, Model

# Prior and posterior of models and papers that do not name them; tables name others only
DEFAULT_PARTS = {"prior": "standard", "posterior": "diagonal"}

# Default options of training that are stored in checkpoints
TRAINING_DEFAULTS = {
    "early_stopping": None,
    "ema": None,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "trainer.precision": "32-true",
}
# Always shown, because the default differs from the papers'
ALWAYS_SHOWN = ("alpha",)
# Values of options that did not exist yet when older checkpoints were written
OLDER_DEFAULTS = {"init": "glorot", "beta_warmup": 0}
# Paths, and what comes from the checkpoint of the model that this one builds on
PATH_OPTIONS = ("root", "cache", "m1", "m1_options", "kept", "ae", "ae_options")
PARTS: dict[str, type[Model]] = {
    "m1": VAE,
    "ae": AE,
}  # models within others, whose options are stored as <name>_options


def defaults(kind: type) -> dict[str, Any]:
    """Return the default options of a model or data module class; a subclass overrides its base classes."""
    values: dict[str, Any] = {}
    for part in kind.__mro__:
        if part is not object and "__init__" in vars(part):
            options = inspect.signature(vars(part)["__init__"]).parameters.values()
            values = {o.name: o.default for o in options if o.default is not inspect.Parameter.empty} | values
        if part.__module__.startswith("pytorch_lightning"):
            break
    return values


def fill_options(kind: type, stored: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a model or data module class, given those stored in a checkpoint.

    An option that did not exist when the checkpoint was written has the value that all runs had then.
    """
    default = defaults(kind)
    older = OLDER_DEFAULTS | getattr(kind, "older_defaults", {})
    return default | {name: value for name, value in older.items() if name in default} | stored


def run_options(checkpoint: dict) -> dict[str, Any]:
    """Return all options of a run; those of its M1 or autoencoder have keys `m1.<name>` or `ae.<name>`, those of its
    data `data.<name>`.

    Without paths, arguments that the data define, and the training options of such a part. Options that the checkpoint
    does not store have their default or, if they are newer than the checkpoint, the value from before they existed.
    """
    return collect_options(checkpoint, fill_options)


def collect_options(checkpoint: dict, fill: Callable[[type, dict], dict]) -> dict[str, Any]:
    """Return the options of a run; `fill(class, stored)` adds those that the checkpoint does not store."""
    model, data = MODELS[checkpoint["model"]], DATAMODULES[checkpoint["run"]["data"]]
    model_options = checkpoint["hyper_parameters"]
    data_options = checkpoint.get("datamodule_hyper_parameters", {})
    parts = [("", model, model_options), ("data.", data, data_options)]
    for part, kind in PARTS.items():
        if model_options.get(f"{part}_options") is not None:
            parts.append((f"{part}.", kind, model_options[f"{part}_options"]))
    options = {
        f"{prefix}{name}": list(value) if isinstance(value, tuple) else value
        for prefix, kind, stored in parts
        for name, value in fill(kind, stored).items()
        if name not in (*PATH_OPTIONS, *(kind.data_args if issubclass(kind, Model) else ()))
    }
    return options | stored_training_options(checkpoint)


def stored_training_options(checkpoint: dict) -> dict[str, Any]:
    """Return the training options of a checkpoint; older ones also store some that do not change results."""
    stored = checkpoint.get("training", {})
    return {name: stored.get(name, default) for name, default in TRAINING_DEFAULTS.items()}


def non_default_options(checkpoint: dict) -> dict[str, Any]:
    """Return the options of a run that differ from their defaults, and those that are always shown."""
    stored = checkpoint["hyper_parameters"]
    no_options: dict[str, Any] = {f"{part}_options": {} for part in PARTS if stored.get(f"{part}_options") is not None}
    bare = checkpoint | {"hyper_parameters": no_options, "datamodule_hyper_parameters": {}, "training": {}}
    default = collect_options(bare, lambda kind, stored: defaults(kind) | stored)
    all_options = run_options(checkpoint).items()
    return {name: value for name, value in all_options if value != default.get(name) or name in ALWAYS_SHOWN}


def training_options(trainer: Any) -> dict[str, Any]:
    """Return the training options of a Trainer that change the result of a run."""
    names = ("accumulate_grad_batches", "gradient_clip_val", "precision")
    stopping = trainer.early_stopping_callback
    averages: list[Any] = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
    options = {"early_stopping": stopping and stopping.patience, "ema": averages[0].decay if averages else None}
    return options | {f"trainer.{name}": getattr(trainer, name) for name in names}
