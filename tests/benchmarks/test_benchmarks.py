"""Speed benchmarks: the meter, the tables, and the contenders of every job."""

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
    """A clock that the test advances by hand."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(meters.time, "perf_counter", lambda: self.now)


class Parent:
    """Stand-in for the parent process: it sends the given slices, then raises StopIteration."""

    def __init__(self, *slices):
        self.slices, self.received = list(slices), []

    def recv(self):
        if not self.slices:
            raise StopIteration
        return self.slices.pop(0)

    def send(self, answer):
        self.received.append(answer)


def test_meter_excludes_the_warm_up_and_skipped_time(monkeypatch):
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
    clock.now += 50  # other contenders work
    work(0.0, 7)  # the first tick of the next slice ends its warm-up and does not count
    with pytest.raises(StopIteration):
        work(1.25, 70)
    assert parent.received == [(150, 2.25), (70, 1.25)]


def test_rates_are_compared_within_rounds():
    drifting = Measured({"a": [10.0, 100.0, 1000.0], "b": [5.0, 50.0, 500.0]}, {}, 0.0)
    assert drifting.rate("a") == 100
    assert drifting.ratio("a", "b") == (2, 2, 2)
    uneven = drifting._replace(rates={"a": [1.0, 4.0, 4.0], "b": [2.0, 2.0, 2.0]}, of_means=True)
    assert uneven.ratio("a", "b")[0] == 1.5


def test_table_lists_missed_targets_and_missing_contenders():
    comparison = Comparison("A job", {}, ((OURS, RAW, 0.95), (OURS, "Other", 3.0), (OURS, "Absent", 1.0)))
    rates = {OURS: [96.0, 98.0], RAW: [100.0, 100.0], "Other": [40.0, 40.0]}
    text = table(comparison, Measured(rates, {"Absent": "absent is not installed"}, 0.0))
    assert f"- {OURS} / {RAW}: 0.97 (0.96 to 0.97); at least 0.95: met" in text
    assert f"- {OURS} / Other: 2.42 (2.41 to 2.44); at least 3: missed" in text
    assert "| Absent | absent is not installed | |" in text
    assert f"{OURS} / Absent" not in text
    labels = [label.get_text() for label in figure(comparison, Measured(rates, {}, 0.0)).axes[0].get_yticklabels()]
    assert labels == ["Other", OURS, RAW]


def functions_of(module):
    """Return the names of the functions in a contender's module without importing it: the peer may not be installed."""
    tree = ast.parse((CONTENDERS / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", COMPARISONS)
def test_contenders_and_targets_exist(name):
    comparison = COMPARISONS[name]
    for job in comparison.contenders.values():
        module, function = job.contender.split(".")
        assert function in functions_of(module)
    for contender, other, target in comparison.targets:
        assert {contender, other} <= comparison.contenders.keys()
        assert target > 0
    work = {(job.batch, job.K, job.hidden, job.z_dim, job.labels) for job in comparison.contenders.values()}
    assert len(work) == 1  # all contenders do the same work


def flops(products):
    return sum(2 * x.shape[0] * x.shape[1] * w.shape[1] for x, w in products)


def test_a_training_step_has_three_times_the_flops_of_a_forward_pass_minus_the_gradient_of_the_data():
    sizes, rows = [784, 400, 40], 16
    forward = sum(2 * rows * a * b for a, b in pairwise(sizes))
    assert flops(limit.forward(rows, sizes, torch.float32)) == forward
    assert flops(limit.training(rows, sizes, torch.float32, of_data=False)) == 3 * forward
    assert flops(limit.training(rows, sizes, torch.float32, of_data=True)) == 3 * forward - 2 * rows * 784 * 400


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="contenders need a pseudo-terminal")
def test_contenders_take_turns_and_a_failed_one_has_a_reason(tmp_path):
    small = Job("limit.vae", batch=8, hidden=(16,), z_dim=2)
    jobs = {LIMIT: small, "again": small, "broken": small._replace(contender="limit.nothing")}
    measured = side_by_side(jobs, rounds=3, seconds=0.05, warm_up=0.01, folder=tmp_path)
    assert {name: len(rates) for name, rates in measured.rates.items()} == {LIMIT: 3, "again": 3}
    assert all(rate > 0 for rates in measured.rates.values() for rate in rates)
    assert "has no attribute 'nothing'" in measured.missing["broken"]
    assert 0 <= measured.elsewhere <= 1
