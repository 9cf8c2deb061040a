"""Per-image results of a checkpoint that are worth keeping: an evaluation that was interrupted goes on with them."""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from callbacks.provenance import commit
from callbacks.replace import replacing
from models.estimators import agreed
from tables import run_folder


def code() -> str | None:
    """What the results depend on besides the checkpoint: the commit or version. None where files have been changed."""
    name = commit()
    if name is not None:
        return None if name.endswith("+") else name
    try:
        return version("elbo-room")
    except PackageNotFoundError:
        return None


def per_image(checkpoint: Path, what: str) -> Path:
    """The file of per-image results of a checkpoint."""
    return run_folder(checkpoint) / "per_image" / f"{checkpoint.stem}_{what}.npz"


def kept(path: Path, about: str) -> dict[str, np.ndarray] | None:
    """The arrays in `path` if they are about just this; else none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return found if str(found.pop("about", "")) == about else None


def once(
    path: Path, checkpoint: Path, options: dict, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `compute` finds, or found before by the same code, of the same checkpoint, with the same options.

    All processes of a distributed run call it; the first one reads and writes.

    Args:
        path: The .npz file to keep it in.
        checkpoint: That the results are about.
        options: All else that they depend on, numbers and text.
        compute: Arrays by their names.
    """
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    about = json.dumps({"checkpoint": digest, "code": code(), **options}, sort_keys=True)
    found = agreed(kept(path, about) if code() is not None else None)
    if found is None:
        found = compute()
        if rank_zero_only.rank == 0:
            with replacing(path) as file:
                np.savez(file, about=np.array(about), **found)
    return found
