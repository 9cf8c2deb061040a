"""Command lines and run folders are functions of the options."""

from pathlib import Path

import pytest

from sweep.grid import read_sweep
from sweep.runs import make_runs, run_name, short_names


@pytest.fixture
def sweep(sweep_file):
    parameters = {
        "model": {"value": "VAE"},
        "trainer.max_epochs": {"value": 9},
        "model.hidden": {"values": [[8], [16, 8]]},
        "model.beta": {"values": [0.5, 1]},
        "model.batch_norm": {"values": [True]},
    }
    return read_sweep(sweep_file(parameters))


def test_each_run_has_its_options_and_a_folder_named_after_those_that_are_swept(sweep):
    runs = make_runs(sweep, Path("runs", "sweep"))
    assert [run.name for run in runs] == [
        "hidden=8,beta=0.5,batch_norm=true",
        "hidden=8,beta=1,batch_norm=true",
        "hidden=16-8,beta=0.5,batch_norm=true",
        "hidden=16-8,beta=1,batch_norm=true",
    ]
    assert runs[2].folder == Path("runs", "sweep", "file", runs[2].name)
    assert runs[2].options == [
        "--model=VAE",
        "--trainer.max_epochs=9",
        "--model.hidden=[16, 8]",
        "--model.beta=0.5",
        "--model.batch_norm=true",
    ]


def test_further_options_replace_fixed_ones_and_keep_the_folder(sweep):
    run = make_runs(sweep, Path("a"), ["--trainer.max_epochs", "2", "--model.name=IWAE"])[0]
    assert run.options[:3] == ["--trainer.max_epochs", "2", "--model.name=IWAE"]
    assert not any("VAE" in word for word in run.options if "IWAE" not in word)
    assert run.folder == make_runs(sweep, Path("a"))[0].folder


@pytest.mark.parametrize(("more", "message"), [
    (["--model.beta", "2"], "--model.beta is swept in .*file.yaml: leave it out"),
    (["--model.beta=2"], "--model.beta is swept"),
    (["--run_dir", "b"], "--run_dir is set by the sweep"),
    (["--resume=auto"], "--resume is set by the sweep"),
])  # fmt: skip
def test_options_that_belong_to_the_sweep_are_refused(sweep, more, message):
    with pytest.raises(ValueError, match=message):
        make_runs(sweep, Path("a"), more)


def test_the_file_may_not_set_the_run_folder(sweep_file):
    with pytest.raises(ValueError, match="run_dir is set by the sweep"):
        make_runs(read_sweep(sweep_file({"run_dir": {"values": ["a", "b"]}})), Path("a"))


def test_names_are_short_unless_that_is_ambiguous():
    assert short_names(["seed", "model.z_dim"]) == {"seed": "seed", "model.z_dim": "z_dim"}
    assert short_names(["seed", "data.seed", "model.lr"]) == {
        "seed": "seed",
        "data.seed": "data.seed",
        "model.lr": "lr",
    }


def test_names_are_valid_file_names_and_different():
    values = ["a/b", "a b", "a*b", "x" * 300, "x" * 301]
    names = [run_name({"root": value}) for value in values]
    assert len(set(names)) == len(values)
    for name in names:
        assert len(name) < 200
        assert not set("/ *") & set(name)
