"""Whether a run of a sweep is finished, decided from its run folder."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from datamodules import ImageData
from evaluation.result_files import existing_result
from models import read_checkpoint
from models.checkpoints import BEST, LAST
from runtime.resume import position

# Options that do not change what a run computes, or that depend on the machine. They are not compared.
NOT_COMPARED = (
    "threads",
    "steps_per_call",
    "save_every_steps",
    "save_every_minutes",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
)


def is_finished(folder: Path, args: Namespace, config: dict[str, Any], data: ImageData) -> bool:
    """Return whether a run with these options has been trained to its end and evaluated.

    False is always safe: train.py then finds out by itself that nothing is left to do, which takes seconds.

    Args:
        folder: The run folder.
        args: All options of the run.
        config: The same options as train.py writes them to config.yaml.
        data: The data of the run, set up.
    """
    last, best = (folder / "checkpoints" / name for name in (LAST, BEST))
    if not has_options(folder / "config.yaml", config) or not is_trained(last, args):
        return False
    if args.num_samples == 0:
        return True
    path = best if args.evaluate == "best" and best.is_file() else last
    try:
        result = existing_result(path, args.num_samples, args.limit, data)
    except ValueError:  # a damaged checkpoint
        return False
    return result is not None and (result.nll is not None or result.loss is not None)


def has_options(file: Path, config: dict[str, Any]) -> bool:
    """Return whether a config.yaml holds the given options."""
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(stored, dict) and compared(stored) == compared(config)


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options that have to agree, by their full names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if name not in NOT_COMPARED and not name.startswith("wandb")}


def is_trained(last: Path, args: Namespace) -> bool:
    """Return whether the last checkpoint of a run has reached the limit of its epochs, its steps or early stopping."""
    if not last.is_file():
        return False
    try:
        checkpoint = read_checkpoint(last)
        epochs, steps, mid_epoch = position(checkpoint)
    except (ValueError, KeyError, TypeError, AttributeError):  # damaged
        return False
    max_epochs, max_steps = args.trainer.max_epochs, args.trainer.max_steps
    if max_epochs is not None and 0 <= max_epochs <= epochs and not mid_epoch:
        return True
    if max_steps is not None and 0 <= max_steps <= steps:
        return True
    stopping = [state for key, state in checkpoint.get("callbacks", {}).items() if key.startswith("EarlyStopping")]
    return args.early_stopping is not None and any(
        state.get("wait_count", 0) >= args.early_stopping for state in stopping
    )
