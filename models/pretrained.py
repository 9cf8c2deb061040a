"""Trained models within other models: the M1 of M1M2 and the autoencoder of GMMN."""

from pathlib import Path
from typing import TypeVar

from models import checkpoints
from models.base import Model

AnyModel = TypeVar("AnyModel", bound=Model)


def make_part(kind: type[AnyModel], options: dict) -> AnyModel:
    """Return a model within another. It is built here since Lightning would save the caller's arguments as its own."""
    return kind(**options)


def check_same_data(checkpoint: dict, path: str | Path, title: str, data) -> None:
    """Raise ValueError unless a checkpoint was trained on the training images of `data`, in the same protocol.

    Args:
        checkpoint: Contents of the checkpoint.
        path: Its path, for messages.
        title: What it is called in messages, such as M1.
        data: The data module, set up.
    """
    checkpoints.require(checkpoint, path)
    run, options = checkpoint["run"], checkpoint["datamodule_hyper_parameters"]
    then = {"data": run["data"], "protocol": run["protocol"]}
    now = {"data": type(data).__name__, "protocol": data.protocol}
    # with another split, the part would have been trained on validation images of this run
    for key in ("seed", "val_size", "max_rotation", "max_shift", "max_scaling"):
        then[f"data.{key}"], now[f"data.{key}"] = options.get(key, 0), data.hparams.get(key, 0)
    if data.reads_user_files:
        then_hash = checkpoint.get(now["data"], {}).get("images_hash")
        if then_hash:
            then["images"], now["images"] = then_hash, data.images_hash
        else:  # an older checkpoint without a hash: compare the name of the file
            then["file"], now["file"] = (Path(str(root.get("root"))).name for root in (options, data.hparams))
    for key, value in now.items():
        if then[key] != value:
            raise ValueError(f"The {title} in {path} was trained with {key} {then[key]}, not {value}: use the same.")


def open_part(
    path: str | Path, data, kind: type[AnyModel], title: str, names: tuple[str, ...], remedy: str
) -> AnyModel:
    """Return the trained model in a checkpoint, to be part of another model.

    Args:
        path: A checkpoint, or a run folder.
        data: The data module that the other model is trained on, set up.
        kind: Class of the part.
        title: What the part is called in messages, such as M1.
        names: Names of the models that a checkpoint may hold.
        remedy: What to do if it holds another, for the message.

    Raises:
        ValueError: The checkpoint holds another model, was trained on other data, or does not fit this version.
    """
    path = checkpoints.find(path)
    checkpoint = checkpoints.read(path)
    if checkpoint.get("model") not in names:
        raise ValueError(f"{path} holds no {title}: {remedy}.")
    check_same_data(checkpoint, path, title, data)
    try:
        part = kind(**checkpoint["hyper_parameters"])
        checkpoints.check_weights(checkpoint["state_dict"], part.state_dict())
        part.load_state_dict(checkpoint["state_dict"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The {title} in {path} does not fit this version: {error}") from error
    if tuple(part.hparams.image_shape) != data.image_shape:
        raise ValueError(
            f"The {title} in {path} takes images {tuple(part.hparams.image_shape)}, not {data.image_shape}."
        )
    return part
