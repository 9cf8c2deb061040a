"""Files of evaluation results in the run folder. A smaller result never replaces a larger one.

`evaluation.json` and `log_px.npy` hold the largest result of `best.ckpt`, `evaluation_last.json` and `log_px_last.npy`
that of `last.ckpt`, and so on. `evaluations/` holds every result, under a name made of its checkpoint and its settings.
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

from datamodules import ImageData
from evaluation.cache import tensor_hash, weights_hash
from evaluation.schema import Evaluation
from models import from_checkpoint, read_checkpoint
from models.checkpoints import BEST, LAST
from runtime.atomic_write import atomic_write
from runtime.processes import global_rank
from runtime.run_folder import run_folder

# Optional measurements besides the likelihood
OPTIONAL = ("test_error", "knn_error", "probe_error", "baselines", "disentanglement", "two_sample_mmd2")
# Fields that tell the settings of two results apart; their values are hashed into the names of files
SETTINGS = ("num_samples", "num_images", "precision", "images_hash", "weights_hash", "step", "ais_images",
           "ais_chains", "ais_temperatures", "ais_leapfrogs", "ais_start")  # fmt: skip


def try_writing(folder: Path) -> None:
    """Raise OSError if no file can be created in a folder, or in its nearest existing parent. Leave no file behind."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:  # its message names a temporary file
        raise OSError(error.errno, error.strerror, str(folder)) from error


def suffix(path: Path) -> str:
    """Return the suffix that tells the files of a checkpoint from those of other checkpoints in its folder.

    It is empty for the main checkpoint: best.ckpt, or last.ckpt in a run without validation, or the only one.
    """
    for name in (BEST, LAST):
        if path.name == name:
            return ""
        if path.with_name(name).exists():
            return f"_{path.stem}"
    return f"_{path.stem}" if len(list(path.parent.glob("*.ckpt"))) > 1 else ""


def result_file(path: Path) -> Path:
    """Return the path of the largest result of a checkpoint."""
    return run_folder(path) / f"evaluation{suffix(path)}.json"


def values_file(path: Path) -> Path:
    """Return the path of the per-image log-likelihoods of that result."""
    return run_folder(path) / f"log_px{suffix(path)}.npy"


def setting_file(path: Path, result: Evaluation) -> Path:
    """Return the path under which a result is saved whether or not there is a larger one."""
    K = result.num_samples
    words = [path.stem, f"K{K}" if K else "", f"n{result.num_images}"]
    words += ["bf16" if result.precision == "bf16" else "", "ais" if result.ais_nll is not None else ""]
    words += ["two_sample" if result.two_sample_images else ""]
    setting = json.dumps([getattr(result, key) for key in SETTINGS])
    words.append(hashlib.sha256(setting.encode()).hexdigest()[:8])
    return run_folder(path) / "evaluations" / f"{'_'.join(filter(None, words))}.json"


def read_result(file: Path) -> Evaluation | None:
    """Return the result in a file; None if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("checkpoint"), str):
        return None
    return Evaluation.from_dict(content)


def is_of(result: Evaluation, file: Path, path: Path, weights: str, step: int | None) -> bool:
    """Return whether a result belongs to a checkpoint with its current weights.

    Args:
        result: The result read from `file`.
        file: Its path. Results of older versions have no hash of the weights; such a file must not be older than the
            checkpoint.
        path: Path of the checkpoint.
        weights: Hash of its weights, from `cache.weights_hash`.
        step: Its optimizer step.
    """
    if Path(result.checkpoint).name != path.name:
        return False
    if result.weights_hash is not None:
        return result.weights_hash == weights
    return result.step == step and file.stat().st_mtime_ns >= path.stat().st_mtime_ns


def size(result: Evaluation) -> tuple:
    """Return the size of a result: whether its likelihood is finite, images, K, fp32, AIS, optional measurements.

    The images of a result without a likelihood do not count: its loss is always of all test images, whereas a generator
    with AIS, on fewer images, has more to report.
    """
    return (
        result.nll is not None or result.loss is not None,
        0 if result.nll is None and result.quantity is None else result.num_images or 0,
        result.num_samples or 0,
        result.precision != "bf16",
        result.ais_images or 0,
        result.ais_temperatures or 0,
        result.ais_chains or 0,
        result.ais_leapfrogs or 0,
        sum(getattr(result, key) is not None for key in OPTIONAL),
    )


def described(result: Evaluation) -> str:
    """Describe the settings of a result: "1000 images, K = 50, with AIS"."""
    words = [f"{result.num_images} images", f"K = {result.num_samples}" if result.num_samples else ""]
    words += ["bf16" if result.precision == "bf16" else ""]
    words += ["with AIS" if result.ais_nll is not None else ""]
    words += ["with two-sample measures" if result.two_sample_images else ""]
    return ", ".join(filter(None, words))


class EvaluationFiles:
    """Writes results and per-image values into run folders.

    Results are printed in any case. Therefore a file that cannot be written costs only a warning, one per run folder.

    Attributes:
        refused: The first error of each run folder that cannot be written to.
        unsaved: The error of each checkpoint whose result is in no file, by its path.
        log_px: Per-image log-likelihoods in nats, by the path of the checkpoint.
        kept: The largest result of each checkpoint, as its `evaluation.json` holds it, by its path.
    """

    def __init__(self) -> None:
        self.refused: dict[Path, OSError] = {}
        self.unsaved: dict[str, OSError] = {}
        self.log_px: dict[str, np.ndarray] = {}
        self.kept: dict[str, Evaluation] = {}

    def check(self, path: Path) -> None:
        """Warn, before anything is computed, if the run folder of a checkpoint cannot be written to."""
        with self.attempt(path):
            try_writing(run_folder(path))

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Context that turns an OSError while writing into the run folder of a checkpoint into a warning."""
        try:
            yield
        except OSError as error:
            folder = run_folder(path)
            if folder not in self.refused and global_rank() == 0:
                print(
                    f"warning: {error.filename or folder} cannot be written: {error.strerror or error}. Results are "
                    "printed all the same.",
                    file=sys.stderr,
                )
            self.refused.setdefault(folder, error)

    def save(self, path: Path, result: Evaluation, weights: str, overwrite: bool = False) -> None:
        """Write a result under the name of its settings and, if it is the largest of its checkpoint, as the main one.

        Args:
            path: Path of the checkpoint.
            result: With values that JSON can hold.
            weights: Hash of the evaluated weights.
            overwrite: Replace the main result even if that is larger.
        """
        self.kept[str(path)] = result
        file, own = result_file(path), setting_file(path, result)
        before = read_result(file)
        is_same = before is not None and is_of(before, file, path, weights, result.step)
        saved = [self.write(path, own, result)]
        if before is not None and is_same and size(before) > size(result) and not overwrite:
            self.kept[str(path)] = before
            where = own if saved[0] is None else "no file"
            print(
                f"note: {file} keeps the more complete result ({described(before)}); this one ({described(result)}) "
                f"is in {where}. evaluate.py --overwrite replaces it.",
                file=sys.stderr,
            )
        else:
            if before is not None:
                with self.attempt(path):
                    self.preserve(path, before, file)
            saved.append(self.write(path, file, result))
            if (log_px := self.log_px.get(str(path))) is not None:
                with self.attempt(path), atomic_write(values_file(path)) as opened:
                    np.save(opened, log_px)
        errors = [error for error in saved if error is not None]
        if len(errors) == len(saved):
            self.unsaved[str(path)] = errors[-1]

    def write(self, path: Path, file: Path, result: Evaluation) -> OSError | None:
        """Write a result to a file; return the error if this fails."""
        failed = None
        with self.attempt(path):
            try:
                with atomic_write(file) as opened:
                    opened.write(json.dumps(result.to_dict(), indent=2, allow_nan=False).encode())
            except OSError as error:
                failed = error
                raise
        return failed

    def preserve(self, path: Path, before: Evaluation, file: Path) -> None:
        """Copy a result that is about to be replaced to its own name, unless it is there already.

        Older versions wrote the results of all checkpoints to `evaluation.json`, and only there.

        Args:
            path: Path of the checkpoint whose result replaces it.
            before: The result.
            file: Its path.
        """
        of = path.with_name(Path(before.checkpoint).name)
        targets = [setting_file(of, before)]
        if of.name != path.name and result_file(of) != file:
            targets.append(result_file(of))
            values = values_file(path)
            if values.is_file() and not values_file(of).exists() and not targets[-1].exists():
                os.replace(values, values_file(of))
        content = file.read_bytes()  # not `before`: another version may have written keys that this one does not know
        for target in targets:
            if not target.exists():
                with atomic_write(target) as opened:
                    opened.write(content)


def existing_result(path: Path, num_samples: int, limit: int | None, data: ImageData) -> Evaluation | None:
    """Return the saved result of exactly this checkpoint with these options; None if there is none.

    The file of the largest result is written last. Without it, the evaluation did not finish.

    Args:
        path: Path of the checkpoint.
        num_samples: K.
        limit: Number of test images; None takes all, or the model's default.
        data: Set up.
    """
    largest = result_file(path)
    if not path.is_file() or read_result(largest) is None:
        return None
    checkpoint = read_checkpoint(path)
    model, weights, step = from_checkpoint(checkpoint, path), weights_hash(checkpoint), checkpoint["global_step"]
    x, y = data.images("test")
    if model.can("log_weights"):
        x, y = (part[: limit or model.default_limit] for part in (x, y))
    images = tensor_hash(x, *model.condition_args(y)) if model.can("log_weights") else tensor_hash(x)
    for file in (largest, *sorted((largest.parent / "evaluations").glob(f"{glob.escape(path.stem)}_*.json"))):
        result = read_result(file)
        if (
            result is not None
            and is_of(result, file, path, weights, step)
            and result.num_samples in (None, num_samples)
            and result.num_images == len(x)
            and result.images_hash in (None, images)
            and result.precision != "bf16"  # train.py always evaluates in fp32
        ):
            return result
    return None
