"""The run folder of train.py: its path, its lock, and its newest checkpoint."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from jsonargparse import Namespace

from models import read_checkpoint
from models.checkpoints import find
from runtime.lock import locked
from runtime.processes import global_rank

# Files and folders that a run creates before its first step
RUN_FILES = ("config.yaml", "wandb_id", "wandb", "checkpoints")


def resolve_run_dir(args: Namespace) -> tuple[Path, Path | None]:
    """Return the run folder and the checkpoint to resume from, or None.

    Raises:
        ValueError: The options are invalid, or the folder already holds a run and --resume is not given.
    """
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed must be between 0 and {2**32 - 1}; got {args.seed}.")
    for name in ("run_dir", "resume"):
        if getattr(args, name) == "":
            raise ValueError(f"--{name} is empty: name a path, or leave it out.")
    if args.run_dir and Path(args.run_dir).exists() and not Path(args.run_dir).is_dir():
        raise ValueError(f"--run_dir {args.run_dir} is a file: name a folder.")
    if args.resume == "auto" and args.run_dir is None:
        raise ValueError("--resume auto needs --run_dir, the folder of the run to resume.")
    resume = None if args.resume in (None, "auto") else checkpoint_to_resume(Path(args.resume))
    if resume and not resume.is_file():
        raise ValueError(f"There is no checkpoint {resume} to resume from.")
    if args.run_dir:
        folder = Path(args.run_dir)
    elif resume:
        folder = run_folder(resume)
    else:
        folder = Path("runs", f"{args.data.name}-{args.model.name}", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if args.resume == "auto":
        resume = newest_readable_checkpoint(folder / "checkpoints")
    # only rank 0 checks: other ranks may see files that rank 0 has already written
    if global_rank() == 0 and args.run_dir and not args.resume and (folder / "config.yaml").exists():
        raise ValueError(f"{folder} holds a run already: choose another --run_dir, or resume it with --resume auto.")
    return folder, resume


def checkpoint_to_resume(path: Path) -> Path:
    """Return the checkpoint to resume from: for a run folder the newest, because the best may be many epochs older."""
    path = path.expanduser()
    if not path.is_dir():
        return path
    for folder in (path / "checkpoints", path):
        if found := newest_readable_checkpoint(folder):
            print(f"Resuming from {found}.", file=sys.stderr)
            return found
    return find(path)


def newest_readable_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest readable checkpoint of a run, or None if there is no checkpoint.

    Raises:
        ValueError: There are checkpoints, but none of them can be read.
    """
    existing = [path for name in ("last.ckpt", "previous.ckpt") if (path := checkpoints / name).is_file()]
    damaged = []
    for path in existing:
        try:
            read_checkpoint(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            print(f"warning: {message} Resuming from {path}.", file=sys.stderr)
        return path
    if damaged:
        raise ValueError(" ".join(damaged))
    return None


def make_folder(folder: Path, is_default: bool) -> tuple[Path, list[Path]]:
    """Create the run folder; return it and the list of new folders, from the run folder upwards.

    If another run has just taken the default name, a number is appended.
    """
    if global_rank() != 0:
        return folder, []
    if not is_default and folder.exists():
        return folder, []
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    names = [folder.name, *(f"{folder.name}-{number}" for number in range(2, 1000) if is_default)]
    for name in names:
        with suppress(FileExistsError):  # created by a run that started in the same second
            folder.with_name(name).mkdir(parents=True)
            return folder.with_name(name), [folder.with_name(name), *new_parents]
    raise ValueError(f"{folder} was just created by another run: choose another --run_dir.")


@contextmanager
def locked_run_dir(folder: Path, is_default: bool, began: Callable[[], bool]) -> Iterator[Path]:
    """Create and lock the run folder. On error, delete what is new in it, unless it holds training results.

    Args:
        folder: The run folder.
        is_default: Whether it is the default name, which may be changed.
        began: Returns whether training has begun.

    Raises:
        ValueError: Another job holds the folder.
    """
    folder, new = make_folder(folder, is_default)
    with locked(folder):  # so that a folder in use by another job is never changed
        absent = [path for name in RUN_FILES if not (path := folder / name).exists()]
        try:
            yield folder
        except BaseException:
            is_empty = not (folder / "metrics.csv").exists() and not any(folder.glob("checkpoints/*.ckpt"))
            if is_empty or not began():
                remove_new_files(absent, new)
            raise


def remove_new_files(absent: list[Path], new: list[Path]) -> None:
    """Delete what a refused run has created. Errors are ignored, because the disk may have become read-only.

    Args:
        absent: Files and folders of the run that did not exist before.
        new: Folders that it has created, the run folder first; parents are deleted only if they are empty.
    """
    if global_rank() != 0:
        return
    for path in [*absent, *new[:1]]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    for folder in new[1:]:
        with suppress(OSError):
            folder.rmdir()


def run_folder(path: Path) -> Path:
    """Return the run folder of a checkpoint, also if its path is relative to a folder inside the run folder."""
    if path.parent.name == "checkpoints":
        return path.parent.parent
    folder = path.parent.resolve()
    return Path(os.path.relpath(folder.parent)) if folder.name == "checkpoints" else path.parent


def run_name(checkpoint: str | Path) -> str:
    """Return the name of a run in tables: its folder, and the checkpoint if that is not the best one."""
    path = Path(checkpoint)
    folder = run_folder(path)
    name = str(folder) if folder.name not in ("", "..") else folder.resolve().name or str(folder)
    return name if path.stem == "best" else f"{name} ({path.stem})"
