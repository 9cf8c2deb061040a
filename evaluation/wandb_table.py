"""Results of evaluate.py in W&B: in the runs that made the checkpoints, and as one table of all."""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from callbacks.loggers import FINISH_SECONDS, INIT_SECONDS
from callbacks.wandb_environment import (
    PROJECT,
    WandbRunRecord,
    init_options,
    is_set,
    is_sweep,
    print_sync_command,
    settings,
)

# Settings, and arguments of wandb.init, whose variables are meant for a new run and would change one that exists
OF_NEW_RUNS = {
    "run_name": ("name", "WANDB_NAME"),
    "run_group": ("group", "WANDB_RUN_GROUP"),
    "run_job_type": ("job_type", "WANDB_JOB_TYPE"),
    "run_notes": ("notes", "WANDB_NOTES"),
    "run_tags": ("tags", "WANDB_TAGS"),
}


def mirror(
    results: Sequence[dict],
    folders: Sequence[Path],
    here: Path,
    offline: bool,
    summaries: Sequence[dict] | None = None,
    suffixes: Sequence[str] | None = None,
) -> None:
    """Adds each result to the W&B run of its folder, if that has one, and a table of all to a run of its own.

    Where W&B fails, it says so and nothing is lost: the run folders hold the results.

    Args:
        results: As `evaluation.json` has them.
        folders: Their run folders.
        here: Where W&B keeps the files of the table's run; those of the others lie in their run folders. Neither lies
            in WANDB_DIR, which a sweep agent sets to the current folder.
        offline: Write to the disk only.
        summaries: What the runs get in place of the results: the largest ones of their checkpoints.
        suffixes: Of `test` in the names that they get there, so that last.ckpt does not replace best.ckpt.
    """
    of_runs = [
        partial(summarise, result, folder, offline, f"test{suffix}")
        for result, folder, suffix in zip(summaries or results, folders, suffixes or [""] * len(results), strict=True)
        if (folder / "wandb_id").is_file()
    ]
    place = next(
        (WandbRunRecord(folder).place for folder in folders if WandbRunRecord(folder).id), {"project": PROJECT}
    )
    failed, ended = [], []
    for write in (*of_runs, partial(tabulate, results, here, offline, place)):
        try:
            ended.append(write())
        except Exception as error:  # whatever it is, the results lie in the run folders, and the next may succeed
            failed.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
    if failed:
        print(f"warning: W&B has not got all results ({'; '.join(dict.fromkeys(failed))}).", file=sys.stderr)
    print_sync_command(ended)


@contextmanager
def begun(options: dict) -> Iterator:
    """A W&B run, which ends with the block; one that did not end would be taken for the next.

    Args:
        options: Arguments of wandb.init.
    """
    import wandb

    run = wandb.init(**options)
    try:
        yield run
    finally:
        run.finish()


def forget_new_runs() -> None:
    """Take from W&B's settings what variables say of a new run. It has read them by now, once per process."""
    import wandb

    shared = wandb.setup().settings
    for setting in OF_NEW_RUNS:
        setattr(shared, setting, None)


def named_by_variables() -> dict:
    """What variables say of a new run, as arguments of wandb.init."""
    said = {name: os.environ[variable] for name, variable in OF_NEW_RUNS.values() if os.environ.get(variable)}
    return said | ({"tags": said["tags"].split(",")} if "tags" in said else {})


def summarise(result: dict, folder: Path, offline: bool, name: str = "test"):
    """Add a result to the summary of the run that made the checkpoint, and return that run."""
    recorded = WandbRunRecord(folder)
    if not recorded.id:  # W&B would begin another run
        raise ValueError(f"{folder / 'wandb_id'} is empty")
    options = init_options(**recorded.place)
    if is_sweep() and os.environ.get("WANDB_RUN_ID") != recorded.id:
        raise ValueError(f"{folder} is run {recorded.id}, and W&B writes to the run of the sweep alone")
    if not is_sweep():
        options["id"] = recorded.id  # also where WANDB_RUN_ID is another
    own = settings(offline, INIT_SECONDS, FINISH_SECONDS)
    forget_new_runs()
    with begun({**options, "dir": folder.resolve(), "resume": "allow", "settings": own}) as run:
        run.summary.update({f"{name}/{key}": value for key, value in result.items()})
    return run


def tabulate(results: Sequence[dict], here: Path, offline: bool, place: dict):
    """Make a run of its own with one row for each result, and return it; in a sweep it is the run of the sweep."""
    import wandb

    here.mkdir(parents=True, exist_ok=True)
    keys = dict.fromkeys(key for result in results for key in result)  # the first run has no difference to the first
    keys = [key for key in keys if not any(isinstance(result.get(key), dict | list) for result in results)]
    table = wandb.Table(columns=keys, data=[[result.get(key) for key in keys] for result in results])
    own = settings(offline, INIT_SECONDS, FINISH_SECONDS)
    options = init_options(**place, name="evaluation", job_type="evaluation")
    if is_set("WANDB_RUN_ID") and not is_sweep():  # which is that of a training run
        options["id"] = secrets.token_hex(4)
    with begun({**options, **named_by_variables(), "dir": here.resolve(), "settings": own}) as run:
        run.log({"evaluation": table})
    return run
