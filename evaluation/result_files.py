"""Files of an evaluation in the run folder: one set for each checkpoint and setting, and none lost to a smaller one.

`evaluation.json` and `log_px.npy` hold the largest result of `best.ckpt`, `evaluation_last.json` and `log_px_last.npy`
that of `last.ckpt`, and so on. `evaluations/` holds each result under a name that says its checkpoint and setting.
"""

import errno
import glob
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from datamodules import ImageData
from evaluation.cache import tensor_hash, weights_hash
from models import from_checkpoint, read_checkpoint
from models.checkpoints import BEST, LAST
from runtime.atomic_write import atomic_write
from runtime.run_folder import run_folder

# What a result may have been asked for besides the likelihood
FURTHER = ("test_error", "knn_error", "probe_error", "baselines", "disentanglement")
SETTING = ("num_samples", "num_images", "precision", "images_hash", "weights_hash", "step", "ais_images",
           "ais_chains", "ais_temperatures", "ais_leapfrogs", "ais_start")  # fmt: skip


def try_writing(folder: Path) -> None:
    """OSError where no file can be made in a folder, or in the nearest one above it that exists. Leaves nothing."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:  # names a file of a random name
        raise OSError(error.errno, error.strerror, str(folder)) from error


def suffix(path: Path) -> str:
    """What sets the files of a checkpoint apart from those of others in its folder.

    Nothing for the checkpoint that a run is known by: best.ckpt, or last.ckpt of a run without validation, or the only
    one.
    """
    for name in (BEST, LAST):
        if path.name == name:
            return ""
        if path.with_name(name).exists():
            return f"_{path.stem}"
    return f"_{path.stem}" if len(list(path.parent.glob("*.ckpt"))) > 1 else ""


def result_file(path: Path) -> Path:
    """Where the largest result of a checkpoint lies."""
    return run_folder(path) / f"evaluation{suffix(path)}.json"


def values_file(path: Path) -> Path:
    """Where the per-image log-likelihoods of that result lie."""
    return run_folder(path) / f"log_px{suffix(path)}.npy"


def setting_file(path: Path, result: dict) -> Path:
    """Where a result lies whatever larger ones there are."""
    K, precision = result.get("num_samples"), result.get("precision")
    words = [path.stem, f"K{K}" if K else "", f"n{result.get('num_images')}"]
    words += ["bf16" if precision == "bf16" else "", "ais" if result.get("ais_nll") is not None else ""]
    setting = json.dumps([result.get(key) for key in SETTING])
    words.append(hashlib.sha256(setting.encode()).hexdigest()[:8])
    return run_folder(path) / "evaluations" / f"{'_'.join(filter(None, words))}.json"


def read_result(file: Path) -> dict:
    """The result in a file; an empty one where there is none, or a damaged one."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("checkpoint"), str) else {}


def is_of(result: dict, file: Path, path: Path, weights: str, step: int) -> bool:
    """Whether a result is that of a checkpoint as it is now.

    Args:
        result: From a file.
        file: That file. Results of older versions have no hash of the weights, and must not be older than the weights.
        path: The checkpoint.
        weights: The hash of its weights, as `keeping.weights_hash` gives it.
        step: Its optimiser step.
    """
    if Path(result["checkpoint"]).name != path.name:
        return False
    if result.get("weights_hash") is not None:
        return result["weights_hash"] == weights
    return result.get("step") == step and file.stat().st_mtime_ns >= path.stat().st_mtime_ns


def size(result: dict) -> tuple:
    """What makes a result a larger one: a finite likelihood, images, K, fp32, AIS, and what else was found out."""
    ais = [result.get(f"ais_{key}") or 0 for key in ("images", "temperatures", "chains", "leapfrogs")]
    return (
        result.get("nll") is not None or result.get("loss") is not None,
        result.get("num_images") or 0,
        result.get("num_samples") or 0,
        result.get("precision") != "bf16",
        *ais,
        sum(result.get(key) is not None for key in FURTHER),
    )


def described(result: dict) -> str:
    """The setting of a result in words."""
    words = [f"{result.get('num_images')} images", f"K = {result['num_samples']}" if result.get("num_samples") else ""]
    words += ["bf16" if result.get("precision") == "bf16" else ""]
    words += ["with AIS" if result.get("ais_nll") is not None else ""]
    return ", ".join(filter(None, words))


class EvaluationFiles:
    """Writes what is to be kept of evaluations, beside the table that is printed in any case.

    A file that cannot be written costs a warning, once for each run folder.

    Attributes:
        unsaved: Why the result of a checkpoint is in no file, by its path.
        log_px: Per-image log-likelihoods by the path of the checkpoint.
        kept: The largest result of each checkpoint by its path, as its `evaluation.json` has it.
    """

    def __init__(self):
        self.refused: dict[Path, OSError] = {}
        self.unsaved: dict[str, OSError] = {}
        self.log_px: dict[str, np.ndarray] = {}
        self.kept: dict[str, dict] = {}

    def check(self, path: Path) -> None:
        """Says before the work that the run folder of a checkpoint cannot be written to."""
        with self.attempt(path):
            try_writing(run_folder(path))

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Writes a file in the run folder of a checkpoint, or warns that this cannot be done."""
        try:
            yield
        except OSError as error:
            folder = run_folder(path)
            if folder not in self.refused and rank_zero_only.rank == 0:
                print(
                    f"warning: {error.filename or folder} cannot be written: {error.strerror or error}. Results are "
                    "printed all the same.",
                    file=sys.stderr,
                )
            self.refused.setdefault(folder, error)

    def save(self, path: Path, result: dict, weights: str, overwrite: bool = False) -> None:
        """Writes a result under the name of its setting, and as the one of its checkpoint if it is the largest.

        Args:
            path: The checkpoint.
            result: As JSON has it.
            weights: The hash of the weights that the result is about.
            overwrite: Let it take the place of a larger one too.
        """
        self.kept[str(path)] = result
        file, own = result_file(path), setting_file(path, result)
        before = read_result(file)
        is_same = bool(before) and is_of(before, file, path, weights, result["step"])
        keep = is_same and size(before) > size(result) and not overwrite
        saved = [self.write(path, own, result)]
        if keep:
            self.kept[str(path)] = before
            where = own if saved[0] is None else "no file"
            print(f"note: {file} keeps the larger result ({described(before)}); this one ({described(result)}) is in "
                  f"{where}. evaluate.py --overwrite replaces it.", file=sys.stderr)  # fmt: skip
        else:
            with self.attempt(path):
                self.make_way(path, before, file)
            saved.append(self.write(path, file, result))
            if (log_px := self.log_px.get(str(path))) is not None:
                with self.attempt(path), atomic_write(values_file(path)) as opened:
                    np.save(opened, log_px)
        if None not in saved:
            self.unsaved[str(path)] = saved[-1]

    def write(self, path: Path, file: Path, result: dict) -> OSError | None:
        """Writes a result, or returns why that cannot be done."""
        failed = None
        with self.attempt(path):
            try:
                with atomic_write(file) as opened:
                    opened.write(json.dumps(result, indent=2, allow_nan=False).encode())
            except OSError as error:
                failed = error
                raise
        return failed

    def make_way(self, path: Path, before: dict, file: Path) -> None:
        """Keeps a result that another takes the place of: versions before this one wrote all to `evaluation.json`."""
        if not before:
            return
        of = path.with_name(Path(before["checkpoint"]).name)
        targets = [setting_file(of, before)]
        if of.name != path.name and result_file(of) != file:
            targets.append(result_file(of))
            values = values_file(path)
            if values.is_file() and not values_file(of).exists() and not targets[-1].exists():
                os.replace(values, values_file(of))
        for target in targets:
            if not target.exists():
                with atomic_write(target) as opened:
                    opened.write(json.dumps(before, indent=2).encode())


def existing_result(path: Path, num_samples: int, limit: int | None, data: ImageData) -> dict:
    """The result that is kept of just this checkpoint with these options; an empty one where there is none.

    Without the file of its largest result a checkpoint has not been evaluated to the end.

    Args:
        path: The checkpoint.
        num_samples: K.
        limit: Of test images; none takes all, or the model's default.
        data: Set up.
    """
    largest = result_file(path)
    if not path.is_file() or not read_result(largest):
        return {}
    checkpoint = read_checkpoint(path)
    model, weights, step = from_checkpoint(checkpoint, path), weights_hash(checkpoint), checkpoint["global_step"]
    x, y = data.images("test")
    if model.can("log_weights"):
        x, y = (part[: limit or model.default_limit] for part in (x, y))
    images = tensor_hash(x, *model.condition_args(y)) if model.can("log_weights") else tensor_hash(x)
    for file in (largest, *sorted((largest.parent / "evaluations").glob(f"{glob.escape(path.stem)}_*.json"))):
        result = read_result(file)
        if (
            result
            and is_of(result, file, path, weights, step)
            and result.get("num_samples") in (None, num_samples)
            and result.get("num_images") == len(x)
            and result.get("images_hash") in (None, images)
            and result.get("precision") != "bf16"  # which train.py never asks for
        ):
            return result
    return {}
