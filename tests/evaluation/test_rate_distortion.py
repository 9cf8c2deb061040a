"""evaluation/rate_distortion.py: which runs make one curve of the chart of rate and distortion."""

import pytest

from evaluation.rate_distortion import rate_distortion_charts, save_rate_distortion_charts
from evaluation.schema import ComparedEvaluation
from figures.rate_distortion import RateCurve, RatePoint
from runtime.figure_files import DEFAULT_STYLE


def run(rate, distortion=20.0, model="VAE", checkpoint="best", protocol="dynamic", data="Digits", **options):
    """The result of a run; options that are not named have their default, as in a report."""
    options = {name.replace("__", "."): value for name, value in options.items()}
    return ComparedEvaluation(
        model=model,
        data=data,
        protocol=protocol,
        quantity="log p(x)",
        num_images=250,
        rate=rate,
        distortion=None if rate is None else distortion,
        options=options,
        checkpoint=f"{rate}/checkpoints/{checkpoint}.ckpt",
    )


def test_curves_are_over_beta_in_its_order_and_named_by_the_other_options():
    runs = [run(9.0, z_dim=10, beta=0.5), run(3.0, z_dim=2, beta=2.0), run(5.0, z_dim=2), run(7.0, z_dim=10)]
    [(curves, title, label_name)] = rate_distortion_charts(runs)
    assert curves == [
        RateCurve("z_dim 2", [RatePoint(5.0, 20.0, "1"), RatePoint(3.0, 20.0, "2")]),
        RateCurve("z_dim 10", [RatePoint(9.0, 20.0, "0.5"), RatePoint(7.0, 20.0, "1")]),
    ]
    assert (title, label_name) == ("Digits, protocol dynamic: rate and distortion of 250 test images", "beta")


def test_without_beta_curves_are_over_the_number_with_most_values():
    runs = [run(rate, lr=lr, z_dim=z) for rate, lr, z in ((1.0, 0.1, 2), (2.0, 0.2, 2), (3.0, 0.3, 4))]
    [(curves, _, label_name)] = rate_distortion_charts(runs)
    assert label_name == "lr"
    assert [(curve.name, [point.label for point in curve.points]) for curve in curves] == [
        ("z_dim 2", ["0.1", "0.2"]),
        ("z_dim 4", ["0.3"]),
    ]


def test_options_that_are_no_numbers_make_curves_of_one_point():
    runs = [run(1.0), run(2.0, objective="stl"), run(4.0, model="IWAE", objective="dreg")]
    [(curves, _, label_name)] = rate_distortion_charts(runs)
    assert label_name == ""
    assert [curve.name for curve in curves] == [
        "model IWAE, objective dreg",
        "model VAE, objective elbo",
        "model VAE, objective stl",
    ]


def test_runs_that_differ_in_their_seeds_are_one_point():
    runs = [run(1.0), run(3.0, data__label_seed=1), run(5.0, beta=2), run(7.0, beta=2, data__seed=4)]
    [(curves, title, _)] = rate_distortion_charts(runs)
    assert [point[:2] for point in curves[0].points] == [(2.0, 20.0), (6.0, 20.0)]
    assert title.endswith("test images, mean over seeds")


def test_without_different_options_or_rates_there_is_no_chart():
    assert rate_distortion_charts([run(1.0), run(2.0), run(3.0, data__label_seed=2)]) == []
    assert rate_distortion_charts([run(None), run(None, beta=2)]) == []
    assert rate_distortion_charts([]) == []


def test_protocols_never_share_a_chart_and_old_figures_are_deleted(tmp_path):
    runs = [run(1.0), run(2.0, beta=2)]
    both = [*runs, run(1.0, protocol="fixed"), run(2.0, protocol="fixed", beta=2)]
    assert save_rate_distortion_charts(tmp_path, both, DEFAULT_STYLE) == [
        "rate_distortion_1.png",
        "rate_distortion_2.png",
    ]
    assert save_rate_distortion_charts(tmp_path, runs, DEFAULT_STYLE) == ["rate_distortion.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["rate_distortion.png"]
    assert save_rate_distortion_charts(tmp_path / "none", runs[:1], DEFAULT_STYLE) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("option", "default"),
    [("data.num_labels", None), ("early_stopping", None), ("trainer.precision", "32-true"), ("unknown", None)],
)
def test_a_missing_option_has_its_default(option, default):
    [(curves, _, _)] = rate_distortion_charts([run(1.0), run(2.0, **{option.replace(".", "__"): 7})])
    assert {curve.name for curve in curves} == {f"{option} {default}", f"{option} 7"}
