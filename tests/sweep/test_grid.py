"""Sweep files are read, expanded to all combinations, and refused in one sentence if they need W&B."""

from datetime import date

import pytest

from sweep.grid import read_sweep

Z = {"model.z_dim": {"values": [2, 3]}}


def test_a_grid_has_all_combinations_and_the_last_option_changes_fastest(sweep_file):
    sweep = read_sweep(sweep_file({"seed": {"values": [0, 1]}, **Z, "model": {"value": "VAE"}}))
    assert sweep.name == "file"
    assert sweep.fixed == {"model": "VAE"}
    assert [tuple(point.values()) for point in sweep.points()] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert list(sweep.points()[0]) == ["seed", "model.z_dim"]


def test_options_of_the_command_apply_except_those_of_wandb(sweep_file):
    words = ["${env}", "${interpreter}", "${program}", "--wandb", "online", "--wandb.tags=[a]", "--num_samples", 7]
    sweep = read_sweep(sweep_file(Z, command=[*words, "--callbacks=[]", "${args}"]))
    assert sweep.command == ["--num_samples", "7", "--callbacks=[]"]


@pytest.mark.parametrize("method", ["random", "bayes", None])
def test_only_grids_run_without_wandb(sweep_file, method):
    with pytest.raises(ValueError, match="only 'method: grid' is supported, not"):
        read_sweep(sweep_file(Z, method=method))


@pytest.mark.parametrize(("parameters", "message"), [
    ({}, "needs a section 'parameters'"),
    ({"seed": {"value": 1}}, "nothing to sweep"),
    ({"seed": [0, 1]}, "parameter seed must have either 'value' or 'values'"),
    ({"seed": {"value": 1, "values": [1]}}, "parameter seed must have either"),
    ({"model": {"parameters": {"z_dim": {"value": 1}}}}, "parameter model must have either"),
    ({"model.lr": {"min": 0.1, "max": 1, "distribution": "uniform"}}, "parameter model.lr must have either"),
    ({"seed": {"values": [1, 2], "probabilities": [0.5, 0.5]}}, "parameter seed has probabilities"),
    ({"seed": {"values": []}}, "must be a list with at least one entry"),
    ({"seed": {"values": 3}}, "must be a list with at least one entry"),
    ({"seed": {"values": [1, 2, 1]}}, "seed lists the value 1 twice"),
    ({1: {"values": [1, 2]}}, "1 is not the name of an option"),
    ({"seed": {"values": [date(2026, 1, 2), 1]}}, "the value 2026-01-02 of seed is a date: write it in quotes"),
    ({**Z, "seed": {"value": date(2026, 1, 2)}}, "the value 2026-01-02 of seed is a date: write it in quotes"),
])  # fmt: skip
def test_invalid_parameters_are_named(sweep_file, parameters, message):
    with pytest.raises(ValueError, match=message):
        read_sweep(sweep_file(parameters))


@pytest.mark.parametrize(("keys", "message"), [
    ({"program": "evaluate.py"}, "program must be train.py"),
    ({"early_terminate": {"type": "hyperband"}}, "early_terminate is only supported by W&B"),
    ({"run_cap": 1}, "run_cap is not supported without W&B"),
    ({"command": ["${args}", "--model.z_dim=4"]}, "model.z_dim is in both 'parameters' and 'command'"),
    ({"command": ["${program}"]}, "must be a list that contains"),
    ({"command": ["${program}", "${args_json}", "${args}"]}, "contains .*args_json"),
])  # fmt: skip
def test_other_invalid_sections_are_named(sweep_file, keys, message):
    with pytest.raises(ValueError, match=message):
        read_sweep(sweep_file(Z, **keys))


@pytest.mark.parametrize(("content", "message"), [
    (None, "There is no sweep file .*: name a file such as sweeps/objectives.yaml first"),
    ("a: [1\nb: }", "cannot be read as a YAML file: line 2: expected .*, but got ':'.$"),
    ("- a", "is not a sweep file"),
    ("parameters:\n  seed: {value: 1}\n  seed: {value: 2}", "line 3: seed occurs twice; remove one of them.$"),
])  # fmt: skip
def test_unreadable_files_are_named(tmp_path, content, message):
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_sweep(file)
