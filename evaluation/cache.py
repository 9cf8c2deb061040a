"""Per-image results of a checkpoint that are worth keeping: an evaluation that was interrupted goes on with them."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from runtime.atomic_write import atomic_write
from runtime.collectives import broadcast_from_rank0
from runtime.run_folder import run_folder

SOURCES = (
    "models/**/*.py",
    "datamodules/**/*.py",
    "evaluation/metrics.py",
    "evaluation/ais.py",
    "runtime/collectives.py",
)

NOTHING = nullcontext()


@cache
def source_hash() -> str:
    """A hash of what per-image results depend on besides the checkpoint and options: these sources, and torch."""
    root, found = Path(__file__).parents[1], hashlib.sha256(f"{torch.__version__} {version('arviz-stats')}".encode())
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


def cache_path(checkpoint: Path, what: str, options: dict | None = None) -> Path:
    """The file of per-image results of a checkpoint: each setting has one of its own.

    Args:
        checkpoint: The path of the checkpoint.
        what: "likelihoods" or "ais".
        options: All that these results depend on, numbers and text. None gives the name that older versions used for
            all settings.
    """
    name = f"{checkpoint.stem}_{what}"
    if options is not None:
        setting = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
        words = [f"K{options['K']}" if "K" in options else "", "bf16" if options.get("precision") == "bf16" else ""]
        name = "_".join(filter(None, [name, *words, setting]))
    return run_folder(checkpoint) / "per_image" / f"{name}.npz"


def load_if_current(path: Path, about: str) -> dict[str, np.ndarray] | None:
    """The arrays in `path` if they are about just this and all there; else none."""
    try:
        content = BytesIO(path.read_bytes())  # numpy leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        said, names = str(found.pop("about")), found.pop("names").tolist()
    except Exception:  # zipfile and numpy raise many kinds; each means that there is nothing to go on with
        return None
    return found if said == about and names == sorted(found) else None  # a flipped bit can hide arrays


def tensor_hash(*tensors: Tensor) -> str:
    """A hash of the numbers in tensors, and of their types and shapes."""
    found = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        found.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def weights_hash(checkpoint: dict) -> str:
    """A hash of the weights in a checkpoint, by which results know them whatever their file is called."""
    weights = checkpoint["state_dict"]
    return hashlib.sha256(f"{list(weights)} {tensor_hash(*weights.values())}".encode()).hexdigest()[:12]


def cached(
    path: Path,
    checkpoint: dict,
    options: dict,
    compute: Callable[[], dict[str, np.ndarray]],
    older: Path | None = None,
    attempt: AbstractContextManager = NOTHING,
) -> dict[str, np.ndarray]:
    """What `compute` finds, or found before by the same code, of the same checkpoint, with the same options.

    All processes of a distributed run call it; the first one reads and writes.

    Args:
        path: The .npz file to keep it in.
        checkpoint: That the results are about, as `models.read_checkpoint` gives it. Its file may be another by now.
        options: All else that they depend on, numbers and text.
        compute: Arrays by their names.
        older: Where older versions kept it.
        attempt: Entered to write the file; it decides what becomes of errors.
    """
    weights = checkpoint["state_dict"]
    model = [checkpoint["model"], checkpoint["hyper_parameters"], list(weights), tensor_hash(*weights.values())]
    about = json.dumps({"model": model, "code": source_hash(), **options}, sort_keys=True)
    found = broadcast_from_rank0(
        next((found for file in (path, older) if file and (found := load_if_current(file, about))), None)
    )
    if found is None:
        found = compute()
        if rank_zero_only.rank == 0:
            with attempt, atomic_write(path) as file:
                np.savez(file, about=np.array(about), names=np.array(sorted(found)), **found)
    return found


source_hash()  # now: files may change while this process works with what it has imported
