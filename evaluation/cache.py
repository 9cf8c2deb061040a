"""On-disk cache of per-image results, so that interrupted evaluations resume."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.atomic_write import atomic_write
from runtime.collectives import broadcast_from_rank0
from runtime.processes import global_rank
from runtime.run_folder import run_folder

SOURCES = (
    "models/**/*.py",
    "datamodules/**/*.py",
    "evaluation/metrics.py",
    "evaluation/ais.py",
    "evaluation/density.py",
    "evaluation/digit_features.py",
    "evaluation/two_sample.py",
    "runtime/collectives.py",
)

NOTHING = nullcontext()


@cache
def source_hash() -> str:
    """Return a hash of all code that per-image results depend on: our sources and the versions of libraries."""
    root, digest = Path(__file__).parents[1], hashlib.sha256(f"{torch.__version__} {version('arviz-stats')}".encode())
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def cache_path(checkpoint: Path, what: str, options: dict | None = None) -> Path:
    """Return the cache file of a checkpoint for these options.

    Args:
        checkpoint: Path of the checkpoint.
        what: What the file holds, such as "likelihoods" or "ais".
        options: All options that the results depend on, as numbers and text. None gives the name that older versions
            used for all options.
    """
    name = f"{checkpoint.stem}_{what}"
    if options is not None:
        setting = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
        words = [f"K{options['K']}" if "K" in options else "", "bf16" if options.get("precision") == "bf16" else ""]
        name = "_".join(filter(None, [name, *words, setting]))
    return run_folder(checkpoint) / "per_image" / f"{name}.npz"


def load_if_current(path: Path, about: str) -> dict[str, np.ndarray] | None:
    """Return the arrays in a cache file if its key equals `about` and they are complete; else None."""
    try:
        content = BytesIO(path.read_bytes())  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        stored_key, names = str(arrays.pop("about")), arrays.pop("names").tolist()
    except Exception:  # zipfile and numpy raise many types; any failure is a cache miss
        return None
    # The names are compared because a flipped bit in the zip directory can hide arrays.
    return arrays if stored_key == about and names == sorted(arrays) else None


def tensor_hash(*tensors: Tensor) -> str:
    """Return a hash of the values, types and shapes of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {tuple(values.shape)} ".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def weights_hash(checkpoint: dict) -> str:
    """Return a hash of the weights in a checkpoint, which identifies them independently of the file name."""
    weights = checkpoint["state_dict"]
    return hashlib.sha256(f"{list(weights)} {tensor_hash(*weights.values())}".encode()).hexdigest()[:12]


def cache_key(checkpoint: dict, options: dict) -> str:
    """Return the key of results: a text that names the model, its weights, the code and the options."""
    weights = checkpoint["state_dict"]
    model = [checkpoint["model"], checkpoint["hyper_parameters"], list(weights), tensor_hash(*weights.values())]
    return json.dumps({"model": model, "code": source_hash(), **options}, sort_keys=True)


def cached(
    path: Path,
    checkpoint: dict,
    options: dict,
    compute: Callable[[], dict[str, np.ndarray]],
    older: Path | None = None,
    attempt: AbstractContextManager = NOTHING,
) -> dict[str, np.ndarray]:
    """Return the cached result of `compute`; compute and cache it if checkpoint, options or code have changed.

    All ranks of a distributed run must call it; rank 0 reads and writes.

    Args:
        path: The .npz file of the cache.
        checkpoint: As `models.read_checkpoint` returned it; its file may have been replaced since.
        options: All other options that the results depend on, as numbers and text.
        compute: Returns arrays by name.
        older: File that older versions used.
        attempt: Context in which the file is written; it handles errors.
    """
    about = cache_key(checkpoint, options)
    arrays = broadcast_from_rank0(
        next((stored for file in (path, older) if file and (stored := load_if_current(file, about))), None)
    )
    if arrays is None:
        arrays = compute()
        if global_rank() == 0:
            content: dict[str, Any] = {"about": np.array(about), "names": np.array(sorted(arrays)), **arrays}
            with attempt, atomic_write(path) as file:
                np.savez(file, **content)
    return arrays


source_hash()  # hash the sources at import: files may change while this process runs the imported code
