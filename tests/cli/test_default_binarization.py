"""The default of --data.binarization follows from the likelihood."""

from pathlib import Path

import pytest

from cli.train_options import build_parser, split_component_flags


def binarization(*argv):
    names, flags = split_component_flags(list(argv))
    return build_parser(names, flags).parse_args(flags).data.binarization


@pytest.mark.parametrize(("likelihood", "expected"), [
    ("bernoulli", "dynamic"),
    ("gaussian", "grey"),
    ("continuous_bernoulli", "grey"),
    ("discretized_logistic", "levels"),
    ("discretized_logistic_mixture", "levels"),
])  # fmt: skip
def test_default_of_each_likelihood(tmp_path, likelihood, expected):
    assert binarization("--model.likelihood", likelihood) == expected
    assert binarization("--model", "M2", f"--model.likelihood={likelihood}") == expected
    config = Path(tmp_path, "c.yaml")
    config.write_text(f"model: {{name: VAE, likelihood: {likelihood}}}\n")
    assert binarization("--config", str(config)) == expected
    assert binarization("--config", str(config), "--model.likelihood", "gaussian") == "grey"


def test_the_likelihood_of_a_file_with_dotted_keys_counts(tmp_path):
    config = Path(tmp_path, "c.yaml")
    config.write_text("model.likelihood: discretized_logistic\n")
    assert binarization("--config", str(config)) == "levels"
    assert binarization("--config", str(config), "--model.likelihood", "gaussian") == "grey"


def test_a_given_value_is_kept(tmp_path):
    assert binarization("--model.likelihood", "gaussian", "--data.binarization", "fixed") == "fixed"
    config = Path(tmp_path, "c.yaml")
    config.write_text("model: {name: VAE, likelihood: gaussian}\ndata: {name: Digits, binarization: dynamic}\n")
    assert binarization("--config", str(config)) == "dynamic"


def test_models_without_a_likelihood_keep_their_default():
    assert binarization() == "dynamic"
    assert binarization("--model", "AE") == "dynamic"
    assert binarization("--model", "GAN") == "grey"
