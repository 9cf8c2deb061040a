"""Where the numbers of a run go: `metrics.csv` in the run folder always, W&B where it is switched on."""

import csv
import hashlib
import io
import os
import re
import secrets
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from callbacks.wandb_environment import WandbRunRecord, init_options, print_sync_command, refusal_message, settings
from runtime.atomic_write import atomic_write, with_filename

# Options that do not make another experiment of a run
UNGROUPED_OPTIONS = {"seed", "wandb", "callbacks", "num_samples", "limit", "save_every_steps", "save_every_minutes",
         "steps_per_call", "threads", "figure_format", "figure_dpi", "data/root", "trainer/accelerator"}  # fmt: skip
INIT_SECONDS, FINISH_SECONDS = 10.0, 60.0  # to wait for W&B before training and after it
REFUSED = re.compile(r"returned error 4\d\d")  # in W&B's words: there was an answer


def flatten(config: dict, prefix: str = "") -> dict:
    """Nested options as one level of keys, such as model/z_dim."""
    items = {}
    for key, value in config.items():
        items |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def wait_for_new_second(folder: Path) -> None:
    """Wait until W&B has begun no run in `folder` in this second: it names their folders by the second and the id.

    A run that is started again within the second of its start would be written over.
    """
    while any(folder.glob(f"wandb/*run-{datetime.now():%Y%m%d_%H%M%S}-*")):
        time.sleep(0.05)


class WandbRun(WandbLogger):
    """Mirrors a run in W&B, as one W&B run however often it is started: its id lies in the run folder, as `wandb_id`.

    Nothing that W&B does stops training or changes it: where it fails, the run goes on without it and says so.
    Its name is a function of the configuration; runs that differ only in their seed are one group. W&B's own variables
    (WANDB_PROJECT, WANDB_NAME, WANDB_RUN_ID, ...) win over all of this.

    Args:
        config: The options of the run, with sections `model` and `data` and a `seed`.
        folder: The run folder, where W&B keeps its own files too, unless WANDB_DIR says otherwise.
        offline: Write to the disk only; `wandb sync` uploads it later.
    """

    def __init__(self, config: dict, folder: Path, offline: bool):
        same = sorted((key, value) for key, value in flatten(config).items() if key not in UNGROUPED_OPTIONS)
        digest = hashlib.sha256(repr(same).encode()).hexdigest()[:6]
        group = f"{config['data']['name']}-{config['model']['name']}-{digest}"
        self.recorded, self.folder = WandbRunRecord(folder), folder
        self.settings = settings(offline, INIT_SECONDS, FINISH_SECONDS)
        self.works, self.has_warned = True, False
        run_id = os.environ.get("WANDB_RUN_ID", "").strip() or self.recorded.id or secrets.token_hex(4)
        # absolute: a service of W&B that runs already has a current folder of its own
        super().__init__(save_dir=folder.resolve(), id=run_id)
        # without the arguments that Lightning adds: W&B reads its variables only where there are none
        self._wandb_init = init_options(
            **self.recorded.place,
            group=group,
            name=f"{group}-seed{config['seed']}",
            dir=os.fspath(folder.resolve()),
            id=run_id,
            resume="allow",
            settings=self.settings,
        )

    @rank_zero_only
    def open(self) -> None:
        """Opens the run; its folder exists. Where W&B does not answer, the run is written to the disk, to be uploaded.

        Raises:
            ValueError: W&B does not know who is asking, or refuses the run.
        """
        import wandb
        from wandb.errors import AuthenticationError

        known, run_id = self.recorded.id, str(self.version)
        if known and known != run_id:
            print(
                f"warning: WANDB_RUN_ID is {run_id}, and this run has been {known} in W&B: it goes on as {run_id}.",
                file=sys.stderr,
            )
        wait_for_new_second(Path(os.environ.get("WANDB_DIR") or self.folder))
        try:
            self.experiment  # noqa: B018  # opens it
        except ValueError as error:  # for the value of one of W&B's variables
            raise ValueError(f"W&B: {refusal_message(error)}") from error
        except wandb.Error as error:
            refused = isinstance(error, AuthenticationError) or not isinstance(error, wandb.CommError)
            if refused or REFUSED.search(str(error)):
                raise ValueError(f"W&B: {error} Use --wandb offline to write to the run folder alone.") from error
            reason = str(error).splitlines()[-1].removeprefix("while retrying: ")
            self._warn(f"W&B does not answer ({reason}): the run is written to the disk.")
            wandb.teardown()  # which still holds the id
            self.settings.mode, self.settings.silent = "offline", True
            self.experiment  # noqa: B018
        # only now: an id that W&B refuses takes no other's place; and in a sweep W&B may have chosen it
        self.recorded.write(self.experiment.id)
        # validation metrics have the epoch as their axis
        self.experiment.define_metric("val/*", step_metric="epoch")

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Logs numbers and pictures, unless W&B has failed before."""
        if not self.works:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # whatever it is, training goes on
            self.works = False
            self._warn(f"W&B has failed ({str(error) or type(error).__name__}), and gets nothing more.")

    @rank_zero_only
    def close(self, summary: dict[str, Any] | None = None, status: int = 0) -> None:
        """Adds final results and ends the run in W&B, where it was opened; waits a minute at most for the network."""
        if self._experiment is None or not self.works:
            return
        try:
            self.experiment.summary.update(summary or {})
            self.experiment.finish(exit_code=status)
        except Exception as error:
            self._warn(f"W&B has not got all of the run ({str(error) or type(error).__name__}).")
            return
        if not self.has_warned:
            print_sync_command([self.experiment])

    def _warn(self, what: str) -> None:
        self.has_warned = True
        folder = Path(os.environ.get("WANDB_DIR") or self.folder, "wandb")
        print(f"warning: {what} Upload it later by: wandb sync --include-online {folder}", file=sys.stderr)


def close_wandb(trainer: Trainer | None, summary: dict[str, Any] | None = None, status: int = 0) -> None:
    """Ends the W&B run of a Trainer, if it has one, with this exit status and final results."""
    for logger in trainer.loggers if trainer is not None else ():
        if isinstance(logger, WandbRun):
            logger.close(summary, status)


class MetricsCSV(Logger):
    """Keeps a row per logged step, with a column per metric, in `metrics.csv`, on the disk as soon as it is logged.

    A run that resumes at a step continues the file: rows from that step on, which the resumed run logs again, go.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = Path(folder, "metrics.csv")
        self.columns = ["step", "epoch"]
        self.row: dict[str, Any] = {}  # the last one, which more may come to
        self.start: int | None = None  # where it begins in the file, if it is there

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        return self.path

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml has them."""

    @rank_zero_only
    def drop_rows_from(self, step: int) -> None:
        """Drops the rows of earlier work at `step` and later, which will be logged again."""
        if not self.path.exists():
            return
        self.rewrite([row for row in self.read() if int(row["step"]) < step])

    def read(self) -> list[dict[str, Any]]:
        """The rows of the file, if there is one, but for a last one that a full disk or a crash has cut."""
        content = self.path.read_text() if self.path.exists() else ""
        return list(csv.DictReader(content[: content.rfind("\n") + 1].splitlines()))

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Writes the file anew, with all columns known by now."""
        self.columns = list(dict.fromkeys([*self.columns, *(key for row in rows for key in row)]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.row.get("step") != step:
            self.row, self.start = {}, None
        self.row |= {"step": step, **metrics}
        if not self.path.exists() or self.row.keys() - set(self.columns):
            self.rewrite([*self.read()[: None if self.start is None else -1], self.row])
            self.start = self.path.read_bytes().rstrip().rfind(b"\n") + 1
            return
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns).writerow(self.row)
        with with_filename(self.path), self.path.open("r+b") as file:
            self.start = file.seek(0, os.SEEK_END) if self.start is None else file.seek(self.start)
            file.truncate()
            file.write(text.getvalue().encode())
