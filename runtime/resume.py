"""Check whether a run may be resumed from a checkpoint with the given options."""

import json
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer

from datamodules import ImageData
from datamodules.labels import list_names
from models import MODELS, Model, from_checkpoint, read_checkpoint
from runtime.hparams import fill_options, stored_training_options, training_options

# Options that define batch boundaries; they may not change in the middle of an epoch
BATCH_OPTIONS = (
    "protocol",
    "seed",
    "labels_hash",
    "processes",
    "images_hash",
    "class_names",
    "--trainer.accumulate_grad_batches",
)
OPTION_DESCRIPTIONS = {"processes": "number of processes", "labels_hash": "choice of labels"}


def changed_options(
    checkpoint: dict, args: Namespace, data: ImageData, model: Model, trainer: Trainer
) -> dict[str, tuple]:
    """Return the options in which a checkpoint differs from this run, as `{name: (checkpoint's, this run's)}`."""
    then = {"model": checkpoint["model"], "processes": trainer.world_size, **checkpoint.get("run", {})}
    now = {"model": args.model.name, "data": args.data.name, "protocol": data.protocol, "seed": args.seed}
    now |= {"labels_hash": data.labels_hash, "processes": trainer.world_size}
    if data.reads_user_files:  # files of the user may have changed; an older checkpoint holds no hash
        stored, current = checkpoint.get(args.data.name, {}), data.state_dict()
        then |= {key: stored[key] for key in ("images_hash", "class_names") if key in stored}
        now |= {key: current.get(key) for key in ("images_hash", "class_names")}
    if checkpoint.get("training"):
        then |= {f"--{key}": value for key, value in stored_training_options(checkpoint).items()}
    now |= {f"--{key}": value for key, value in training_options(trainer).items()}
    for section, built, old, new in (
        ("model", model, checkpoint["hyper_parameters"], model.hparams),
        ("data", data, checkpoint.get("datamodule_hyper_parameters", {}), data.hparams),
    ):
        # An option may be newer than the checkpoint. How a run began makes no difference to one that goes on.
        old = fill_options(type(built), {key: new[key] for key in ("init",) if key in new} | old)
        then |= {f"--{section}.{key}": value for key, value in old.items() if key not in ("root", "cache")}
        now |= {f"--{section}.{key}": value for key, value in new.items()}
    # compared as JSON, in which lists and tuples are equal
    return {key: (old, now.get(key)) for key, old in then.items() if json.dumps(old) != json.dumps(now.get(key))}


def options_from_before(resume: Path, name: str, given: Container[str]) -> dict[str, Any]:
    """Return the options of `older_defaults` that a checkpoint lacks, with their values from before they existed.

    Args:
        resume: The checkpoint.
        name: Name of the model.
        given: Names of the options that the user gives, which are left out.
    """
    checkpoint = read_checkpoint(resume)
    if checkpoint.get("model") != name:
        return {}
    known = {*checkpoint.get("hyper_parameters", {})}
    return {key: value for key, value in MODELS[name].older_defaults.items() if key not in known and key not in given}


def weights_match(checkpoint: dict, model: Model) -> bool:
    """Return whether the weights of a checkpoint have the names and shapes of this model's."""
    old, new = checkpoint["state_dict"], model.state_dict()
    return old.keys() == new.keys() and all(old[key].shape == value.shape for key, value in new.items())


def is_mid_epoch(checkpoint: dict) -> bool:
    """Return whether the checkpoint was written before the end of its epoch."""
    return not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]


def position(checkpoint: dict) -> tuple[int, int, bool]:
    """Return the number of started epochs, of optimizer steps, and whether the checkpoint is in the middle of an epoch.

    Raises:
        KeyError, TypeError, AttributeError: The checkpoint's record of epochs and steps is damaged.
    """
    mid_epoch = is_mid_epoch(checkpoint)
    finished = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return finished + mid_epoch, checkpoint["global_step"] + 0, mid_epoch  # + 0 raises TypeError if it is no number


def check_limits(resume: Path, epochs: int, steps: int, trainer: Trainer) -> None:
    """Raise ValueError if a checkpoint exceeds the limits of this run, before anything is written.

    Args:
        resume: The checkpoint's path.
        epochs: Number of epochs that it has started.
        steps: Number of optimizer steps that it has taken.
        trainer: The Trainer with the limits.
    """
    for name, limit, done in (("max_epochs", trainer.max_epochs, epochs), ("max_steps", trainer.max_steps, steps)):
        if limit is not None and 0 <= limit < done:
            unit = "epoch" if name == "max_epochs" else "step"
            raise ValueError(
                f"{resume} cannot be resumed with --trainer.{name} {limit}: it is in {unit} {done} already. "
                f"Give {done} or more, or evaluate it with evaluate.py."
            )


def difference(key: str, then: Any, now: Any) -> str:
    """Return what differs between a checkpoint and this run, for messages.

    Args:
        key: An option, or what else is compared.
        then: Its value in the checkpoint.
        now: Its value in this run.
    """
    if key == "images_hash":
        return f"the images have changed since (hash {then}, now {now})"
    if key == "class_names":
        return f"the classes have changed since ({list_names(then)}; now {list_names(now or ['none'])})"
    return f"its {OPTION_DESCRIPTIONS.get(key, key)} is {then}, not {now}"


def check_resumed(resume: Path, args: Namespace, data: ImageData, model: Model, trainer: Trainer) -> None:
    """Compare a checkpoint with the options of this run; print the differences if --allow_changes permits them.

    Raises:
        ValueError: Options differ without --allow_changes, or in a way that it cannot permit.
    """
    checkpoint = read_checkpoint(resume)
    from_checkpoint(checkpoint)  # raises if options and weights do not match
    if "current_model_state" in checkpoint:  # weights of a run with --ema, whose average is in state_dict
        from_checkpoint(checkpoint | {"state_dict": checkpoint["current_model_state"]})
    if "fit_loop" not in checkpoint.get("loops", {}) or "optimizer_states" not in checkpoint:
        raise ValueError(f"{resume} cannot be resumed: it holds no training state.")
    try:
        epochs, steps, mid_epoch = position(checkpoint)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{resume} cannot be resumed: its record of epochs and steps is damaged.") from error
    check_limits(resume, epochs, steps, trainer)
    changes = changed_options(checkpoint, args, data, model, trainer)
    if not changes:
        return
    differences = "; ".join(difference(key, then, now) for key, (then, now) in changes.items())
    if {"model", "data"} & changes.keys() or not weights_match(checkpoint, model):
        raise ValueError(f"{resume} cannot be resumed: {differences}. Its weights are those of another model.")
    changes_batches = any(key in BATCH_OPTIONS or key.startswith("--data.") for key in changes)
    if changes_batches and mid_epoch:
        raise ValueError(
            f"{resume} cannot be resumed: {differences}. It was written in the middle of an epoch, whose batches would "
            "change: choose a checkpoint from the end of an epoch, such as best.ckpt."
        )
    if not args.allow_changes:
        same = "options and images" if {"images_hash", "class_names"} & changes.keys() else "options"
        raise ValueError(f"{resume} cannot be resumed: {differences}. Give the same {same}, or add --allow_changes.")
    if trainer.is_global_zero:
        print(f"warning: {resume} is of another run: {differences}.", file=sys.stderr)
