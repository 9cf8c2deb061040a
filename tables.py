"""Results of evaluate.py as text: a table of all runs, and means over runs that differ in their seeds alone."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev

from models import MODELS


def run_folder(path: Path) -> Path:
    """The run folder of a checkpoint."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def run_name(result: dict) -> str:
    """The run folder, and which of its checkpoints where that is not the best."""
    path = Path(result["checkpoint"])
    return f"{run_folder(path)}" if path.stem == "best" else f"{run_folder(path)} ({path.stem})"


def plus_minus(mean: float, se: float | None, form: str) -> str:
    """A mean and its standard error, where there is one."""
    return f"{mean:{form}}" + (f" ± {se:{form}}" if se is not None else "")


# Each with the key of a result without which its cell is empty
COLUMNS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "run": ("checkpoint", run_name),
    "model": ("model", lambda r: r["model"]),
    "NLL ± SE": ("nll", lambda r: plus_minus(r["nll"], r["nll_se"], ".2f")),
    "bf16 - fp32": ("bf16_bias", lambda r: plus_minus(r["bf16_bias"], r["bf16_bias_se"], ".4f")),
    "K": ("num_samples", lambda r: str(r["num_samples"])),
    "ELBO": ("elbo", lambda r: f"{r['elbo']:.2f}"),
    "rate": ("rate", lambda r: f"{r['rate']:.2f}"),
    "distortion": ("distortion", lambda r: f"{r['distortion']:.2f}"),
    "active units": ("active_units_per_layer", lambda r: "+".join(map(str, r["active_units_per_layer"]))),
    "ESS": ("ess_median", lambda r: f"{r['ess_median']:.1f}"),
    "loss": ("loss", lambda r: f"{r['loss']:.2f}"),
    "test error": ("test_error", lambda r: f"{r['test_error']:.2%}"),
}


def kind(result: dict) -> tuple[str, str, str, int]:
    """What a result is about. Results of different kinds are never compared in one table."""
    data = f"NPZ {result['data_root']}" if result["data"] == "NPZ" else result["data"]
    data += f" {result['variant']}" if result["variant"] else ""
    about = result["quantity"] or f"{result['criterion']}, summed over pixels,"
    return about, data, result["protocol"], result["num_images"] or 0


def rows(result: dict) -> list[dict]:
    """The row of a model, and those of the classifiers beside it, which have nothing but a test error."""
    baselines = (result["baselines"] or {}).items()
    return [
        result,
        *({"checkpoint": result["checkpoint"], "model": name, "test_error": error} for name, error in baselines),
    ]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def title(results: Sequence[dict]) -> str:
    """What the numbers of a table are, from results of one kind."""
    about, data, protocol, num_images = kind(results[0])
    classified = max(result["test_error_images"] or 0 for result in results)
    error = f"; test error of {classified} test images" if classified else ""
    unit = "; nats per image" if results[0]["quantity"] else " (no likelihood)"
    return f"{data}, protocol {protocol}: {about} of {num_images} test images{unit}{error}"


def tables(results: list[dict]) -> str:
    """All results as text: one table for each quantity, data set, protocol and number of images; then those of content
    and pose."""
    parts = []
    for _, group in groupby(sorted(results, key=kind), key=kind):
        group = list(group)
        listed = [row for result in group for row in rows(result)]
        columns = [name for name, (key, _) in COLUMNS.items() if any(row.get(key) is not None for row in listed)]
        lines = [
            [cell(row) if row.get(key) is not None else "-" for key, cell in map(COLUMNS.get, columns)]
            for row in listed
        ]
        parts += [title(group), *aligned([columns, *lines]), ""]
    return "\n".join([*parts, *disentangled(results)])


# Each measure of content and pose with its key and how it is written
MEASURES: dict[str, tuple[str, str]] = {
    "angle r": ("angle_correlation", ".3f"),
    "shift r": ("shift_correlation", ".3f"),
    "scale r": ("scale_correlation", ".3f"),
    "change r": ("change_correlation", ".3f"),
    "equivariance (°)": ("equivariance_error", ".1f"),
    "canonical var.": ("canonical_variance", ".2f"),
    "reconstr. var.": ("reconstruction_variance", ".2f"),
    "k-means": ("kmeans_accuracy", ".2%"),
    "angle R²": ("angle_r2", ".3f"),
}


def disentangled(results: Sequence[dict]) -> list[str]:
    """The lines of tables of how well models tell content from pose, one for each data set and its moves."""

    def about(result: dict) -> str:
        _, data, protocol, _ = kind(result)
        moved = "" if result["variant"] else f", {result['moved']} for this"
        return f"{data}, protocol {protocol}: content and pose of all test images{moved}"

    found = sorted((result for result in results if result["disentanglement"]), key=about)
    parts = []
    for what, group in groupby(found, key=about):
        measured = [(result, result["disentanglement"]) for result in group]
        lines = [
            [run_name(result), result["model"]]
            + [f"{values[key]:{form}}" if values.get(key) is not None else "-" for key, form in MEASURES.values()]
            for result, values in measured
        ]
        parts += [what, *aligned([("run", "model", *MEASURES), *lines]), ""]
    return parts


# Means over seeds


def seeds(checkpoint: dict) -> tuple:
    """What the draws of a run depend on: `--seed` and `--data.seed`."""
    return checkpoint["run"]["seed"], checkpoint["datamodule_hyper_parameters"].get("seed")


def settings(checkpoint: dict, path: str) -> dict[str, str]:
    """What runs have in common that differ in their seeds alone. Each label draw of M1+M2 has an M1 of its own."""
    model, data = checkpoint["hyper_parameters"], checkpoint["datamodule_hyper_parameters"]
    drawn = ("m1", "m1_options", "kept", *MODELS[checkpoint["model"]].from_data)
    found = {key: value for key, value in model.items() if key not in drawn}
    found |= {f"m1.{key}": value for key, value in model.get("m1_options", {}).items()}
    found |= {f"data.{key}": value for key, value in data.items() if key not in ("seed", "root")}
    found |= {"model": checkpoint["model"], "checkpoint": Path(path).name}
    if (processes := checkpoint["run"].get("processes", 1)) > 1:  # each has batches of its own
        found["processes"] = processes
    return {key: str(list(value) if isinstance(value, tuple) else value) for key, value in found.items()}


def mean(values: list[list[float | None]], form: str) -> str:
    """Mean and standard error over at least two parts, each the mean of its values; a dash where there are none."""
    if any(None in part for part in values):
        return "-"
    parts = [fmean(part) for part in values]
    return f"{fmean(parts):{form}} ± {stdev(parts) / len(parts) ** 0.5:{form}}"


def by_draw(drawn: Sequence[tuple]) -> list[list[int]]:
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


def means(results: list[dict], checkpoints: list[dict]) -> str:
    """Means and standard errors of each group of runs that differ in their seeds alone; nothing without a group.

    Runs with the same seeds differ in something that a checkpoint does not know, such as the number of epochs: a group
    with such runs has no mean.
    """
    groups = defaultdict(list)
    for result, checkpoint in zip(results, checkpoints, strict=True):
        same = settings(checkpoint, result["checkpoint"])
        groups[kind(result), json.dumps(same, sort_keys=True)].append((result, seeds(checkpoint)))
    parts = []
    for about, keys in groupby(sorted(groups), key=lambda key: key[0]):
        keys = list(keys)
        lines = []
        for key, name in zip(keys, names([json.loads(same) for _, same in keys]), strict=True):
            runs, drawn = zip(*groups[key], strict=True)
            if len(runs) > 1 and len(set(drawn)) == len(runs):
                lines += group_lines(name, runs, by_draw(drawn))
        if lines:
            parts.append(f"{about[1]}, protocol {about[2]}: mean ± standard error over seeds")
            parts += [*aligned([("group", "n", "NLL", "test error"), *lines]), ""]
    return "\n".join(parts)


def group_lines(name: str, runs: Sequence[dict], parts: list[list[int]]) -> list[tuple[str, str, str, str]]:
    """The cells of a group, in independent parts: of its model, and of each classifier beside it."""
    n = str(len(runs)) if len(runs) == len(parts) else f"{len(parts)} draws of {len(runs)} runs"
    found = []
    for same in zip(*map(rows, runs), strict=True):
        label = name if same[0] in runs else f"{same[0]['model']} of {name}"
        nll, error = (
            mean([[same[position].get(key) for position in part] for part in parts], form)
            for key, form in (("nll", ".2f"), ("test_error", ".2%"))
        )
        found.append((label, n, nll, error))
    return [line for line in found if line[2:] != ("-", "-")]
