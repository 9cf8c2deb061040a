"""Means and standard errors over runs that differ only in their seeds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from cli.terminal import FILE, Screen, lay_out, wrapped
from evaluation.schema import Evaluation
from evaluation.tables import Table, comparison_key, data_name, plus_minus, rows
from runtime.hparams import run_options
from runtime.run_folder import run_name

# Options that do not set runs apart: the label draw is a seed, and the steps per call do not change the steps
SEED_OPTIONS = ("data.seed", "data.label_seed")
COLUMNS = ("group", "n", "NLL", "K", "test error", "ECE", "AIS NLL")
NONE = "-"  # the cell of a value that a group does not have; a column without values is left out
# Order in which columns are kept on a narrow terminal
IMPORTANCE = ("group", "NLL", "AIS NLL", "test error", "n", "ECE", "K")


@dataclass(frozen=True)
class SeedMean:
    """Mean results of a group of runs, or of a classifier fitted for comparison with each of them.

    The fields are the keys of a report's `over_seeds.json`.

    Args:
        about: The quantity, or the criterion of a model without a likelihood.
        data: Name of the data set and its variant.
        protocol: How pixels are binarized.
        num_images: Number of test images.
        group: Name of the group.
        n: Number of independent values that the mean is over.
        runs: Names of the runs.
        nll: Mean NLL in nats per image.
        nll_se: Its standard error over seeds.
        num_samples: The values of K in the group.
        ais_nll: Mean NLL by AIS in nats per image.
        ais_nll_se: Its standard error over seeds.
        test_error: Mean test error, a fraction.
        test_error_se: Its standard error over seeds.
        calibration_error: Mean expected calibration error, a fraction.
        calibration_error_se: Its standard error over seeds.
        over: What the mean and its standard error are over: `seeds`, or `label draws` if the runs have different
            labels.
    """

    about: str
    data: str
    protocol: str
    num_images: int
    group: str
    n: int
    runs: list[str]
    nll: float | None
    nll_se: float | None
    num_samples: list[int]
    test_error: float | None
    test_error_se: float | None
    ais_nll: float | None = None
    ais_nll_se: float | None = None
    calibration_error: float | None = None
    calibration_error_se: float | None = None
    over: str = "seeds"

    def to_dict(self) -> dict[str, Any]:
        """Return the keys and values of `over_seeds.json`."""
        return asdict(self)


class Seeds(NamedTuple):
    """Everything random in a run.

    Args:
        run: `--seed`.
        split: `--data.seed`.
        labels: The seed of the label draw, `--data.label_seed` or by default `--data.seed`.
        has_label_draw: Whether the run keeps some labels only.
    """

    run: int | None
    split: int | None
    labels: int | None
    has_label_draw: bool


def seeds(checkpoint: dict) -> Seeds:
    """Return everything random in a run."""
    options = checkpoint.get("datamodule_hyper_parameters", {})
    split, labels = options.get("seed"), options.get("label_seed")
    return Seeds(
        run=checkpoint["run"].get("seed"),
        split=split,
        labels=split if labels is None else labels,
        has_label_draw=options.get("num_labels") is not None,
    )


def settings(checkpoint: dict, path: str) -> dict[str, str]:
    """Return the settings that runs of one group share. M1s of M1+M2 are not compared: each label draw has its own."""
    options = {name: value for name, value in run_options(checkpoint).items() if name not in SEED_OPTIONS}
    options |= {"model": checkpoint["model"], "checkpoint": Path(path).name}
    if (processes := checkpoint["run"].get("processes", 1)) > 1:  # the batch size is per process
        options["processes"] = processes
    return {name: str(value) for name, value in options.items()}


def mean_and_se(values: list[list[float | None]]) -> tuple[float | None, float | None]:
    """Return mean and standard error over at least two parts, each the mean of its values; None if one is missing."""
    if any(None in part for part in values):
        return None, None
    parts = [fmean([value for value in part if value is not None]) for part in values]
    return fmean(parts), stdev(parts) / len(parts) ** 0.5


def group_by_draw(drawn: Sequence[Seeds]) -> list[list[int]]:
    """Group the positions of runs by split and label draw; if all share both, each run is a group.

    Runs with the same labels are not independent, so that each draw of labels counts once.

    Args:
        drawn: The `seeds` of each run.
    """
    parts = defaultdict(list)
    for position, run_seeds in enumerate(drawn):
        parts[run_seeds.split, run_seeds.labels].append(position)
    return list(parts.values()) if len(parts) > 1 else [[position] for position in range(len(drawn))]


def randomness(drawn: Sequence[Seeds]) -> str:
    """Return what the runs of a group differ in: `label draws`, or `seeds` if all have the same labels."""
    draws = {(run_seeds.split, run_seeds.labels) for run_seeds in drawn if run_seeds.has_label_draw}
    return "label draws" if len(draws) > 1 else "seeds"


def names(groups: list[dict[str, str]]) -> list[str]:
    """Name each group by its model and by the options in which groups of this model differ."""
    result = []
    for group in groups:
        alike = [other for other in groups if other["model"] == group["model"]]
        differs = [key for key in group if key != "model" and len({other.get(key) for other in alike}) > 1]
        result.append(", ".join([group["model"], *(f"{key} {group[key]}" for key in differs)]))
    return result


def over_seeds(results: Sequence[Evaluation], checkpoints: Sequence[dict]) -> list[SeedMean]:
    """Return the means of each group of at least two runs that differ only in their seeds.

    Runs with equal seeds and settings must differ in something that a checkpoint does not store, such as the number of
    epochs. A group with such runs has no mean.

    Args:
        results: Evaluations.
        checkpoints: The checkpoint of each.
    """
    groups = defaultdict(list)
    for result, checkpoint in zip(results, checkpoints, strict=True):
        same = settings(checkpoint, result.checkpoint)
        groups[comparison_key(result), json.dumps(same, sort_keys=True)].append((result, seeds(checkpoint)))
    means = []
    for _, same_kind in groupby(sorted(groups), key=lambda key: key[0]):
        keys = list(same_kind)
        for key, name in zip(keys, names([json.loads(same) for _, same in keys]), strict=True):
            runs, drawn = zip(*groups[key], strict=True)
            if len(runs) > 1 and len(set(drawn)) == len(runs):
                means += group_means(name, runs, group_by_draw(drawn), randomness(drawn))
    return means


def group_means(name: str, runs: Sequence[Evaluation], parts: list[list[int]], over: str) -> list[SeedMean]:
    """Return the means of a group: of its model, and of each classifier fitted for comparison.

    Args:
        name: Name of the group.
        runs: Its evaluations.
        parts: Positions of the runs in each independent part.
        over: What the means are over, see `SeedMean`.
    """
    key = comparison_key(runs[0])
    means = []
    for same in zip(*map(rows, runs), strict=True):
        statistics: dict[str, Any] = {}
        for field in ("nll", "test_error", "ais_nll", "calibration_error"):
            values = [[getattr(same[position], field) for position in part] for part in parts]
            statistics[field], statistics[f"{field}_se"] = mean_and_se(values)
        if all(value is None for value in statistics.values()):
            continue
        means.append(
            SeedMean(
                about=key.about,
                data=data_name(runs),
                protocol=key.protocol,
                num_images=key.num_images,
                group=name if same[0] in runs else f"{same[0].model} of {name}",
                n=len(parts),
                runs=[run_name(run.checkpoint) for run in same],
                num_samples=sorted({run.num_samples for run in same if run.nll is not None}),
                over=over,
                **statistics,
            )
        )
    return means


def mean_tables(means: Sequence[SeedMean]) -> list[Table]:
    """Return the tables of means over seeds, one for each kind of result."""

    def kind(mean: SeedMean) -> tuple:
        return mean.about, mean.data, mean.protocol, mean.num_images

    tables = []
    for (about, data, protocol, n), same_kind in groupby(means, kind):
        group = list(same_kind)
        over = " or ".join(sorted({mean.over for mean in group}))
        title = f"{data}, protocol {protocol}: {about} of {n} test images, mean ± standard error over {over}"
        lines = [cells(mean) for mean in group]
        columns = [name for name in COLUMNS if any(line[name] != NONE for line in lines)]
        tables.append(Table(title, columns, [[line[name] for name in columns] for line in lines], [], IMPORTANCE))
    return tables


def as_text(means: Sequence[SeedMean], screen: Screen = FILE) -> str:
    """Lay out means as text tables, one for each kind of result."""
    parts = []
    for table in mean_tables(means):
        lines = lay_out(table.columns, table.lines, screen, table.importance)
        parts += [*wrapped(table.title, screen), *lines, ""]
    return "\n".join(parts)


def cells(mean: SeedMean) -> dict[str, str]:
    """Return one line of `mean_tables` by the names of its columns."""
    runs = len(mean.runs)
    n = str(runs) if runs == mean.n else f"{mean.n} draws of {runs} runs"
    return {
        "group": mean.group,
        "n": n,
        "NLL": value_and_se(mean.nll, mean.nll_se, ".2f"),
        "K": ", ".join(map(str, mean.num_samples)) or NONE,
        "test error": value_and_se(mean.test_error, mean.test_error_se, ".2%"),
        "ECE": value_and_se(mean.calibration_error, mean.calibration_error_se, ".2%"),
        "AIS NLL": value_and_se(mean.ais_nll, mean.ais_nll_se, ".2f"),
    }


def value_and_se(value: float | None, se: float | None, form: str) -> str:
    """Return the cell of a mean and its standard error."""
    return NONE if value is None else plus_minus(value, se, form)
