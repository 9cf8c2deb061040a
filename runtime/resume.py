"""What a run that is started again finds: a checkpoint that it may go on from or not, and perhaps its result."""

import json
import sys
from pathlib import Path

from jsonargparse import Namespace
from pytorch_lightning import Trainer

from datamodules import ImageData
from models import Model, from_checkpoint, read_checkpoint
from runtime.hparams import TRAINING_DEFAULTS, defaults, training_options

# What the place of a checkpoint within an epoch counts in
BATCH_OPTIONS = ("protocol", "seed", "labels_hash", "processes", "--trainer.accumulate_grad_batches",
                   "--steps_per_call")  # fmt: skip
OPTION_DESCRIPTIONS = {"processes": "number of processes", "labels_hash": "choice of labels"}


def changed_options(
    checkpoint: dict, args: Namespace, data: ImageData, model: Model, trainer: Trainer
) -> dict[str, tuple]:
    """What a checkpoint remembers otherwise than these options have it: `{name: (then, now)}`."""
    then = {"model": checkpoint["model"], "processes": trainer.world_size, **checkpoint.get("run", {})}
    now = {"model": args.model.name, "data": args.data.name, "protocol": data.protocol, "seed": args.seed}
    now |= {"labels_hash": data.labels_hash, "processes": trainer.world_size}
    if options := checkpoint.get("training"):
        # the checkpoint may be older than an option
        then |= {f"--{key}": value for key, value in (TRAINING_DEFAULTS | options).items()}
    now |= {f"--{key}": value for key, value in training_options(trainer, data).items()}
    for section, built, old, new in (
        ("model", model, checkpoint["hyper_parameters"], model.hparams),
        ("data", data, checkpoint.get("datamodule_hyper_parameters", {}), data.hparams),
    ):
        old = defaults(type(built)) | old  # an option may be newer than the checkpoint
        then |= {f"--{section}.{key}": value for key, value in old.items() if key != "root"}
        now |= {f"--{section}.{key}": value for key, value in new.items()}
    # as text, lists and tuples are the same
    return {key: (old, now.get(key)) for key, old in then.items() if json.dumps(old) != json.dumps(now.get(key))}


def weights_match(checkpoint: dict, model: Model) -> bool:
    """Whether the weights of a checkpoint are those of this network."""
    old, new = checkpoint["state_dict"], model.state_dict()
    return old.keys() == new.keys() and all(old[key].shape == value.shape for key, value in new.items())


def is_mid_epoch(checkpoint: dict) -> bool:
    """Whether training batches of the checkpoint's epoch are still to come."""
    return not checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]


def position(checkpoint: dict) -> tuple[int, int, bool]:
    """Where a checkpoint stands: epochs begun, optimiser steps, and whether it lies within an epoch.

    Raises:
        KeyError, TypeError, AttributeError: It holds no such record.
    """
    within = is_mid_epoch(checkpoint)
    finished = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return finished + within, checkpoint["global_step"] + 0, within


def check_limits(resume: Path, epochs: int, steps: int, trainer: Trainer) -> None:
    """ValueError where a checkpoint is beyond the limits of this run, before anything is written.

    Args:
        resume: The checkpoint's path.
        epochs: How many it has begun.
        steps: How many optimiser steps it has taken.
        trainer: With the limits.
    """
    for name, limit, done in (("max_epochs", trainer.max_epochs, epochs), ("max_steps", trainer.max_steps, steps)):
        if limit is not None and 0 <= limit < done:
            unit = "epoch" if name == "max_epochs" else "step"
            raise ValueError(
                f"{resume} cannot be resumed with --trainer.{name} {limit}: it is in {unit} {done} already. "
                f"Give {done} or more, or evaluate it by evaluate.py."
            )


def check_resumed(resume: Path, args: Namespace, data: ImageData, model: Model, trainer: Trainer) -> None:
    """Compares a checkpoint with the run that these options ask for, and says what differs.

    Raises:
        ValueError: Something differs and --allow_changes is not given, or no option can allow it.
    """
    checkpoint = read_checkpoint(resume)
    from_checkpoint(checkpoint)  # refuses options and weights that do not belong together
    if "fit_loop" not in checkpoint.get("loops", {}) or "optimizer_states" not in checkpoint:
        raise ValueError(f"{resume} cannot be resumed: it holds no state of training.")
    try:
        epochs, steps, is_within = position(checkpoint)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{resume} cannot be resumed: its record of epochs and steps is damaged.") from error
    check_limits(resume, epochs, steps, trainer)
    changes = changed_options(checkpoint, args, data, model, trainer)
    calls = changes.get("--steps_per_call")
    if calls and 1 in calls:
        raise ValueError(
            f"{resume} cannot be resumed: its --steps_per_call is {calls[0]}, not {calls[1]}, and Lightning counts "
            f"single steps apart: give --steps_per_call {calls[0]}."
        )
    if calls and not is_within:
        del changes["--steps_per_call"]  # the steps are the same
    if not changes:
        return
    said = "; ".join(
        f"its {OPTION_DESCRIPTIONS.get(key, key)} is {then}, not {now}" for key, (then, now) in changes.items()
    )
    if {"model", "data"} & changes.keys() or not weights_match(checkpoint, model):
        raise ValueError(f"{resume} cannot be resumed: {said}. Its weights are those of another model.")
    batches = [key for key in changes if key in BATCH_OPTIONS or key.startswith("--data.")]
    if batches and is_within:
        raise ValueError(
            f"{resume} cannot be resumed: {said}. It was written within an epoch, whose batches would be others: "
            "choose a checkpoint from the end of an epoch, such as best.ckpt."
        )
    if not args.allow_changes:
        raise ValueError(f"{resume} cannot be resumed: {said}. Give what it has, or add --allow_changes.")
    if trainer.is_global_zero:
        print(f"warning: {resume} is of another run: {said}.", file=sys.stderr)
