"""Rate and distortion of runs that differ in their options, as in a sweep."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from datamodules import DATAMODULES
from evaluation.over_seeds import SEED_OPTIONS
from evaluation.schema import ComparedEvaluation
from evaluation.tables import comparison_key, data_name
from figures.rate_distortion import RateCurve, RatePoint, rate_distortion
from models import MODELS
from runtime.figure_files import FigureStyle, save_figure
from runtime.hparams import TRAINING_DEFAULTS, defaults

STEM = "rate_distortion"
GENERATED = rf"{STEM}(_\d+)?\.(png|pdf|svg)"  # figures of an earlier report are deleted
CURVE_OPTION = "beta"  # if it differs, curves are over it: they then show the trade-off of one architecture


class Chart(NamedTuple):
    """The content of one chart.

    Args:
        curves: One for each combination of the other options.
        title: Title of the figure.
        label_name: The option that curves are over; empty if no number differs.
    """

    curves: list[RateCurve]
    title: str
    label_name: str


def save_rate_distortion_charts(folder: Path, results: Sequence[ComparedEvaluation], style: FigureStyle) -> list[str]:
    """Write one figure for each kind of result with rates and different options; return the names of the files.

    Args:
        folder: Created if it is missing. Such figures of an earlier report are deleted.
        results: From `comparisons.with_comparisons`.
        style: Format and resolution of the figures.
    """
    charts = rate_distortion_charts(results)
    stems = [STEM] if len(charts) == 1 else [f"{STEM}_{number}" for number in range(1, len(charts) + 1)]
    names = [f"{stem}.{style.format}" for stem in stems]
    for name, chart in zip(names, charts, strict=True):
        save_figure(rate_distortion(*chart), folder / name, style.dpi)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names and re.fullmatch(GENERATED, path.name):
            path.unlink()
    return names


def rate_distortion_charts(results: Sequence[ComparedEvaluation]) -> list[Chart]:
    """Return a chart for each kind of result with runs that have a rate and differ in more than their seeds."""
    kinds = defaultdict(list)
    for result in results:
        if result.rate is not None and result.distortion is not None:
            kinds[comparison_key(result)].append(result)
    return [chart for _, group in sorted(kinds.items()) if (chart := chart_of(group)) is not None]


def chart_of(results: Sequence[ComparedEvaluation]) -> Chart | None:
    """Return the chart of results of one kind, or None if they differ in nothing but their seeds."""
    options = differing_options(results)
    if not options:
        return None
    along = curve_option(results, options)
    points = defaultdict(list)
    for result in results:
        points[tuple(value_text(option_value(result, option)) for option in options)].append(result)
    curves = defaultdict(list)
    for values, runs in points.items():
        other = tuple(f"{option} {text}" for option, text in zip(options, values, strict=True) if option != along)
        rate = fmean(run.rate for run in runs if run.rate is not None)  # they all have one: see the caller
        distortion = fmean(run.distortion for run in runs if run.distortion is not None)
        value = option_value(runs[0], along) if along else None
        curves[other].append((value, RatePoint(rate, distortion, value_text(value) if along else "")))
    drawn = [
        RateCurve(", ".join(other), [point for _, point in sorted(found, key=lambda pair: sort_key(pair[0]))])
        for other, found in sorted(curves.items(), key=lambda entry: [natural_key(text) for text in entry[0]])
    ]
    key = comparison_key(results[0])
    average = ", mean over seeds" if len(points) < len(results) else ""
    title = (
        f"{data_name(results)}, protocol {key.protocol}: rate and distortion of {key.num_images} test images{average}"
    )
    return Chart(drawn, title, along)


def differing_options(results: Sequence[ComparedEvaluation]) -> list[str]:
    """Return the options in which results differ, without seeds; `model` and `checkpoint` count as options."""
    names = dict.fromkeys(["model", "checkpoint", *(name for result in results for name in result.options)])
    return [
        name
        for name in names
        if name not in SEED_OPTIONS and len({value_text(option_value(result, name)) for result in results}) > 1
    ]


def option_value(result: ComparedEvaluation, name: str) -> Any:
    """Return the value of an option of a run, which is its default if the result does not list it."""
    if name == "model":
        return result.model
    if name == "checkpoint":
        return Path(result.checkpoint).stem
    if name in result.options:
        return result.options[name]
    section, _, option = name.rpartition(".")
    if section == "data":
        return defaults(DATAMODULES[result.data]).get(option) if result.data in DATAMODULES else None
    if section:
        return TRAINING_DEFAULTS.get(name)
    return defaults(MODELS[result.model]).get(name, TRAINING_DEFAULTS.get(name))


def curve_option(results: Sequence[ComparedEvaluation], options: Sequence[str]) -> str:
    """Return the option that curves are over: beta, or the number that takes most values; empty if none does."""
    values = {option: [option_value(result, option) for result in results] for option in options}
    numeric = [option for option in options if all(is_number(value) for value in values[option])]
    if CURVE_OPTION in numeric:
        return CURVE_OPTION
    return max(numeric, key=lambda option: len(set(values[option])), default="")


def is_number(value: Any) -> bool:
    """Return whether a value is a number. True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_text(value: Any) -> str:
    """Return a value as text: numbers in their shortest form, so that 1 and 1.0 are equal."""
    return f"{value:g}" if is_number(value) else str(value)


def sort_key(value: Any) -> float:
    """Return the key by which points of a curve are sorted."""
    return value if is_number(value) else 0.0


def natural_key(text: str) -> list[tuple[int, float, str]]:
    """Return a key that sorts numbers in texts by their value: `z_dim 2` before `z_dim 10`."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if number % 2 else (1, 0.0, part) for number, part in enumerate(parts)]
