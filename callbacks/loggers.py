"""Where the numbers of a run go: `metrics.csv` in the run folder always, W&B where it is switched on."""

import csv
import hashlib
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

# Options that do not make another experiment of a run
APART = {"seed", "wandb", "callbacks", "num_samples", "limit", "data/root", "trainer/accelerator", "trainer/devices"}


def flat(config: dict, prefix: str = "") -> dict:
    """Nested options as one level of keys, such as model/z_dim."""
    items = {}
    for key, value in config.items():
        items |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def wandb_logger(config: dict, folder: Path, offline: bool) -> WandbLogger:
    """A logger to W&B. Its name is a function of the configuration; runs that differ only in their seed are one group.

    Args:
        config: The options of the run, with sections `model` and `data` and a `seed`.
        folder: The run folder, where W&B keeps its own files too.
        offline: Write to the disk only; `wandb sync` uploads it later.
    """
    same = sorted((key, value) for key, value in flat(config).items() if key not in APART)
    digest = hashlib.sha256(repr(same).encode()).hexdigest()[:6]
    group = f"{config['data']['name']}-{config['model']['name']}-{digest}"
    name = f"{group}-seed{config['seed']}"
    return WandbLogger(project="elbo-room", group=group, name=name, save_dir=folder, offline=offline)


def open_wandb(logger: WandbLogger) -> None:
    """Opens the run of a logger, whose folder exists, and gives the validation metrics the epoch as their axis.

    Raises:
        ValueError: W&B cannot be reached, or does not know who is asking.
    """
    import wandb

    try:
        logger.experiment.define_metric("val/*", step_metric="epoch")
    except wandb.Error as error:
        raise ValueError(f"W&B: {error} Use --wandb offline to write to the run folder alone.") from error


class MetricsCSV(Logger):
    """Appends a row per logged step, with a column per metric, to `metrics.csv`.

    A run that resumes at a step continues the file: rows from that step on, which the resumed run logs again, go.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = Path(folder, "metrics.csv")
        self.columns = ["step", "epoch"]
        self.row: dict[str, Any] = {}

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
    def keep_before(self, step: int) -> None:
        """Drops the rows of earlier work at `step` and later, which will be logged again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        self.rewrite(rows)

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Writes the file anew, with all columns known by now."""
        self.columns = list(dict.fromkeys([*self.columns, *(key for row in rows for key in row)]))
        beside = self.path.with_suffix(".csv.tmp")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self.path)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.row and self.row["step"] != step:
            self.flush()
        self.row |= {"step": step, **metrics}

    def flush(self) -> None:
        """Writes the row of the last step; a metric that is new adds a column to the whole file."""
        row, self.row = self.row, {}
        if not row:
            return
        if not self.path.exists() or row.keys() - set(self.columns):
            rows = []
            if self.path.exists():
                with self.path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
            self.rewrite([*rows, row])
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()
