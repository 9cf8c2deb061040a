"""Results of evaluate.py in W&B: in the runs that made the checkpoints, and as one table of all."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from callbacks.loggers import FINISH_SECONDS, INIT_SECONDS

PROJECT = "elbo-room"


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
        here: Where W&B keeps the files of the table's run.
        offline: Write to the disk only.
        summaries: What the runs get in place of the results: the largest ones of their checkpoints.
        suffixes: Of `test` in the names that they get there, so that last.ckpt does not replace best.ckpt.
    """
    of_runs = [
        partial(summarise, result, folder, offline, f"test{suffix}")
        for result, folder, suffix in zip(summaries or results, folders, suffixes or [""] * len(results), strict=True)
        if (folder / "wandb_id").is_file()
    ]
    failed = []
    for write in (*of_runs, partial(tabulate, results, here, offline)):
        try:
            write()
        except Exception as error:  # whatever it is, the results lie in the run folders, and the next may succeed
            failed.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
    if failed:
        print(f"warning: W&B has not got all results ({'; '.join(dict.fromkeys(failed))}).", file=sys.stderr)


@contextmanager
def begun(folder: Path, offline: bool, **options) -> Iterator:
    """A W&B run with files in `folder`, which ends with the block; one that did not end would be taken for the next."""
    import wandb

    limits = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
    settings = wandb.Settings(**limits, **({"mode": "offline"} if offline else {}))
    run = wandb.init(project=PROJECT, dir=folder, settings=settings, **options)
    try:
        yield run
    finally:
        run.finish()


def summarise(result: dict, folder: Path, offline: bool, name: str = "test") -> None:
    """Adds a result to the summary of the run that made the checkpoint."""
    known = (folder / "wandb_id").read_text().strip()
    if not known:  # W&B would begin another run
        raise ValueError(f"{folder / 'wandb_id'} is empty")
    with begun(folder, offline, id=known, resume="allow") as run:
        run.summary.update({f"{name}/{key}": value for key, value in result.items()})


def tabulate(results: Sequence[dict], here: Path, offline: bool) -> None:
    """A run of its own with one row for each result."""
    import wandb

    here.mkdir(parents=True, exist_ok=True)
    keys = dict.fromkeys(key for result in results for key in result)  # the first run has no difference to the first
    keys = [key for key in keys if not any(isinstance(result.get(key), dict | list) for result in results)]
    table = wandb.Table(columns=keys, data=[[result.get(key) for key in keys] for result in results])
    with begun(here, offline, name="evaluation", job_type="evaluation") as run:
        run.log({"evaluation": table})
