"""benchmarks/recorder.py: the comparison of two records, and the commands of the recorded runs."""

from pathlib import Path

import pytest

from benchmarks.recorder import RUNS, command, differences
from cli.train_options import build_parser, split_component_flags
from models import MODELS

RECORD = {
    "VAE, 1 steps per call": {"train/loss": ["210.5", "190.25"], "log_px": "0123456789abcdef"},
    "AE, 1 steps per call": {"train/loss": ["180.0"]},
}


def test_equal_records_have_no_differences():
    assert differences(RECORD, {run: dict(entries) for run, entries in RECORD.items()}) == []


def test_changed_missing_and_new_entries_are_listed():
    changed = {
        "VAE, 1 steps per call": {"train/loss": ["210.5", "190.26"], "figures/samples.png": "00"},
        "AE, 1 steps per call": RECORD["AE, 1 steps per call"],
    }
    assert differences(RECORD, changed) == [
        "VAE, 1 steps per call: figures/samples.png",
        "VAE, 1 steps per call: log_px",
        "VAE, 1 steps per call: train/loss",
    ]


def test_a_run_of_only_one_record_is_listed():
    without = {"VAE, 1 steps per call": RECORD["VAE, 1 steps per call"]}
    expected = ["AE, 1 steps per call: only in one of the two records"]
    assert differences(RECORD, without) == expected
    assert differences(without, RECORD) == expected


def test_every_model_is_recorded():
    assert {model for model, *_ in RUNS.values()} == set(MODELS)


@pytest.mark.parametrize("steps_per_call", [1, 10])
@pytest.mark.parametrize("run", RUNS)
def test_train_py_accepts_the_command_of_every_run(run, steps_per_call, tmp_path):
    model, *options = RUNS[run]
    argv = command(model, options, steps_per_call, Path("m1"), tmp_path)
    names, flags = split_component_flags(argv)
    args = build_parser(names).parse_args(flags)
    assert names["model"] == model
    assert args.steps_per_call == steps_per_call
    for option in options:
        name, value = option.split("=")
        assert str(getattr(args.model, name)) == value
