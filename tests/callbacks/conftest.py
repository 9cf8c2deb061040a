import pytest
import wandb
from fixtures import *  # noqa: F403
from pytorch_lightning.loggers import WandbLogger


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A logger of an offline W&B run in the folder of the test."""
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield WandbLogger(save_dir=tmp_path, project="test", offline=True)
    wandb.finish()  # also after a failure: a run left open would be taken up by the next logger
