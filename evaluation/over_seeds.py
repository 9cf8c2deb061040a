"""Means over runs that differ in their seeds alone."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev

from cli.terminal import FILE, Screen, lay_out, wrapped
from evaluation.tables import comparison_key, data_name, plus_minus, rows
from runtime.hparams import run_options
from runtime.run_folder import run_name

# Draws, and how many steps one call takes, which are the same steps
SEED_OPTIONS = ("data.seed", "steps_per_call")
COLUMNS = ("group", "n", "NLL", "K", "test error")
IMPORTANCE = ("group", "NLL", "test error", "n", "K")  # of columns where not all fit the terminal


def seeds(checkpoint: dict) -> tuple:
    """What the draws of a run depend on: `--seed` and `--data.seed`."""
    return checkpoint["run"].get("seed"), checkpoint.get("datamodule_hyper_parameters", {}).get("seed")


def settings(checkpoint: dict, path: str) -> dict[str, str]:
    """What runs have in common that differ in their seeds alone. Each label draw of M1+M2 has an M1 of its own."""
    found = {name: value for name, value in run_options(checkpoint).items() if name not in SEED_OPTIONS}
    found |= {"model": checkpoint["model"], "checkpoint": Path(path).name}
    if (processes := checkpoint["run"].get("processes", 1)) > 1:  # each has batches of its own
        found["processes"] = processes
    return {name: str(value) for name, value in found.items()}


def mean_and_se(values: list[list[float | None]]) -> tuple[float | None, float | None]:
    """Mean and standard error over at least two parts, each the mean of its values; nothing where one is missing."""
    if any(None in part for part in values):
        return None, None
    parts = [fmean(part) for part in values]
    return fmean(parts), stdev(parts) / len(parts) ** 0.5


def group_by_label_seed(drawn: Sequence[tuple]) -> list[list[int]]:
    """Positions of the runs of each `--data.seed`, or each run by itself where all share one.

    Runs on the same labels are not independent: over several draws, each draw counts once.
    """
    parts = defaultdict(list)
    for position, (_, data_seed) in enumerate(drawn):
        parts[data_seed].append(position)
    return list(parts.values()) if len(parts) > 1 else [[position] for position in range(len(drawn))]


def names(groups: list[dict[str, str]]) -> list[str]:
    """A name for the settings of each group: its model, and the options in which groups of this model differ."""
    found = []
    for group in groups:
        alike = [other for other in groups if other["model"] == group["model"]]
        differs = [key for key in group if key != "model" and len({other.get(key) for other in alike}) > 1]
        found.append(", ".join([group["model"], *(f"{key} {group[key]}" for key in differs)]))
    return found


def over_seeds(results: Sequence[dict], checkpoints: Sequence[dict]) -> list[dict]:
    """Means and standard errors of each group of runs that differ in their seeds alone; nothing without a group.

    Runs with the same seeds differ in something that a checkpoint does not know, such as the number of epochs: a group
    with such runs has no mean.
    """
    groups = defaultdict(list)
    for result, checkpoint in zip(results, checkpoints, strict=True):
        same = settings(checkpoint, result["checkpoint"])
        groups[comparison_key(result), json.dumps(same, sort_keys=True)].append((result, seeds(checkpoint)))
    found = []
    for of, keys in groupby(sorted(groups), key=lambda key: key[0]):
        keys = list(keys)
        for key, name in zip(keys, names([json.loads(same) for _, same in keys]), strict=True):
            runs, drawn = zip(*groups[key], strict=True)
            if len(runs) > 1 and len(set(drawn)) == len(runs):
                shared = {
                    "about": of.about,
                    "data": data_name(runs),
                    "protocol": of.protocol,
                    "num_images": of.num_images,
                }
                found += [shared | row for row in group_rows(name, runs, group_by_label_seed(drawn))]
    return found


def group_rows(name: str, runs: Sequence[dict], parts: list[list[int]]) -> list[dict]:
    """The means of a group, in independent parts: of its model, and of each classifier beside it."""
    found = []
    for same in zip(*map(rows, runs), strict=True):
        (nll, nll_se), (error, error_se) = (
            mean_and_se([[same[position].get(key) for position in part] for part in parts])
            for key in ("nll", "test_error")
        )
        samples = sorted({run["num_samples"] for run in same if run.get("nll") is not None})
        group = name if same[0] in runs else f"{same[0]['model']} of {name}"
        found.append({"group": group, "n": len(parts), "runs": [run_name(run) for run in runs],
                      "nll": nll, "nll_se": nll_se, "num_samples": samples,
                      "test_error": error, "test_error_se": error_se})  # fmt: skip
    return [row for row in found if (row["nll"], row["test_error"]) != (None, None)]


def as_text(means: Sequence[dict], screen: Screen = FILE) -> str:
    """What `over_seeds` has found as tables for a screen, one for each kind of result."""
    parts = []
    for (about, data, protocol, n), group in groupby(means, itemgetter("about", "data", "protocol", "num_images")):
        title = f"{data}, protocol {protocol}: {about} of {n} test images, mean ± standard error over seeds"
        lines = lay_out(COLUMNS, list(map(cells, group)), screen, IMPORTANCE)
        parts += [*wrapped(title, screen), *lines, ""]
    return "\n".join(parts)


def cells(row: dict) -> tuple[str, str, str, str, str]:
    """A line of `as_text`."""
    runs = len(row["runs"])
    n = str(runs) if runs == row["n"] else f"{row['n']} draws of {runs} runs"
    nll, error = (
        "-" if row[key] is None else plus_minus(row[key], row[f"{key}_se"], form)
        for key, form in (("nll", ".2f"), ("test_error", ".2%"))
    )
    return row["group"], n, nll, ", ".join(map(str, row["num_samples"])) or "-", error
