"""The benchmarks: what is counted, and that every contender they name is there."""

import ast
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import meter as meters
from benchmarks.contenders import limit
from benchmarks.jobs import COMPARISONS, LIMIT, OURS, RAW, Comparison, Job
from benchmarks.meter import Meter
from benchmarks.report import figure, table
from benchmarks.rounds import Measured, side_by_side

CONTENDERS = Path(__file__).parents[2] / "benchmarks" / "contenders"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(meters.time, "perf_counter", lambda: self.now)


class Parent:
    """Hands out slices, and ends the contender after the last."""

    def __init__(self, *slices):
        self.slices, self.heard = list(slices), []

    def recv(self):
        if not self.slices:
            raise StopIteration
        return self.slices.pop(0)

    def send(self, answer):
        self.heard.append(answer)


def test_a_meter_counts_neither_the_warm_up_nor_what_it_is_told_to_skip(monkeypatch):
    clock, parent = Clock(monkeypatch), Parent((1.0, 2.0), (0.0, 1.0))
    meter = Meter(parent)

    def work(seconds, images):
        clock.now += seconds
        meter.tick(images)

    work(0.6, 10)
    work(0.6, 10)  # the warm-up ends
    work(1.5, 100)
    clock.now += 50
    meter.skip()
    work(0.75, 50)
    clock.now += 50  # while others work
    work(0.0, 7)  # of no slice at all: the first tick of the next one is its warm-up
    with pytest.raises(StopIteration):
        work(1.25, 70)
    assert parent.heard == [(150, 2.25), (70, 1.25)]


def test_rates_are_compared_round_by_round():
    drifting = Measured({"a": [10.0, 100.0, 1000.0], "b": [5.0, 50.0, 500.0]}, {}, 0.0)
    assert drifting.rate("a") == 100
    assert drifting.ratio("a", "b") == (2, 2, 2)
    uneven = drifting._replace(rates={"a": [1.0, 4.0, 4.0], "b": [2.0, 2.0, 2.0]}, of_means=True)
    assert uneven.ratio("a", "b")[0] == 1.5


def test_a_table_says_which_targets_are_missed_and_who_did_not_run():
    comparison = Comparison("A job", {}, ((OURS, RAW, 0.95), (OURS, "Other", 3.0), (OURS, "Absent", 1.0)))
    rates = {OURS: [96.0, 98.0], RAW: [100.0, 100.0], "Other": [40.0, 40.0]}
    text = table(comparison, Measured(rates, {"Absent": "absent is not installed"}, 0.0))
    assert f"- {OURS} / {RAW}: 0.97 (0.96 to 0.97); at least 0.95: met" in text
    assert f"- {OURS} / Other: 2.42 (2.41 to 2.44); at least 3: missed" in text
    assert "| Absent | absent is not installed | |" in text
    assert f"{OURS} / Absent" not in text
    labels = [label.get_text() for label in figure(comparison, Measured(rates, {}, 0.0)).axes[0].get_yticklabels()]
    assert labels == ["Other", OURS, RAW]


def defined(module):
    """The functions of a contender's file, which is not imported: its peer may not be installed."""
    tree = ast.parse((CONTENDERS / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", COMPARISONS)
def test_contenders_and_targets_are_there(name):
    comparison = COMPARISONS[name]
    for job in comparison.contenders.values():
        module, function = job.contender.split(".")
        assert function in defined(module)
    for contender, other, least in comparison.targets:
        assert {contender, other} <= comparison.contenders.keys()
        assert least > 0
    work = {(job.batch, job.K, job.hidden, job.z_dim, job.labels) for job in comparison.contenders.values()}
    assert len(work) == 1  # all do the same


def operations(products):
    return sum(2 * x.shape[0] * x.shape[1] * w.shape[1] for x, w in products)


def test_the_limit_of_a_step_is_three_times_that_of_a_forward_pass_less_the_gradient_of_the_data():
    sizes, rows = [784, 400, 40], 16
    forward = sum(2 * rows * a * b for a, b in pairwise(sizes))
    assert operations(limit.forward(rows, sizes, torch.float32)) == forward
    assert operations(limit.training(rows, sizes, torch.float32, of_data=False)) == 3 * forward
    assert operations(limit.training(rows, sizes, torch.float32, of_data=True)) == 3 * forward - 2 * rows * 784 * 400


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="contenders get a terminal of their own")
def test_contenders_take_turns_and_one_that_cannot_run_says_why(tmp_path):
    small = Job("limit.vae", batch=8, hidden=(16,), z_dim=2)
    jobs = {LIMIT: small, "again": small, "broken": small._replace(contender="limit.nothing")}
    measured = side_by_side(jobs, rounds=3, seconds=0.05, warm_up=0.01, folder=tmp_path)
    assert {name: len(rates) for name, rates in measured.rates.items()} == {LIMIT: 3, "again": 3}
    assert all(rate > 0 for rates in measured.rates.values() for rate in rates)
    assert "has no attribute 'nothing'" in measured.missing["broken"]
    assert 0 <= measured.elsewhere <= 1
