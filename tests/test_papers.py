"""papers.py: which number of which paper stands beside a run, and beside which none."""

from pathlib import Path

import pytest

import differences
import models
import options
import train
from papers import ERRORS, LIKELIHOODS, reported

ONE = {"z_dim": 50, "hidden": [200, 200], "activation": "tanh", "encoder": "mlp", "decoder": "mlp", "beta": 1.0,
       "batch_norm": False, "num_groups": None, "likelihood": "bernoulli"}  # fmt: skip
TWO = ONE | {"z_dim": (100, 50), "inner_hidden": (100, 100)}
M2 = {"z_dim": 50, "hidden": [500], "encoder": "mlp", "decoder": "mlp", "likelihood": "bernoulli", "batch_norm": True}
M1 = {"z_dim": 50, "hidden": [500, 500], "encoder": "mlp", "decoder": "mlp", "likelihood": "bernoulli"}
STACK = {"z_dim": 50, "hidden": (300,), "batch_norm": True, "m1_options": M1}  # it has no encoder of pixels of its own


def checkpoint(model="VAE", hyper=ONE, protocol="dynamic", data="MNIST", of_data=None, **more):
    return {
        "model": model,
        "hyper_parameters": hyper | more,
        "run": {"data": data, "protocol": protocol, "seed": 0},
        "datamodule_hyper_parameters": {"num_labels": None, "max_rotation": 0.0} | (of_data or {}),
    }


def bound(objective, K, **more):
    return {"objective": objective, "num_samples": K, **more}


FOUND = {
    "VAE": (checkpoint(**bound("elbo", 1)), 86.76),
    "VAE, its options left out": (checkpoint(), 86.76),
    "VAE of 5": (checkpoint(**bound("elbo", 5)), 86.47),
    "IWAE of 5": (checkpoint("IWAE", **bound("iwae", 5)), 85.54),
    "IWAE, its options left out": (checkpoint("IWAE"), 85.54),
    "VAE with the objective of IWAE": (checkpoint("VAE", **bound("iwae", 50)), 84.78),
    "IWAE of 1, which is a VAE": (checkpoint("IWAE", **bound("iwae", 1)), 86.76),
    "DReG of 5": (checkpoint("IWAE", **bound("dreg", 5)), 84.90),
    "DReG of 50": (checkpoint("IWAE", **bound("dreg", 50)), 84.32),
    "IWAE of 64": (checkpoint("IWAE", **bound("iwae", 64)), 84.52),
    "PIWAE of 8 groups of 8": (checkpoint("IWAE", **bound("piwae", 64, num_groups=8)), 84.46),
    "MIWAE of 8 groups of 8": (checkpoint("IWAE", **bound("miwae", 64, num_groups=8)), 84.97),
    "CIWAE of 64": (checkpoint("IWAE", **bound("ciwae", 64, ciwae_beta=0.05)), 84.57),
    "CIWAE of 64, further to the ELBO": (checkpoint("IWAE", **bound("ciwae", 64, ciwae_beta=0.5)), 85.24),
    "DReG of 1, whose encoder has another gradient": (checkpoint("IWAE", **bound("dreg", 1)), 86.08),
    "larochelle, IWAE of 1": (checkpoint("IWAE", protocol="larochelle", data="BinaryMNIST", num_samples=1), 88.71),
    "two layers": (checkpoint("HierarchicalVAE", TWO), 85.33),
    "two layers, IWAE of 5": (checkpoint("HierarchicalVAE", TWO, **bound("iwae", 5)), 83.89),
    "two layers, IWAE of 50": (checkpoint("HierarchicalVAE", TWO, **bound("iwae", 50)), 82.90),
    "larochelle": (checkpoint(protocol="larochelle", data="BinaryMNIST"), 88.71),
    "larochelle, IWAE of 5": (checkpoint("IWAE", protocol="larochelle", data="BinaryMNIST"), 87.63),
    "M2": (checkpoint("M2", M2, of_data={"num_labels": 100}), 0.1197),
    "M2 with 3000 labels": (checkpoint("M2", M2, of_data={"num_labels": 3000}), 0.0392),
    "M1M2": (checkpoint("M1M2", STACK, of_data={"num_labels": 100}), 0.0333),
    "M1M2 with 1000 labels": (checkpoint("M1M2", STACK, of_data={"num_labels": 1000}, hidden=[500]), 0.0240),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_number_of_the_paper(name):
    run, value = FOUND[name]
    key = "test_error" if run["model"] in ("M2", "M1M2") else "nll"
    ((found_key, found),) = reported(run).items()
    assert (found_key, found.value) == (key, value)
    assert found.source
    if key == "nll":
        assert found.K == 5000
        # twice as many epochs, another lr or another seed are the same experiment
        assert reported(run | {"hyper_parameters": run["hyper_parameters"] | {"lr": 1.0, "beta_warmup": 3}})


OTHERS = {
    "z_dim": checkpoint(z_dim=49),
    "hidden": checkpoint(hidden=[200]),
    "hidden by default": checkpoint(hidden=None),
    "activation": checkpoint(activation="relu"),
    "encoder": checkpoint(encoder="conv"),
    "decoder": checkpoint(decoder="coordinates"),
    "batch norm": checkpoint(batch_norm=True),
    "beta": checkpoint(beta=2.0),
    "beta 0": checkpoint(beta=0.0),
    "likelihood": checkpoint(likelihood="gaussian"),
    "K": checkpoint("IWAE", **bound("iwae", 6)),
    "objective": checkpoint("IWAE", **bound("stl", 5)),
    "groups": checkpoint("IWAE", **bound("miwae", 64, num_groups=4)),
    "CIWAE": checkpoint("IWAE", **bound("ciwae", 5, ciwae_beta=0.5)),
    "CIWAE between": checkpoint("IWAE", **bound("ciwae", 64, ciwae_beta=0.3)),
    "STL of 1": checkpoint("IWAE", **bound("stl", 1)),
    "protocol": checkpoint(protocol="threshold"),
    "grey": checkpoint(protocol="grey"),
    "fixed": checkpoint(protocol="fixed"),
    "data": checkpoint(data="FashionMNIST"),
    "digits": checkpoint(data="Digits"),
    "files": checkpoint(data="NPZ"),
    "rotated": checkpoint(of_data={"max_rotation": 20.0}),
    "shifted": checkpoint(of_data={"max_shift": 2.0}),
    "scaled": checkpoint(of_data={"max_scaling": 0.1}),
    "one layer with the latents of two": checkpoint(z_dim=[100, 50]),
    "two layers, others within": checkpoint("HierarchicalVAE", TWO, inner_hidden=[50, 50]),
    "three layers": checkpoint("HierarchicalVAE", TWO, z_dim=[100, 50, 20]),
    "two layers, larochelle": checkpoint("HierarchicalVAE", TWO, protocol="larochelle"),
    "AE": checkpoint("AE"),
    "CVAE": checkpoint("CVAE"),
    "AffineVAE": checkpoint("AffineVAE"),
    "M2 with all labels": checkpoint("M2", M2),
    "M2 with 50 labels": checkpoint("M2", M2, of_data={"num_labels": 50}),
    "M2, convolutional": checkpoint("M2", M2, of_data={"num_labels": 100}, encoder="conv"),
    "M2, wider": checkpoint("M2", M2, of_data={"num_labels": 100}, hidden=[600]),
    "M2, grey": checkpoint("M2", M2, of_data={"num_labels": 100}, likelihood="gaussian"),
    "M2 of other data": checkpoint("M2", M2, data="FashionMNIST", of_data={"num_labels": 100}),
    "M1M2 on a conv": checkpoint("M1M2", STACK | {"m1_options": M1 | {"encoder": "conv"}}, of_data={"num_labels": 100}),
    "M1M2 on z 10": checkpoint("M1M2", STACK | {"m1_options": M1 | {"z_dim": 10}}, of_data={"num_labels": 100}),
    "M2, threshold": checkpoint("M2", M2, protocol="threshold", of_data={"num_labels": 100}),
    "M1M2, wider": checkpoint("M1M2", STACK, of_data={"num_labels": 100}, hidden=[500]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_number_of_another_experiment(name):
    assert reported(OTHERS[name]) == {}


def test_numbers_are_what_they_are_called():
    assert all(80 < paper.value < 90 and paper.K == 5000 for paper in LIKELIHOODS.values())
    assert all(0 < paper.value < 0.2 and paper.se < paper.value / 2 for paper in ERRORS.values())
    assert {protocol for protocol, *_ in LIKELIHOODS} == {"dynamic", "larochelle"}


RECIPES = {"vae_mnist": 86.76, "iwae5_mnist": 85.54, "dreg5_mnist": 84.90, "hvae5_mnist": 83.89, "hvae_mnist": 82.90,
           "vae_mnist_paper": 86.76, "iwae5_mnist_paper": 85.54, "dreg5_mnist_paper": 84.90, "hvae5_mnist_paper": 83.89,
           "vae_larochelle_paper": 88.71, "iwae_mnist": 84.78, "vae_larochelle": 88.71, "m2_100": 0.1197,
           "m2_3000": 0.0392, "m2_100_paper": 0.1197, "cvae_mnist": None,
           "vae_2d_mnist": None, "m1_mnist": None}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_number_that_it_names(recipe):
    """With the options that a checkpoint of it would hold: they are the model's own."""
    config = Path(__file__).parent.parent / "recipes" / f"{recipe}.yaml"
    names, flags = options.chosen(["--config", str(config)])
    args = options.build_parser(names).parse_args(flags)
    own = {**vars(args.model)}
    own.pop("name")
    kind, of_data = models.MODELS[names["model"]], dict(vars(args.data))
    for key, value in (("image_shape", (1, 28, 28)), ("num_classes", 10), ("labelled_fraction", 0.1)):
        if key in kind.from_data:
            own[key] = value
    data = train.DATAMODULES[names["data"]](**{key: value for key, value in of_data.items() if key != "name"})
    run = {"data": names["data"], "protocol": data.protocol}
    made = {"model": names["model"], "hyper_parameters": dict(kind(**own).hparams), "run": run}
    found = reported(made | {"datamodule_hyper_parameters": dict(data.hparams)})
    assert [paper.value for paper in found.values()] == ([RECIPES[recipe]] if RECIPES[recipe] else [])


def test_in_words_says_what_differs():
    (paper,) = reported(checkpoint("IWAE")).values()
    result = {"nll": 87.25, "num_samples": 5000, "num_images": 10_000, "epochs": 24}
    assert differences.in_words(result, "nll", paper) == "1.71 nats above, after 24 epochs of the paper's 3280"
    assert differences.in_words(result | {"nll": 85.04}, "nll", paper).startswith("0.50 nats below, ")
    few = differences.in_words(result | {"num_samples": 50, "num_images": 100}, "nll", paper)
    assert few.endswith("of the paper's 3280, K = 50 and not 5000, on 100 images")
    (error,) = reported(FOUND["M2"][0]).values()
    said = differences.in_words(
        {"test_error": 0.1086, "num_samples": 5, "num_images": 9, "epochs": 100}, "test_error", error
    )
    assert said == "1.11% below, after 100 epochs"
