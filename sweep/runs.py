"""The runs of a sweep: the command line and the run folder of each, as functions of its options."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sweep.grid import Sweep, option_names, option_text, option_words

MAX_NAME = 150  # characters; file systems allow 255 bytes
RESERVED = ("run_dir", "resume")  # options of train.py that a sweep sets itself


class Run(NamedTuple):
    """One run of a sweep.

    Args:
        name: Its swept options, such as `z_dim=2,beta=1`.
        folder: Its run folder.
        options: Command-line words of train.py, without `--run_dir` and `--resume`.
    """

    name: str
    folder: Path
    options: list[str]


def make_runs(sweep: Sweep, parent: Path, more: Sequence[str] = ()) -> list[Run]:
    """Return all runs of a sweep, with their run folders below `parent`/NAME OF THE SWEEP.

    Args:
        sweep: The sweep.
        parent: The folder of all sweeps.
        more: Further command-line words for every run. They replace fixed options of the file.

    Raises:
        ValueError: `more` contains an option that is swept, or that a sweep sets itself.
    """
    given = option_names(more)
    for name in given:
        if name in RESERVED:
            raise ValueError(f"--{name} is set by the sweep: leave it out; --sweep_dir is the folder of all sweeps.")
        if name in option_names(option_words(sweep.swept)):
            raise ValueError(f"--{name} is swept in {sweep.file}: leave it out, or change its values there.")
    for name in (*sweep.fixed, *sweep.swept, *option_names(sweep.command)):
        if name in RESERVED:
            raise ValueError(f"{sweep.file}: {name} is set by the sweep: remove it.")
    fixed = [word for word in option_words(sweep.fixed) if option_names([word])[0] not in given]
    shared = [*fixed, *sweep.command, *more]
    labels = short_names(list(sweep.swept))
    runs = []
    for point in sweep.points():
        name = run_name({labels[option]: value for option, value in point.items()})
        runs.append(Run(name, parent / sweep.name / name, [*shared, *option_words(point)]))
    return runs


def short_names(options: Sequence[str]) -> dict[str, str]:
    """Return the last part of each option name, or the whole name if several options have the same last part."""
    last = {option: option.rpartition(".")[2] for option in options}
    return {option: name if list(last.values()).count(name) == 1 else option for option, name in last.items()}


def run_name(point: dict[str, Any]) -> str:
    """Return the name of a run, which is a valid file name: `z_dim=2,beta=1`.

    Lists are joined by `-`. If other characters had to be replaced, or the name is too long, it ends with a hash.
    """
    plain = ",".join(f"{option}={value_text(value)}" for option, value in point.items())
    name = re.sub(r"[^\w.,=+-]", "_", plain, flags=re.ASCII)[:MAX_NAME]
    if name == plain:
        return name
    return f"{name}-{hashlib.sha256(repr(point).encode()).hexdigest()[:8]}"


def value_text(value: Any) -> str:
    """Return a value as a part of a file name."""
    return "-".join(map(value_text, value)) if isinstance(value, list) else option_text(value)
