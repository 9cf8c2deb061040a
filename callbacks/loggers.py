"""Loggers of a run: `metrics.csv` in the run folder, and W&B if it is switched on."""

import csv
import hashlib
import io
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from callbacks.wandb_environment import (
    WandbRunRecord,
    init_options,
    print_sync_command,
    refusal_message,
    settings,
    warn_about_overridden,
)
from runtime.atomic_write import atomic_write, with_filename

# Options in which runs of one W&B group may differ: they do not change the experiment
UNGROUPED_OPTIONS = {
    "seed",
    "wandb/mode",
    "wandb/project",
    "wandb/entity",
    "wandb/tags",
    "wandb/notes",
    "callbacks",
    "num_samples",
    "limit",
    "save_every_steps",
    "save_every_minutes",
    "steps_per_call",
    "cuda_graph",
    "threads",
    "figure_format",
    "figure_dpi",
    "data/root",
    "trainer/accelerator",
}
INIT_SECONDS, FINISH_SECONDS = 10.0, 60.0  # timeouts for W&B before and after training
REFUSED = re.compile(r"returned error 4\d\d")  # W&B's message when the server answered and refused the request


def flatten(config: dict, prefix: str = "") -> dict:
    """Return nested options as a flat dictionary with keys such as `model/z_dim`."""
    items = {}
    for key, value in config.items():
        items |= flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def wait_for_new_second(folder: Path) -> None:
    """Wait until no W&B run in `folder` started in the current second.

    W&B names run folders by second and id, so a run restarted within the same second would overwrite its folder.
    """
    while any(folder.glob(f"wandb/*run-{datetime.now():%Y%m%d_%H%M%S}-*")):
        time.sleep(0.05)


class WandbRun(WandbLogger):
    """Mirror a run in W&B, as a single W&B run across resumes: its id is stored in the run folder as `wandb_id`.

    A failure of W&B never stops or changes training: the run continues without W&B and prints a warning. The W&B name
    and group are functions of the configuration; runs that differ only in their seed share a group. W&B's environment
    variables (WANDB_PROJECT, WANDB_NAME, WANDB_RUN_ID, ...) take precedence.

    Args:
        config: The options of the run, with sections `model` and `data` and a `seed`. Section `wandb` has the
            project, entity, tags and notes of the W&B run, each of them None or missing if not given.
        folder: The run folder, where W&B also writes its files unless WANDB_DIR is set.
        offline: Write to disk only, for a later upload by `wandb sync`.
    """

    def __init__(self, config: dict, folder: Path, offline: bool):
        grouped = sorted((key, value) for key, value in flatten(config).items() if key not in UNGROUPED_OPTIONS)
        digest = hashlib.sha256(repr(grouped).encode()).hexdigest()[:6]
        group = f"{config['data']['name']}-{config['model']['name']}-{digest}"
        self.recorded, self.folder = WandbRunRecord(folder), folder
        self.settings = settings(offline, INIT_SECONDS, FINISH_SECONDS)
        self.works, self.has_warned = True, False
        run_id = os.environ.get("WANDB_RUN_ID", "").strip() or self.recorded.id or secrets.token_hex(4)
        # absolute: a W&B service that is already running has another working directory
        super().__init__(save_dir=folder.resolve(), id=run_id)
        # replaces Lightning's arguments: W&B reads an environment variable only if its argument is not given
        self.options = {name: config["wandb"].get(name) for name in ("project", "entity", "tags", "notes")}
        self.place = self.recorded.place_in_use(self.options["project"], self.options["entity"])
        self._wandb_init = init_options(
            **self.place,
            tags=self.options["tags"],
            notes=self.options["notes"],
            group=group,
            name=f"{group}-seed{config['seed']}",
            dir=os.fspath(folder.resolve()),
            id=run_id,
            resume="allow",
            settings=self.settings,
        )

    @rank_zero_only
    def open(self) -> None:
        """Open the W&B run. The run folder must exist. If W&B does not answer, write to disk for a later upload.

        Raises:
            ValueError: Authentication failed, or W&B refuses the run.
        """
        import wandb
        from wandb.errors import AuthenticationError

        recorded_id, run_id = self.recorded.id, str(self.version)
        if recorded_id and recorded_id != run_id:
            print(
                f"warning: This run was {recorded_id} in W&B, but WANDB_RUN_ID is {run_id}: it continues as {run_id}.",
                file=sys.stderr,
            )
        if recorded_id and self.place != self.recorded.place:
            old, new = ("/".join(place[key] for key in sorted(place)) for place in (self.recorded.place, self.place))
            print(f"warning: This run was in {old} of W&B: it continues in {new}.", file=sys.stderr)
        warn_about_overridden(self.options)
        wait_for_new_second(Path(os.environ.get("WANDB_DIR") or self.folder))
        try:
            self.experiment  # noqa: B018  # the property opens the run
        except ValueError as error:  # a WANDB_ variable has an invalid value
            raise ValueError(f"W&B: {refusal_message(error)}") from error
        except wandb.Error as error:
            refused = isinstance(error, AuthenticationError) or not isinstance(error, wandb.CommError)
            if refused or REFUSED.search(str(error)):
                raise ValueError(f"W&B: {error} Use --wandb offline to write to the run folder alone.") from error
            self._open_offline(str(error).splitlines()[-1].removeprefix("while retrying: "))
        except Exception as error:  # the service of W&B has ended, or that of WANDB_SERVICE
            self._open_offline(str(error))
        # After opening: an id that W&B refuses must not replace the recorded one, and in a sweep W&B chooses the id.
        self.recorded.write(self.experiment.id, self.place)
        with self._until_failure():
            for plotted_over_epochs in ("val/*", "figures/*"):
                self.experiment.define_metric(plotted_over_epochs, step_metric="epoch")

    def _open_offline(self, reason: str) -> None:
        """Open the run on disk, after W&B has failed to open it online."""
        import wandb

        self._warn(f"W&B does not answer ({reason}): the run is written to disk.")
        with suppress(Exception):  # the service may have ended
            wandb.teardown()  # the service still holds the run id
        os.environ.pop("WANDB_SERVICE", None)  # names a service that does not answer
        self.settings.mode, self.settings.silent = "offline", True
        self.experiment  # noqa: B018

    @contextmanager
    def _until_failure(self) -> Iterator[None]:
        """Context of a call of W&B. After an error, print a warning and send nothing more."""
        try:
            yield
        except Exception as error:  # no error of W&B may stop training
            self.works = False
            self._warn(f"W&B has failed ({str(error) or type(error).__name__}): nothing more is sent to it.")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the configuration, unless W&B has failed before."""
        if not self.works:
            return
        with self._until_failure():
            super().log_hyperparams(params, *args, **kwargs)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log metrics and images, unless W&B has failed before."""
        if not self.works:
            return
        with self._until_failure():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def close(
        self,
        summary: dict[str, Any] | None = None,
        status: int = 0,
        outputs: Sequence[Callable[[Any], None]] = (),
    ) -> None:
        """Add final results and finish the W&B run if it is open; wait at most a minute for the network.

        Args:
            summary: Results by name.
            status: Exit status of the run.
            outputs: Functions that each add something to the W&B run, such as an artifact. After an error, the
                following ones are not called: the network may have failed, which each of them would wait for.
        """
        if self._experiment is None or not self.works:
            return
        errors = []
        try:
            self.experiment.summary.update(summary or {})
            for add_to in outputs:
                add_to(self.experiment)
        except Exception as error:  # no error of W&B may change how the run ends
            errors.append(error)
        try:
            self.experiment.finish(exit_code=status)
        except Exception as error:
            errors.append(error)
        if errors:
            reason = " ".join(str(errors[0]).split()) or type(errors[0]).__name__
            self._warn(f"W&B has not received the whole run ({reason}).")
        if not self.has_warned:
            print_sync_command([self.experiment])

    def _warn(self, problem: str) -> None:
        self.has_warned = True
        folder = Path(os.environ.get("WANDB_DIR") or self.folder, "wandb")
        print(f"warning: {problem} Upload it later by: wandb sync --include-online {folder}", file=sys.stderr)


def close_wandb(
    trainer: Trainer | None,
    summary: dict[str, Any] | None = None,
    status: int = 0,
    outputs: Sequence[Callable[[Any], None]] = (),
) -> None:
    """Finish the W&B run of a Trainer, if it has one; the other arguments are those of `WandbRun.close`."""
    for logger in trainer.loggers if trainer is not None else ():
        if isinstance(logger, WandbRun):
            logger.close(summary, status, outputs)


class MetricsCSV(Logger):
    """Write a row per logged step, with a column per metric, to `metrics.csv` as soon as it is logged.

    A resumed run continues the file; rows from its first step on are dropped, because it logs them again.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = Path(folder, "metrics.csv")
        self.columns = ["step", "epoch"]
        self.row: dict[str, Any] = {}  # the last row, to which further metrics of the same step are added
        self.start: int | None = None  # byte offset of the last row in the file, None if it is not written yet

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
        """Do nothing: config.yaml in the run folder holds the options."""

    @rank_zero_only
    def drop_rows_from(self, step: int) -> None:
        """Drop the rows at `step` and later, which the resumed run logs again."""
        if not self.path.exists():
            return
        self.rewrite([row for row in self.read() if int(row["step"]) < step])

    def read(self) -> list[dict[str, Any]]:
        """Return the complete rows of the file; a last row that a full disk or a crash has cut off is left out."""
        content = self.path.read_text() if self.path.exists() else ""
        return list(csv.DictReader(content[: content.rfind("\n") + 1].splitlines()))

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Rewrite the file with all columns known so far."""
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
