"""Every file in sweeps/ fits train.py and W&B's agent, so that a renamed option breaks a test."""

from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cli.train_options import build_parser, split_component_flags
from sweep.grid import read_sweep
from sweep.runs import make_runs
from sweep.validation import check_runs

FILES = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))

files = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def parsed(words):
    names, flags = split_component_flags(words)
    return build_parser(names).parse_args(flags)


def agent_words(content, point):
    """Return the options with which W&B's agent starts train.py for a point of the grid."""
    fixed = {name: parameter["value"] for name, parameter in content["parameters"].items() if "value" in parameter}
    args = {name: {"value": value} for name, value in (fixed | point).items()}
    replaced = create_sweep_command_args({"args": args})
    words = []
    for word in create_sweep_command(list(content["command"])):
        words += replaced.get(word[2:-1], []) if word.startswith("${") else [word]
    return words


def test_there_are_sweeps():
    assert {file.stem for file in FILES} >= {"z_dim_beta", "seeds_label_draws", "objectives"}


@files
def test_all_runs_pass_the_checks_of_train_py(file, tmp_path):
    runs = make_runs(read_sweep(file), tmp_path)
    assert 4 <= len(runs) <= 12
    assert len({run.folder for run in runs}) == len(runs)
    assert check_runs(runs, for_this_machine=True) == [False] * len(runs)


@files
def test_the_agent_of_wandb_starts_the_same_runs(file, tmp_path):
    content, sweep = yaml.safe_load(file.read_text()), read_sweep(file)
    for point, run in zip(sweep.points(), make_runs(sweep, tmp_path), strict=True):
        words = agent_words(content, point)
        agent = parsed(words)
        assert agent.wandb.mode == "online"
        agent.wandb.mode = "off"
        assert agent == parsed(run.options)


@files
def test_the_comment_says_how_to_start_it(file):
    head = file.read_text().partition("program:")[0]
    for command in ("wandb sweep {}", "python -m sweep {} --local 2", "python -m sweep {} --slurm"):
        assert command.format(f"sweeps/{file.name}") in head
