"""evaluation/label_counts.py: which runs make one point of the chart of errors over label counts."""

from pathlib import Path

import pytest

from evaluation import report
from evaluation.label_counts import label_curves
from evaluation.schema import ComparedEvaluation
from figures.charts import LabelPoint


def run(num_labels, error, labels="a", model="M2", checkpoint="best", data="MNIST", **more):
    """The result of a run, which has the labels of the draw `labels`."""
    options = {"data.num_labels": num_labels, **more.pop("options", {})}
    return ComparedEvaluation(
        model=model,
        data=data,
        protocol=more.pop("protocol", "dynamic"),
        test_error=error,
        test_error_images=10_000,
        labels_hash=f"{num_labels}{labels}",
        options={name: value for name, value in options.items() if value is not None},
        checkpoint=f"run/checkpoints/{checkpoint}.ckpt",
        **more,
    )


def own(results):
    (curves,) = label_curves(results).values()
    return {curve.name: list(curve.points) for curve in curves if not curve.is_published}


def test_points_are_means_over_label_draws():
    draws = [run(100, 0.1, "a"), run(100, 0.2, "b", options={"data.label_seed": 1}), run(600, 0.05)]
    ((name, points),) = own(draws).items()
    assert name == "M2 (1 to 2 draws)"
    assert points == [LabelPoint(100, pytest.approx(0.15), pytest.approx(0.05)), LabelPoint(600, 0.05)]


def test_runs_on_the_same_labels_count_once():
    runs = [run(100, 0.1), run(100, 0.2, seed=1), run(100, 0.35, "b"), run(600, 0.05)]
    (points,) = own(runs).values()
    assert points[0] == LabelPoint(100, pytest.approx(0.25), pytest.approx(0.1))


@pytest.mark.parametrize("other", [{"options": {"alpha": 1.0}}, {"checkpoint": "last"}, {"epochs": 3}])
def test_other_settings_are_a_point_of_their_own(other):
    (points,) = own([run(100, 0.1), run(100, 0.2, "b", **other), run(600, 0.05)]).values()
    assert [point.num_labels for point in points] == [100, 100, 600]
    assert {point.se for point in points} == {None}


def test_models_and_pixels_are_curves_of_their_own():
    runs = [run(600, 0.1), run(100, 0.1, model="M1M2"), run(100, 0.05, model="M1M2", label_pixels="grey")]
    assert [*own(runs)] == ["M2 (1 draw)", "M1M2 (1 draw)", "M1M2, grey pixels (1 draw)"]


def test_there_is_a_chart_for_data_with_several_label_counts():
    assert label_curves([run(100, 0.1), run(100, 0.2, "b"), run(600, 0.1, data="Digits")]) == {}
    assert label_curves([run(100, 0.1), run(None, 0.01), run(600, None)]) == {}
    charts = label_curves([run(n, 0.1, data=data) for n in (50, 100) for data in ("MNIST", "Digits")])
    assert [title.split(":")[0] for title in charts] == ["Digits, protocol dynamic", "MNIST, protocol dynamic"]
    digits, mnist = charts.values()
    assert not any(curve.is_published for curve in digits)
    assert sum(curve.is_published for curve in mnist) > 5


def test_published_errors_are_those_of_table_1():
    (curves,) = label_curves([run(100, 0.1), run(600, 0.1)]).values()
    published = {curve.name: {point.num_labels: point for point in curve.points} for curve in curves}
    stack = published["M1M2, Kingma et al. (2014)"]
    assert {count: (100 * point.error, 100 * point.se) for count, point in stack.items()} == {
        100: pytest.approx((3.33, 0.14)),
        600: pytest.approx((2.59, 0.05)),
        1000: pytest.approx((2.40, 0.02)),
        3000: pytest.approx((2.18, 0.04)),
    }
    assert published["NN, Kingma et al. (2014)"][3000] == LabelPoint(3000, 0.0604, None)


def test_the_report_has_the_chart(tmp_path):
    report.write_report(tmp_path, [run(100, 0.1), run(600, 0.05)], [])
    assert (tmp_path / "error_over_labels.png").is_file()
    report.write_report(tmp_path, [run(n, 0.1, data=data) for n in (50, 100) for data in ("MNIST", "Digits")], [])
    names = {path.name for path in Path(tmp_path).glob("error*")}
    assert names == {"error_over_labels_1.png", "error_over_labels_2.png"}, "that of the earlier report is deleted"
