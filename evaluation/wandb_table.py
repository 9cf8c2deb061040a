"""Send results to W&B: to the runs that trained the checkpoints, and as one table of all."""

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
from evaluation.schema import Evaluation

# Setting -> (argument of wandb.init, environment variable). They are meant for new runs and would change existing ones.
OF_NEW_RUNS = {
    "run_name": ("name", "WANDB_NAME"),
    "run_group": ("group", "WANDB_RUN_GROUP"),
    "run_job_type": ("job_type", "WANDB_JOB_TYPE"),
    "run_notes": ("notes", "WANDB_NOTES"),
    "run_tags": ("tags", "WANDB_TAGS"),
}


def mirror(
    results: Sequence[Evaluation],
    folders: Sequence[Path],
    here: Path,
    offline: bool,
    summaries: Sequence[Evaluation] | None = None,
    suffixes: Sequence[str] | None = None,
) -> None:
    """Add each result to the W&B run of its folder, if there is one, and a table of all to a separate run.

    An error of W&B costs a warning only, because the run folders hold the results.

    Args:
        results: Rows of the table.
        folders: The run folder of each result.
        here: Folder for the W&B files of the table's run. Those of the other runs lie in their run folders. WANDB_DIR
            is not used, because a sweep agent sets it to the current folder.
        offline: Write to the disk only.
        summaries: Results to add to the runs instead: the largest ones of their checkpoints.
        suffixes: Appended to `test` in the names of the values, so that last.ckpt does not overwrite best.ckpt.
    """
    of_runs = [
        partial(summarise, result.to_dict(), folder, offline, f"test{suffix}")
        for result, folder, suffix in zip(summaries or results, folders, suffixes or [""] * len(results), strict=True)
        if (folder / "wandb_id").is_file()
    ]
    place = next(
        (WandbRunRecord(folder).place for folder in folders if WandbRunRecord(folder).id), {"project": PROJECT}
    )
    failed, ended = [], []
    rows = [result.to_dict() for result in results]
    for write in (*of_runs, partial(tabulate, rows, here, offline, place)):
        try:
            ended.append(write())
        except Exception as error:  # of any type: the run folders hold the results, and the next run may succeed
            failed.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
    if failed:
        print(f"warning: W&B has not got all results ({'; '.join(dict.fromkeys(failed))}).", file=sys.stderr)
    print_sync_command(ended)


@contextmanager
def begun(options: dict) -> Iterator:
    """Context of a W&B run. It is always finished, because wandb.init would return an unfinished run again.

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
    """Reset the settings that W&B read from environment variables for new runs, once per process."""
    import wandb

    shared = wandb.setup().settings
    for setting in OF_NEW_RUNS:
        setattr(shared, setting, None)


def named_by_variables() -> dict:
    """Return the arguments of wandb.init that environment variables set for new runs."""
    options = {name: os.environ[variable] for name, variable in OF_NEW_RUNS.values() if os.environ.get(variable)}
    return options | ({"tags": options["tags"].split(",")} if "tags" in options else {})


def summarise(result: dict, folder: Path, offline: bool, name: str = "test"):
    """Add a result to the summary of the run that trained the checkpoint. Return that run."""
    recorded = WandbRunRecord(folder)
    if not recorded.id:  # W&B would start a new run
        raise ValueError(f"{folder / 'wandb_id'} is empty")
    options = init_options(**recorded.place)
    if is_sweep() and os.environ.get("WANDB_RUN_ID") != recorded.id:
        raise ValueError(f"{folder} is run {recorded.id}, and W&B writes to the run of the sweep alone")
    if not is_sweep():
        options["id"] = recorded.id  # takes precedence over WANDB_RUN_ID
    own = settings(offline, INIT_SECONDS, FINISH_SECONDS)
    forget_new_runs()
    with begun({**options, "dir": folder.resolve(), "resume": "allow", "settings": own}) as run:
        run.summary.update({f"{name}/{key}": value for key, value in result.items()})
    return run


def tabulate(results: Sequence[dict], here: Path, offline: bool, place: dict):
    """Log a table with one row per result to a new run, or in a sweep to the run of the sweep. Return that run."""
    import wandb

    here.mkdir(parents=True, exist_ok=True)
    all_keys = dict.fromkeys(key for result in results for key in result)  # not all results have all keys
    keys = [key for key in all_keys if not any(isinstance(result.get(key), dict | list) for result in results)]
    table = wandb.Table(columns=keys, data=[[result.get(key) for key in keys] for result in results])
    own = settings(offline, INIT_SECONDS, FINISH_SECONDS)
    options = init_options(**place, name="evaluation", job_type="evaluation")
    if is_set("WANDB_RUN_ID") and not is_sweep():  # the id of a training run
        options["id"] = secrets.token_hex(4)
    with begun({**options, **named_by_variables(), "dir": here.resolve(), "settings": own}) as run:
        run.log({"evaluation": table})
    return run
