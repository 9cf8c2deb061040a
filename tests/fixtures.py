"""Digits, small models, and a trainer that sees a few batches of them per epoch."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers.logger import Logger

from datamodules import DATAMODULES
from models import MODELS
from tests.model_helpers import options_of

# batch norm has state of its own that a look at the model could change
OPTIONS = {"hidden": [16], "batch_norm": True, "z_dim": 4}
M1 = {"image_shape": (1, 8, 8), **OPTIONS}
MORE = {
    "AffineVAE": {"z_dim": 9, "decoder_hidden": [16]},  # six are the map
    "HierarchicalVAE": {"z_dim": [4, 3], "inner_hidden": [8]},
    "LadderVAE": {"z_dim": [4, 3]},
    "DRAW": {"z_dim": 2, "steps": 2, "rnn_size": 8},
    "ADGM": {"a_dim": 3, "classifier_samples": 5},
    "SDGM": {"a_dim": 3, "classifier_samples": 5},
    "M1M2": {"m1": "m1.ckpt", "m1_options": M1, "kept": [0, 2, 3]},  # the file is read by `for_data` alone
}


class Memory(Logger):
    """A logger that keeps what it is given."""

    name = version = "memory"

    def __init__(self):
        super().__init__()
        self.rows = []  # (step, metrics)

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def of(self, name):
        """Every (step, epoch, value) of one metric."""
        return [(step, row["epoch"], row[name]) for step, row in self.rows if name in row]


@pytest.fixture
def memory():
    return Memory


@pytest.fixture(scope="session")
def data():
    digits = DATAMODULES["Digits"](batch_size=50)
    digits.setup()
    return digits


@pytest.fixture(scope="session")
def grey_data():
    digits = DATAMODULES["Digits"](batch_size=50, binarization="grey")
    digits.setup()
    return digits


@pytest.fixture
def make_model(data):
    """A small model by its name, always with the same weights."""

    def make(name="VAE", kind=None, **options):
        torch.manual_seed(0)
        chosen = kind or MODELS[name]
        data_args = {key: getattr(data, key) for key in chosen.data_args}
        shared = {key: value for key, value in OPTIONS.items() if key in options_of(chosen)}
        return chosen(**data_args, **shared | MORE.get(name, {}) | options)

    return make


@pytest.fixture
def fit(data, grey_data, tmp_path):
    """Trains for some epochs of three batches in the folder `tmp_path`, and gives the trainer."""

    def run(model, callbacks, max_epochs=2, ckpt_path=None, **options):
        options = {"logger": False, "limit_train_batches": 3, "log_every_n_steps": 1} | options
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=max_epochs,
            default_root_dir=tmp_path,
            callbacks=callbacks,
            num_sanity_val_steps=0,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        torch.manual_seed(0)
        datamodule = grey_data if getattr(model, "default_binarization", None) == "grey" else data
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run
