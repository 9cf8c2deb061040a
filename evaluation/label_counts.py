"""Test errors of several runs over the number of labels, with published ones."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from evaluation.over_seeds import SEED_OPTIONS
from evaluation.published import published_results
from evaluation.schema import ComparedEvaluation
from evaluation.tables import data_name
from figures.charts import LabelCurve, LabelPoint

NUM_LABELS = "data.num_labels"


def label_curves(results: Sequence[ComparedEvaluation]) -> dict[str, list[LabelCurve]]:
    """Return the curves of test error over the number of labels, by the title of their chart.

    There is one chart for each data set and protocol with runs on at least two numbers of labels. On MNIST, the
    published errors are in it too. Runs that know all labels are left out.

    Args:
        results: From `comparisons.with_comparisons`.
    """
    by_data = defaultdict(list)
    for result in results:
        if result.test_error is not None and result.options.get(NUM_LABELS):
            by_data[data_name([result]), result.protocol].append(result)
    charts = {}
    for (data, protocol), group in sorted(by_data.items()):
        if len({result.options[NUM_LABELS] for result in group}) > 1:
            images = max(result.test_error_images or 0 for result in group)
            title = (
                f"{data}, protocol {protocol}: error on {images} test images, mean ± standard error over label draws"
            )
            charts[title] = own_curves(group) + (published_curves() if data == "MNIST" else [])
    return charts


def own_curves(results: Sequence[ComparedEvaluation]) -> list[LabelCurve]:
    """Return one curve for each model and kind of pixels that it predicts labels from.

    Args:
        results: Results with a test error and a number of labels, of the same test images.
    """
    groups = defaultdict(list)
    for result in results:
        groups[result.model, result.label_pixels or ""].append(result)
    curves = []
    for (model, pixels), group in groups.items():
        errors = errors_by_draw(group)
        points = [mean_point(num_labels, list(draws.values())) for (num_labels, *_), draws in errors.items()]
        curves.append(LabelCurve(name(model, pixels, [*map(len, errors.values())]), model, points))
    return curves


def errors_by_draw(results: Sequence[ComparedEvaluation]) -> dict[tuple, dict[str, list[float]]]:
    """Return the errors of the runs of each draw of labels, for each number of labels and settings.

    Returns:
        Errors by the settings of the runs, whose first entry is the number of labels, and by the hash of the labels.
    """
    errors: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.test_error is None:
            continue
        options = {name: value for name, value in result.options.items() if name not in SEED_OPTIONS}
        same = options[NUM_LABELS], str(sorted(options.items())), Path(result.checkpoint).name, result.epochs
        errors[same][result.labels_hash or result.checkpoint].append(result.test_error)
    return errors


def name(model: str, pixels: str, draws: Sequence[int]) -> str:
    """Return the name of a curve: "M1M2, grey pixels (3 draws)".

    Args:
        model: Name of the model.
        pixels: Pixels that it predicts labels from; empty if unknown.
        draws: Number of label draws of each point.
    """
    low, high = min(draws), max(draws)
    count = f"{low} to {high} draws" if low < high else f"{low} draws" if low > 1 else "1 draw"
    return f"{', '.join(filter(None, [model, pixels and f'{pixels} pixels']))} ({count})"


def mean_point(num_labels: int, draws: Sequence[list[float]]) -> LabelPoint:
    """Return the point of a number of labels: the mean of the error over draws, and its standard error.

    Args:
        num_labels: Number of labels.
        draws: Errors of the runs of each draw. Runs with the same labels are not independent and count once.
    """
    means = [fmean(draw) for draw in draws]
    return LabelPoint(num_labels, fmean(means), stdev(means) / len(means) ** 0.5 if len(means) > 1 else None)


def published_curves() -> list[LabelCurve]:
    """Return the published errors on MNIST, one curve for each model and source."""
    curves = defaultdict(list)
    for paper in published_results():
        if paper.quantity == "test_error":
            model, source = paper.settings["model"], paper.source.partition(", ")[0]
            curves[model, source].append(LabelPoint(paper.settings["labels"], paper.value, paper.se))
    return [
        LabelCurve(f"{model}, {source}", model, found, is_published=True) for (model, source), found in curves.items()
    ]
