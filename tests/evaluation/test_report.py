"""evaluation/report.py: runs beside each other, and the files that say so."""

import csv
import json
import re
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from PIL import Image

from evaluation import comparisons, report
from evaluation.cache import cache_path
from evaluation.over_seeds import SeedMean, over_seeds
from evaluation.schema import ComparedEvaluation, Difference, Evaluation
from evaluation.tables import tables, tables_by_key
from figures import charts

PER_IMAGE = np.random.default_rng(0)
HARD = PER_IMAGE.normal(-90, 30, 500)  # images that are hard for one model are hard for another
DEFAULT_START = {"init": "default", "beta_warmup": None}
CHECKPOINT = {
    "model": "VAE",
    "hyper_parameters": DEFAULT_START,
    "run": {"data": "Digits", "protocol": "dynamic", "seed": 0},
    "datamodule_hyper_parameters": {},
}
MEAN = {"about": "log p(x)", "data": "Digits", "protocol": "dynamic", "num_images": 500, "group": "VAE", "n": 2,
        "runs": ["a", "b"], "nll": 90.0, "nll_se": 0.5, "num_samples": [50], "test_error": None,
        "test_error_se": None, "ais_nll": None, "ais_nll_se": None, "calibration_error": None,
        "calibration_error_se": None, "over": "seeds"}  # fmt: skip
MEANS = [SeedMean(**MEAN)]
BURDA = {"z_dim": 50, "hidden": [200, 200], "activation": "tanh"}


def result(run="a", log_px=HARD, stem="best", **more):
    """A result with its per-image values on the disk."""
    found = {
        "model": "VAE", "data": "Digits", "variant": "", "protocol": "dynamic", "seed": 0, "quantity": "log p(x)",
        "num_samples": 50, "num_images": len(log_px), "nll": -log_px.mean().item(), "nll_se": 1.2, "rate": 5.0,
        "elbo": -95.0, "distortion": 90.0, "ess_median": 2.0, "k_hat_above": 0.0, "active_units_per_layer": [3, 2],
        "active_dimensions": [[True, False]], "kl_per_dimension": [[1.0, 0.0]], "epochs": 3, "images_hash": "abc",
        "commit": ["0123456789"], "machine": ["some CPU, 1 thread", "another"], "seconds": 600.0,
        "checkpoint": f"{run}/checkpoints/{stem}.ckpt",
    }  # fmt: skip
    file = cache_path(Path(found["checkpoint"]), "likelihoods")
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, log_px=log_px)
    return Evaluation(**found | more)


def autoencoder(run="ae"):
    more = {"quantity": None, "nll": None, "nll_se": None, "num_samples": None, "images_hash": None, "loss": 30.0}
    return result(
        run,
        **more,
        criterion="bce",
        model="AE",
        rate=None,
        elbo=None,
        distortion=None,
        active_dimensions=None,
        kl_per_dimension=None,
    )


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def beside(*results):
    return comparisons.with_comparisons(results, [CHECKPOINT] * len(results))


# Differences to the first run


def test_differences_are_those_of_the_same_images():
    noise = [np.random.default_rng(seed).normal(0.5, 0.3, 500) for seed in (1, 2)]
    first, *others = beside(result("a"), result("b", HARD + noise[0]), result("c", HARD - noise[1]))
    assert first.versus_first is None
    assert "versus_first" not in first.to_dict()
    for other, sign, gained in zip(others, (-1, 1), noise, strict=True):
        by_hand = [sign * float(value) for value in gained]
        assert other.versus_first.nll == pytest.approx(fmean(by_hand))
        assert other.versus_first.se == pytest.approx(stdev(by_hand) / sqrt(500))
        assert other.versus_first.nll == pytest.approx(other.nll - first.nll)
        assert other.versus_first.se < 0.02 < HARD.std() / sqrt(500) / 50


def test_differences_are_found_whatever_options_the_values_were_computed_with():
    results = [result("a"), result("b", HARD - 0.25)]
    for found, name in zip(results, ("compile", "precision"), strict=True):
        cached = cache_path(Path(found.checkpoint), "likelihoods")
        cached.rename(cache_path(Path(found.checkpoint), "likelihoods", {"K": 50, name: "other"}))
    _, other = beside(*results)
    assert other.versus_first.nll == pytest.approx(0.25)


def test_best_and_last_of_a_run_are_two_runs():
    _, last = beside(result("a"), result("a", HARD - 0.25, stem="last"))
    assert last.versus_first.nll == pytest.approx(0.25)
    _, best = beside(result("a", HARD - 0.25, stem="last"), result("a"))
    assert best.versus_first.nll == pytest.approx(-0.25)
    assert [line[0] for line in tables_by_key([last, best])[0].lines] == ["a (last)", "a"]


UNLIKE = {
    "K": {"num_samples": 51},
    "images": {"images_hash": "abd"},
    "protocol": {"protocol": "threshold"},
    "quantity": {"quantity": "log p(x|y)"},
    "data": {"data": "MNIST"},
    "variant": {"variant": "rotated by up to 20 degrees"},
}


@pytest.mark.parametrize("other", UNLIKE)
def test_there_is_no_difference_between_what_is_not_alike(other):
    """And what comes after is compared with the first of its own."""
    found = beside(
        result("a"),
        result("b", HARD + 1, **UNLIKE[other]),
        result("c", HARD + 3, **UNLIKE[other]),
        result("d", HARD - 1),
    )
    assert [run.versus_first and round(run.versus_first.nll, 6) for run in found] == [None, None, -2, 1]


def test_fewer_images_have_no_difference_to_all():
    found = beside(result("a"), result("b", HARD[:100]))
    assert all(run.versus_first is None for run in found)


def test_one_image_has_a_difference_without_an_error():
    _, other = beside(result("a", HARD[:1]), result("b", HARD[:1] + 1))
    assert other.versus_first == Difference(pytest.approx(-1), None)
    report.write_report(Path("r"), beside(result("a", HARD[:1]), result("b", HARD[:1] + 1)), [])


def test_what_has_no_likelihood_is_beside_nothing():
    found = beside(autoencoder(), result("a"), result("b", HARD + 1))
    assert [run.versus_first is not None for run in found] == [False, False, True]
    diverged = result("nan", nll=None)  # as evaluate.py writes what is not finite
    assert [run.versus_first is not None for run in beside(diverged, result("a"))] == [False, False]


# Beside papers


def test_the_paper_stands_beside_its_run_alone():
    run = {"data": "MNIST", "protocol": "dynamic", "seed": 0}
    papers = CHECKPOINT | {"hyper_parameters": BURDA, "run": run, "datamodule_hyper_parameters": {"val_size": 400}}
    mnist = {"data": "MNIST", "nll": 88.0}
    found = comparisons.with_comparisons(
        [result("a", **mnist), result("b", **mnist)], [papers, CHECKPOINT | {"run": run}]
    )
    assert found[0].to_dict()["paper_nll"] == 86.76
    assert found[0].paper.summary.startswith(
        "1.24 nats above, after 3 epochs of the paper's 3280, in batches of 100, not 20"
    )
    assert found[0].paper.summary.endswith("; K = 50, not 5000; on 500 images")
    assert found[1].paper is None
    (table,) = tables_by_key(found)
    place = table.columns.index("paper")
    assert [line[place] for line in table.lines] == ["86.76 [1]", "-"]
    assert table.remarks[0] == (
        "[1] Burda et al. (2015), Table 1, K = 5000, 3280 epochs; "
        "3 epochs of the paper's 3280, in batches of 100, not 20; K = 50, not 5000; on 500 images"
    )


def test_a_number_of_another_experiment_stands_in_a_note_that_says_what_differs():
    run = {"data": "MNIST", "protocol": "dynamic", "seed": 0}
    papers = CHECKPOINT | {"hyper_parameters": BURDA | {"batch_norm": True}, "run": run}
    mnist = {"data": "MNIST", "nll": 88.0}
    found = comparisons.with_comparisons([result("a", **mnist), result("b", **mnist, epochs=4)], [papers, papers])
    (table,) = tables_by_key(found)
    place = table.columns.index("paper")
    assert [line[place] for line in table.lines] == ["- [1]", "- [2]"]
    assert table.remarks[0] == (
        "[1] no published number agrees in all; nearest: 86.76 (Burda et al. (2015), Table 1, K = 5000, 3280 epochs), "
        "with no batch norm; 59,600 training images, not 55,000; "
        "3 epochs of the paper's 3280, in batches of 100, not 20; K = 50, not 5000; on 500 images"
    )
    assert table.remarks[1].endswith(
        "; 4 epochs of the paper's 3280, in batches of 100, not 20; K = 50, not 5000; on 500 images"
    )
    report.write_report(Path("r"), found, [])
    text = Path("r/results.md").read_text()
    assert "nearest: 86.76, with no batch norm; 59,600 training images, not 55,000; 3 epochs" in text
    drawn = [report.labelled(row) for row in found]
    assert not any("paper_nll" in row for row in drawn)


def test_errors_of_a_paper_are_fractions_with_their_spread():
    network = {"z_dim": 50, "hidden": [500]}
    papers = CHECKPOINT | {
        "model": "M2",
        "hyper_parameters": network,
        "run": {"data": "MNIST", "protocol": "dynamic"},
        "datamodule_hyper_parameters": {"num_labels": 100},
    }
    wrong = {"model": "M2", "test_error": 0.15, "test_error_images": 10_000}
    (found,) = comparisons.with_comparisons([result("a", **wrong)], [papers])
    entry = found.to_dict()
    assert (entry["nearest_error"], entry["nearest_error_se"], entry["paper_epochs"]) == (0.1197, 0.0171, None)
    assert "paper_error" not in entry
    assert entry["words"].startswith("nearest: 11.97% ± 1.71%, with ")
    assert found.options["alpha"] == 5.0
    (table,) = tables_by_key([found])
    assert table.lines[0][table.columns.index("paper's")] == "- [1]"
    assert "alpha 0.1, not 5.0" in table.remarks[0]
    agreeing = replace(found, paper=replace(found.paper, differences=None))
    assert "11.97% ± 1.71% [1]" in tables([agreeing])
    without = comparisons.with_comparisons([result("a", model="M2")], [papers])
    assert without[0].paper is None


# Files


def cells(line):
    """The cells of a line of a Markdown table, as a reader of Markdown sees them."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def sections(text):
    """The tables of a Markdown file by their titles, each as lines of cells."""
    found, title = {}, None
    for line in text.splitlines():
        if line.startswith("**"):
            title = line.strip("*")
        elif line.startswith("|") and not line.startswith("|---"):
            found.setdefault(title, []).append(cells(line))
    return found


@pytest.fixture
def several():
    grey = {"data": "Digits", "protocol": "grey", "quantity": "log p(x), a density of grey values"}
    moved = {"disentanglement": {"angle_correlation": 0.5}, "moved": "rotated"}
    return beside(
        result("a"),
        result("b|c", HARD + 1, confusion=[[3, 1], [0, 4]], test_error=0.125, test_error_images=8),
        result("grey", HARD + 100, **grey),
        autoencoder(),
        result("a", HARD + 2, stem="last", **moved),
    )


def test_json_holds_everything_but_where_the_data_lie(several):
    report.write_report(Path("r"), several, [])
    expected = [{key: value for key, value in run.to_dict().items() if key != "data_root"} for run in several]
    assert json.loads(Path("r/results.json").read_text()) == expected
    assert "data_root" not in Path("r/results.csv").read_text()


def test_csv_holds_the_numbers_of_each_run_in_a_row(several):
    report.write_report(Path("r"), several, [])
    with Path("r/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in rows] == [run.checkpoint for run in several]
    for row, run in zip(rows, several, strict=True):
        assert set(row) >= {"nll", "versus_first", "versus_first_se", "commit"}
        for key, value in row.items():
            expected = run.to_dict().get(key)
            if isinstance(expected, float | int) and not isinstance(expected, bool):
                assert float(value) == expected
            elif key == "options":
                assert (value, expected) == ("", {})
            elif isinstance(expected, list):
                assert value == "+".join(map(str, expected))
            else:
                assert value == ("" if expected is None else expected)
    nested = {"active_dimensions", "kl_per_dimension", "confusion", "disentanglement"}
    assert not nested & set(rows[0])  # they are in the JSON, whichever run has them


def test_markdown_holds_all_runs_in_whole_lines(several):
    report.write_report(Path("r"), several, MEANS)
    text = Path("r/results.md").read_text()
    found = sections(text)
    *kinds, differ, made = found.values()
    assert all(len(line) == len(table[0]) for table in (*kinds, differ, made) for line in table)
    assert [line[0] for line in made[1:]] == ["a", "b|c", "grey", "ae", "a (last)"]
    assert sorted(line[0] for table in kinds for line in table[1:]) == ["a", "a (last)", "ae", "b|c", "grey"]
    assert made[0] == list(report.PROVENANCE_COLUMNS)
    assert made[1] == ["a", "VAE", "0123456789", "0", "3", "10 min", "some CPU, 1 thread, another", "-", "-"]
    assert "```\nDigits, protocol dynamic: log p(x) of 500 test images, mean ± standard error over seeds\n" in text
    assert "group  n  NLL           K\nVAE    2  90.00 ± 0.50  50\n" in text  # no column of errors


def test_means_over_seeds_are_files_of_their_own(several):
    report.write_report(Path("r"), several, MEANS)
    assert json.loads(Path("r/over_seeds.json").read_text()) == [MEAN]
    with Path("r/over_seeds.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["group"], row["nll"], row["nll_se"], row["runs"]) == ("VAE", "90.0", "0.5", "a+b")
    assert row["test_error"] == ""


def test_runs_beside_all_before_them(several):
    report.write_report(Path("r"), several, [])
    a, b, grey, _, last = several
    assert ["versus" in run.to_dict() for run in (a, grey)] == [False, False]
    assert {name: round(of.nll, 6) for name, of in b.versus.items()} == {"a": -1}
    assert {name: round(of.nll, 6) for name, of in last.versus.items()} == {"a": -2, "b|c": -1}
    found = sections(Path("r/results.md").read_text())
    (table,) = (lines for title, lines in found.items() if "differences" in title)
    assert [line[:3] for line in table] == [
        ["", "a", "b|c"],
        ["b|c", "-1.00 ± 0.00", ""],
        ["a (last)", "-2.00 ± 0.00", "-1.00 ± 0.00"],
    ]


def test_differences_of_kinds_and_of_K_share_no_table():
    grey = {"protocol": "grey", "quantity": "log p(x), a density of grey values"}
    more = [result(run, HARD + 1, num_samples=5) for run in "cd"]
    report.write_report(
        Path("r"), beside(result("a"), result("g", **grey), result("b"), result("h", **grey), *more), []
    )
    all_tables = sections(Path("r/results.md").read_text())
    found = {title: lines for title, lines in all_tables.items() if "differences" in title}
    runs = [sorted({line[0] for line in lines[1:]} | set(lines[0][1:])) for lines in found.values()]
    assert runs == [["c", "d"], ["a", "b"], ["g", "h"]]
    assert ["K = 5;" in title for title in found] == [True, False, False]
    assert ["grey" in title for title in found] == [False, False, True]


def test_values_that_another_evaluation_has_replaced_make_no_difference():
    first, other = result("a"), result("b", HARD + 1)
    result("a", HARD[:100])
    result("b", HARD + 2)
    assert all(not run.versus for run in beside(first, other, result("c")))


def test_files_of_another_report_do_not_stay(several):
    report.write_report(Path("r"), several, MEANS)
    Path("r/results_of_mine.png").touch()
    report.write_report(Path("r"), beside(result("a")), [])
    names = ["index.html", "results.csv", "results.json", "results.md", "results.png", "results_of_mine.png"]
    assert sorted(path.name for path in Path("r").iterdir()) == names


def test_where_data_lie_is_in_no_file():
    lie = {"data": "NPZ", "data_root": "/home/me/secret/digits.npz"}
    other = {"data": "NPZ", "data_root": "/home/you/digits.npz", "images_hash": "abd"}
    found = beside(result("a", **lie), result("b", HARD + 1, **lie), result("c", **other))
    report.write_report(
        Path("r"),
        found,
        over_seeds(found, [CHECKPOINT, CHECKPOINT | {"run": {"data": "Digits", "seed": 1}}, CHECKPOINT]),
    )
    text = "".join(path.read_text() for path in Path("r").iterdir() if path.suffix != ".png")
    assert "digits.npz" in text
    assert "/home" not in text
    assert [bool(run.versus) for run in found] == [False, True, False]  # two files are two kinds


def test_chosen_options_are_in_the_tables():
    options = DEFAULT_START | {"hidden": (200, 200), "z_dim": 9}
    made = CHECKPOINT | {"hyper_parameters": options, "training": {"trainer.accumulate_grad_batches": 5}}
    (found,) = comparisons.with_comparisons([result("a")], [made])
    cell = "z_dim 9, hidden [200, 200], trainer.accumulate_grad_batches 5"
    assert report.provenance_cells(found)[-1] == cell
    report.write_report(Path("r"), [found], [])
    with Path("r/results.csv").open(newline="") as file:
        assert [row["options"] for row in csv.DictReader(file)] == [cell]


def test_grey_and_binary_images_share_no_table_and_no_figure(several, monkeypatch):
    drawn = []
    draw = charts.comparison
    monkeypatch.setattr(
        charts, "comparison", lambda runs, title: drawn.append([run["label"] for run in runs]) or draw(runs, title)
    )
    report.write_report(Path("r"), several, [])
    *kinds, _, _ = sections(Path("r/results.md").read_text()).values()
    together = [{line[0] for line in table[1:]} for table in kinds]
    assert sorted(map(sorted, together)) == [["a", "a (last)", "b|c"], ["ae"], ["grey"]]
    assert sorted(drawn) == [["a", "b|c", "a (last)"], ["grey"]]
    assert sorted(path.name for path in Path("r").glob("*.png")) == ["results_1.png", "results_2.png"]
    for path in Path("r").glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 500
    assert sum("grey" in title for title in sections(Path("r/results.md").read_text())) == 1


def test_one_kind_has_one_figure_and_none_has_none():
    report.write_report(Path("one"), beside(result("a"), result("b", HARD + 1)), [])
    names = sorted(path.name for path in Path("one").iterdir())
    assert names == ["index.html", "results.csv", "results.json", "results.md", "results.png"]
    report.write_report(Path("none"), beside(autoencoder()), [])
    assert sorted(path.name for path in Path("none").iterdir()) == names[:4]


def test_labels_of_the_figure_tell_runs_apart(tmp_path):
    paths = ["x/a/checkpoints/best.ckpt", "x/a/checkpoints/last.ckpt", str(tmp_path / "b/best.ckpt"), "best.ckpt"]
    labels = [report.labelled(ComparedEvaluation(checkpoint=path))["label"] for path in paths]
    assert labels == ["a", "a (last)", "b", tmp_path.name]


@pytest.mark.parametrize(("seconds", "message"), [(None, "-"), (0.0, "0 min"), (600.0, "10 min"), (5399.0, "90 min"),
                                               (5400.0, "1.5 h"), (36000.0, "10.0 h")])  # fmt: skip
def test_durations(seconds, message):
    assert report.duration(seconds) == message


def test_a_report_that_fails_leaves_the_one_before(several):
    report.write_report(Path("r"), several, [])
    before = {path: path.read_bytes() for path in Path("r").iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        report.write_report(Path("r"), [replace(several[0], nll=float("nan"))], [])
    assert {path: path.read_bytes() for path in Path("r").iterdir()} == before
