"""Per-image results of a checkpoint that are worth keeping: an evaluation that was interrupted goes on with them."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from callbacks.replace import replacing
from models.estimators import agreed
from tables import run_folder

SOURCES = ("models/*.py", "datamodules/*.py", "measures.py", "annealing.py")


@cache
def code() -> str:
    """A hash of what per-image results depend on besides the checkpoint and options: these sources, and torch."""
    root, found = Path(__file__).parent, hashlib.sha256(f"{torch.__version__} {version('arviz-stats')}".encode())
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


def per_image(checkpoint: Path, what: str) -> Path:
    """The file of per-image results of a checkpoint."""
    return run_folder(checkpoint) / "per_image" / f"{checkpoint.stem}_{what}.npz"


def kept(path: Path, about: str) -> dict[str, np.ndarray] | None:
    """The arrays in `path` if they are about just this and all there; else none."""
    try:
        content = BytesIO(path.read_bytes())  # numpy leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        said, names = str(found.pop("about")), found.pop("names").tolist()
    except Exception:  # zipfile and numpy raise many kinds; each means that there is nothing to go on with
        return None
    return found if said == about and names == sorted(found) else None  # a flipped bit can hide arrays


def digest(*tensors: Tensor) -> str:
    """A hash of the numbers in tensors, and of their types and shapes."""
    found = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        found.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def once(
    path: Path, checkpoint: dict, options: dict, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `compute` finds, or found before by the same code, of the same checkpoint, with the same options.

    All processes of a distributed run call it; the first one reads and writes.

    Args:
        path: The .npz file to keep it in.
        checkpoint: That the results are about, as `models.read_checkpoint` gives it. Its file may be another by now.
        options: All else that they depend on, numbers and text.
        compute: Arrays by their names.
    """
    weights = checkpoint["state_dict"]
    model = [checkpoint["model"], checkpoint["hyper_parameters"], list(weights), digest(*weights.values())]
    about = json.dumps({"model": model, "code": code(), **options}, sort_keys=True)
    found = agreed(kept(path, about))
    if found is None:
        found = compute()
        if rank_zero_only.rank == 0:
            with replacing(path) as file:
                np.savez(file, about=np.array(about), names=np.array(sorted(found)), **found)
    return found


code()  # now: files may change while this process works with what it has imported
