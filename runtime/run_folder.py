"""Run folders of train.py: which one a run writes to, and its newest checkpoint."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only

from models import read_checkpoint
from models.checkpoints import find
from runtime.lock import locked

# What a run puts into its folder before its first step
RUN_FILES = ("config.yaml", "wandb_id", "wandb", "checkpoints")


def resolve_run_dir(args: Namespace) -> tuple[Path, Path | None]:
    """The run folder and the checkpoint to resume from, if any. Refuses a folder that holds a run already."""
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed must be between 0 and {2**32 - 1}; got {args.seed}.")
    for name in ("run_dir", "resume"):
        if getattr(args, name) == "":
            raise ValueError(f"--{name} is empty: name a path, or leave it out.")
    if args.run_dir and Path(args.run_dir).exists() and not Path(args.run_dir).is_dir():
        raise ValueError(f"--run_dir {args.run_dir} is a file: name a folder.")
    if args.resume == "auto" and args.run_dir is None:
        raise ValueError("--resume auto needs --run_dir, the folder of the run to go on with.")
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
    # the other processes of a run find what the first has written
    if rank_zero_only.rank == 0 and args.run_dir and not args.resume and (folder / "config.yaml").exists():
        raise ValueError(f"{folder} holds a run already: choose another --run_dir, or go on with it by --resume auto.")
    return folder, resume


def checkpoint_to_resume(path: Path) -> Path:
    """The checkpoint to resume from: of a run folder its newest, for the best one may be many epochs behind."""
    path = path.expanduser()
    if not path.is_dir():
        return path
    for folder in (path / "checkpoints", path):
        if found := newest_readable_checkpoint(folder):
            print(f"Going on from {found}.", file=sys.stderr)
            return found
    return find(path)


def newest_readable_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; none where the run has written none yet.

    Raises:
        ValueError: There are some, and none of them can be read.
    """
    there = [path for name in ("last.ckpt", "previous.ckpt") if (path := checkpoints / name).is_file()]
    damaged = []
    for path in there:
        try:
            read_checkpoint(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for why in damaged:
            print(f"warning: {why} Going on from {path}.", file=sys.stderr)
        return path
    if damaged:
        raise ValueError(" ".join(damaged))
    return None


def make_folder(folder: Path, is_default: bool) -> tuple[Path, list[Path]]:
    """Makes the run folder, and names the folders that are new, the run folder first and those it lies in after it.

    A default name that another run has just taken is numbered.
    """
    if rank_zero_only.rank != 0:
        return folder, []
    if not is_default and folder.exists():
        return folder, []
    above = [parent for parent in folder.parents if not parent.exists()]
    names = [folder.name, *(f"{folder.name}-{number}" for number in range(2, 1000) if is_default)]
    for name in names:
        with suppress(FileExistsError):  # by a run that started in the same second
            folder.with_name(name).mkdir(parents=True)
            return folder.with_name(name), [folder.with_name(name), *above]
    raise ValueError(f"{folder} has just been made by another run: choose another --run_dir.")


@contextmanager
def locked_run_dir(folder: Path, is_default: bool, began: Callable[[], bool]) -> Iterator[Path]:
    """Makes and locks the run folder. After an error all that is new there goes again, unless something was trained.

    Args:
        folder: Its path.
        is_default: Whether nobody has chosen it, so that another name will do as well.
        began: Whether training has begun.

    Raises:
        ValueError: Another job holds the folder.
    """
    folder, new = make_folder(folder, is_default)
    with locked(folder):  # nobody else's folder is touched
        absent = [path for name in RUN_FILES if not (path := folder / name).exists()]
        try:
            yield folder
        except BaseException:
            is_empty = not (folder / "metrics.csv").exists() and not any(folder.glob("checkpoints/*.ckpt"))
            if is_empty or not began():
                remove_new_files(absent, new)
            raise


def remove_new_files(absent: list[Path], new: list[Path]) -> None:
    """Removes what a run that was refused has made, on a disk that may have become read-only.

    Args:
        absent: Files and folders of a run that were not there before.
        new: Folders that it has made, inner ones first; one that holds something else by now stays.
    """
    if rank_zero_only.rank != 0:
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
    """The run folder of a checkpoint, also where its path begins within that folder."""
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
