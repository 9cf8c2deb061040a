"""Small models, small images and a quick trainer, for all tests of `models/`."""

import warnings

import pytest
import pytorch_lightning as pl
import torch

from models import MODELS
from tests.model_helpers import options_of

# Arguments of a model beyond the image shape. A new model that needs no others is tested automatically.
LABELS = {"num_classes": 3, "labelled_fraction": 0.4, "batch_norm": False}  # which is on by default
OPTIONS = {
    "AffineVAE": {"num_classes": 3, "z_dim": 10, "decoder_hidden": [16], "activation": "tanh"},
    "HierarchicalVAE": {"z_dim": [3, 2], "inner_hidden": [8]},
    "LadderVAE": {"z_dim": [3, 2], "hidden": [16], "batch_norm": False},  # which is on by default
    "DRAW": {"z_dim": 3, "steps": 3, "rnn_size": 6},
    "CVAE": {"num_classes": 3},
    "M2": LABELS | {"z_dim": 4},
    "M1M2": LABELS | {"z_dim": 4, "m1": "m1.ckpt", "kept": [0, 2, 3]},
    "ADGM": LABELS | {"z_dim": 4, "a_dim": 3, "classifier_samples": 5},
    "SDGM": LABELS | {"z_dim": 4, "a_dim": 3, "classifier_samples": 5},
    "GAN": {"batch_norm": False},  # which is on by default
}
OF_NETWORKS = ("hidden", "activation", "batch_norm")  # options that models without such networks do not have
M1_OPTIONS = {"z_dim": 4, "hidden": [16]}


class Loader:
    """An iterable of given batches with a length, as data modules return it."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)  # several threads only slow down networks of this size


@pytest.fixture
def make():
    """Return a small model called `name`, always with the same initial weights."""

    def build(name, image_shape=(1, 8, 8), seed=0, **options):
        torch.manual_seed(seed)
        options = {"hidden": [16], **OPTIONS.get(name, {}), **options}
        if "hidden" not in options_of(MODELS[name]):
            options = {key: value for key, value in options.items() if key not in OF_NETWORKS}
        if name == "M1M2":
            options["m1_options"] = {"image_shape": image_shape, **M1_OPTIONS, **options.get("m1_options", {})}
        return MODELS[name](image_shape=image_shape, **options)

    return build


@pytest.fixture
def binary():
    """Return `n` random binary images with labels 0, 1, 2, 0, ..."""

    def draw(n, image_shape=(1, 8, 8), seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(n, *image_shape, generator=generator).round(), torch.arange(n) % 3

    return draw


@pytest.fixture
def squares():
    """Return all 16 binary images of 2x2 pixels."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(16, 1, 2, 2)


@pytest.fixture
def loader():
    return Loader


@pytest.fixture
def trainer(tmp_path):
    """Return a `pl.Trainer` on the CPU without output and files."""

    def build(**options):
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        warnings.filterwarnings("ignore", "Found .* in eval mode")  # M1 of M1M2 is always in evaluation mode
        return pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, **quiet, **options})

    return build


@pytest.fixture
def fit(trainer):
    """Fit a model to a list of batches, validate on them, and return the trainer."""

    def run(model, batches, **options):
        fitter = trainer(**options)
        fitter.fit(model, Loader(batches), Loader(batches))
        return fitter

    return run


@pytest.fixture
def validate(trainer):
    """Return the metrics of a validation on a list of batches."""

    def run(model, batches):
        validator = trainer()
        validator.validate(model, Loader(batches), verbose=False)
        return validator.callback_metrics

    return run
