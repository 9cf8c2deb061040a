"""benchmarks/defaults.py: the runs it makes, and their commands."""

import itertools

import pytest
import torch

import train
from benchmarks.defaults import MODELS, NETWORKS, SAME_STARTS, STARTS, DataSet, command, is_redundant, run
from cli.train_options import build_parser, split_component_flags
from datamodules import DATAMODULES
from models import MODELS as CLASSES

LABELLED, UNLABELLED = DataSet([], True, 100), DataSet([], False)


def test_models_with_labels_are_trained_on_labelled_data_only():
    assert is_redundant("CVAE", UNLABELLED, "mlp", "defaults")
    assert is_redundant("M2", UNLABELLED, "mlp", "defaults")
    assert not is_redundant("CVAE", LABELLED, "mlp", "defaults")
    assert not is_redundant("VAE", UNLABELLED, "mlp", "defaults")


def test_no_two_runs_of_a_model_have_the_same_options():
    for model, network in itertools.product(MODELS, NETWORKS):
        starts = [start for start in STARTS if not is_redundant(model, LABELLED, network, start)]
        commands = {tuple(command(model, LABELLED, network, start, seed=0, steps=10)) for start in starts}
        assert len(commands) == len(starts)
        assert len(starts) == (1 if model == "M2" or (model, network) in SAME_STARTS else 2)


@pytest.mark.parametrize(("model", "network"), SAME_STARTS)
def test_models_whose_starts_are_the_same_have_the_same_weights(model, network):
    data = DATAMODULES["Digits"]()
    data.setup()
    states = []
    for init in ("default", "glorot"):
        torch.manual_seed(0)
        states.append(CLASSES[model].for_data(data, encoder=network, init=init).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert CLASSES[model].for_data(data).hparams.beta_warmup == 0


def test_a_signal_ends_the_benchmark_and_not_only_a_run(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "main", lambda argv: 128 + 15)
    with pytest.raises(SystemExit, match="143"):
        run([], tmp_path)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_train_py_accepts_the_command_of_every_run(model, network, start):
    if is_redundant(model, LABELLED, network, start):
        return
    names, flags = split_component_flags(command(model, LABELLED, network, start, seed=1, steps=1500))
    args = build_parser(names).parse_args(flags)
    assert (args.trainer.max_steps, args.seed) == (1500, 1)
    assert args.model.encoder == network
