"""benchmarks/defaults.py: the runs it makes, and their commands."""

import itertools

import pytest

from benchmarks.defaults import MODELS, NETWORKS, STARTS, DataSet, command, is_redundant
from cli.train_options import build_parser, split_component_flags

LABELLED, UNLABELLED = DataSet([], True, 100), DataSet([], False)


def test_models_with_labels_are_trained_on_labelled_data_only():
    assert is_redundant("CVAE", UNLABELLED, "defaults")
    assert is_redundant("M2", UNLABELLED, "defaults")
    assert not is_redundant("CVAE", LABELLED, "defaults")
    assert not is_redundant("VAE", UNLABELLED, "defaults")


def test_no_two_runs_of_a_model_have_the_same_options():
    for model, network in itertools.product(MODELS, NETWORKS):
        starts = [start for start in STARTS if not is_redundant(model, LABELLED, start)]
        commands = {tuple(command(model, LABELLED, network, start, seed=0, steps=10)) for start in starts}
        assert len(commands) == len(starts)
        assert len(starts) == (1 if model == "M2" else 2)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_train_py_accepts_the_command_of_every_run(model, network, start):
    if is_redundant(model, LABELLED, start):
        return
    names, flags = split_component_flags(command(model, LABELLED, network, start, seed=1, steps=1500))
    args = build_parser(names).parse_args(flags)
    assert (args.trainer.max_steps, args.seed) == (1500, 1)
    assert args.model.encoder == network
