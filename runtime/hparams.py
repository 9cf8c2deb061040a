"""The options that a checkpoint remembers: those of its model, of its M1, of its data and of its training."""

import inspect
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Trainer

from datamodules import DATAMODULES
from models import MODELS, VAE, Model

# Of training, as they are by default
TRAINING = {"steps_per_call": 1, "early_stopping": None, "trainer.accumulate_grad_batches": 1,
            "trainer.gradient_clip_val": None, "trainer.precision": "32-true"}  # fmt: skip
# Shown even at their default, which is not the papers'
ALWAYS_SHOWN = ("alpha",)
# Options that are newer than some checkpoints, and what those had
OLDER_DEFAULTS = {"init": "glorot", "beta_warmup": 0}
PATH_OPTIONS = ("root", "m1", "m1_options", "kept")  # where things lie, and what an M1 has brought along


def defaults(kind: type) -> dict:
    """The defaults of all options of a model or data module, its own before those of the classes above."""
    found = {}
    for part in kind.__mro__:
        if part is not object and "__init__" in vars(part):
            options = inspect.signature(part.__init__).parameters.values()
            found = {o.name: o.default for o in options if o.default is not inspect.Parameter.empty} | found
        if part.__module__.startswith("pytorch_lightning"):
            break
    return found


def fill_options(kind: type, given: dict) -> dict:
    """All options of a model or data module in a checkpoint that names `given`, which may be older than an option."""
    usual = defaults(kind)
    return usual | {name: value for name, value in OLDER_DEFAULTS.items() if name in usual} | given


def run_options(checkpoint: dict) -> dict[str, Any]:
    """All options of a run, those of its M1 as `m1.name` and of its data as `data.name`.

    Left out are what the data say, where things lie, and the training of an M1. What the checkpoint does not say counts
    as the default, or as what all had before there was such an option.
    """
    return collect(checkpoint, fill_options)


def collect(checkpoint: dict, fill: Callable[[type, dict], dict]) -> dict[str, Any]:
    """The options of a run, where `fill` adds to those in the checkpoint the ones that it does not say."""
    model, data = MODELS[checkpoint["model"]], DATAMODULES[checkpoint["run"]["data"]]
    of_model, of_data = checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})
    parts = [("", model, of_model), ("data.", data, of_data)]
    if "m1_options" in of_model:
        parts.append(("m1.", VAE, of_model["m1_options"]))
    found = {
        f"{part}{name}": list(value) if isinstance(value, tuple) else value
        for part, kind, given in parts
        for name, value in fill(kind, given).items()
        if name not in (*PATH_OPTIONS, *(kind.data_args if issubclass(kind, Model) else ()))
    }
    return found | TRAINING | checkpoint.get("training", {})


def non_default_options(checkpoint: dict) -> dict[str, Any]:
    """Of the options of a run those that are not as they are by default, and those that are always shown."""
    none = {"m1_options": {}} if "m1_options" in checkpoint["hyper_parameters"] else {}
    bare = checkpoint | {"hyper_parameters": none, "datamodule_hyper_parameters": {}, "training": {}}
    usual = collect(bare, lambda kind, given: defaults(kind) | given)
    all_options = run_options(checkpoint).items()
    return {name: value for name, value in all_options if value != usual.get(name) or name in ALWAYS_SHOWN}


def training_options(trainer: Trainer, data: Any) -> dict[str, Any]:
    """The options of training that make another run of it, or that count its batches otherwise, by their names."""
    names = ("accumulate_grad_batches", "gradient_clip_val", "precision")
    stopping = trainer.early_stopping_callback
    options = {"steps_per_call": data.steps_per_call, "early_stopping": stopping and stopping.patience}
    return options | {f"trainer.{name}": getattr(trainer, name) for name in names}
