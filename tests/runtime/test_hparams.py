"""runtime/hparams.py: the options of a run, and those that differ from their defaults."""

import pytest
from pytorch_lightning import Trainer

from models import MODELS
from runtime.hparams import OLDER_DEFAULTS, TRAINING_DEFAULTS, non_default_options, run_options, training_options

CHECKPOINT = {"model": "VAE", "hyper_parameters": {}, "run": {"data": "Digits"}}
M1M2 = CHECKPOINT | {
    "model": "M1M2",
    "hyper_parameters": {
        "image_shape": (1, 28, 28),
        "num_classes": 10,
        "labelled_fraction": 0.1,
        "m1": "/somewhere",
        "kept": [0, 1],
        "m1_options": {"z_dim": 50, "beta": 1.0},
    },
}


def test_non_default_options():
    made = {
        "model": "HierarchicalVAE",
        "hyper_parameters": {"image_shape": (1, 28, 28), "z_dim": (100, 50), "hidden": (200, 200), "lr": 1e-3,
                             "inner_hidden": (99, 100)},
        "run": {"data": "MNIST"},
        "datamodule_hyper_parameters": {"root": "/somewhere", "batch_size": 20, "val_size": 5000, "seed": 3},
        "training": {"steps_per_call": 1, "trainer.precision": "bf16-mixed", "trainer.accumulate_grad_batches": 1},
    }  # fmt: skip
    assert non_default_options(made) == {
        "hidden": [200, 200],
        "inner_hidden": [99, 100],
        "data.batch_size": 20,
        "data.seed": 3,
        "trainer.precision": "bf16-mixed",
        **OLDER_DEFAULTS,
    }


def test_options_of_an_m1_are_those_of_its_vae():
    # from before these options existed
    older = {"features": "binarized", "share_noise": False, "m1.init": "glorot", "m1.beta_warmup": 0}
    assert non_default_options(M1M2) == {"alpha": 5.0, "m1.z_dim": 50, **older}
    assert run_options(M1M2)["m1.z_dim"] == 50


def test_stored_defaults_equal_missing_options():
    """Older checkpoints lack options that are newer."""
    plain = run_options(CHECKPOINT)
    assert plain["z_dim"] == 20
    checkpoint = CHECKPOINT | {"hyper_parameters": {"z_dim": 20, "hidden": None}, "training": {"steps_per_call": 1}}
    assert run_options(checkpoint) == plain
    assert (
        non_default_options(checkpoint) == OLDER_DEFAULTS
    )  # what is not written down is as it was before there was such an option


@pytest.mark.parametrize("alpha", [5.0, 0.1])
def test_alpha_is_shown_at_its_default_too(alpha):
    """The default differs from the paper's."""
    found = non_default_options(CHECKPOINT | {"model": "M2", "hyper_parameters": {"alpha": alpha}})
    assert found["alpha"] == alpha
    assert non_default_options(CHECKPOINT | {"model": "M2"})["alpha"] == 5.0


@pytest.mark.parametrize("model", MODELS)
def test_paths_and_arguments_from_data_are_not_options(model):
    made = M1M2 if model == "M1M2" else CHECKPOINT | {"model": model}
    there = made | {"datamodule_hyper_parameters": {"root": "/secret"}}
    assert not {"data.root", "m1", "m1_options", "kept", "image_shape", "num_classes", "labelled_fraction"} & set(
        run_options(there)
    )


def test_default_training_options(tmp_path):
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert training_options(trainer) == TRAINING_DEFAULTS
