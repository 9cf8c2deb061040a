"""Callbacks do not change training."""

import pytest
import torch

from callbacks import CALLBACKS, Progress, RunCheckpoint, StepRNG, for_model
from models import MODELS


def trained(fit, model, watching, memory):
    fit(model, watching, max_epochs=2, logger=memory)
    validation = [row for _, row in memory.rows if "val/bound" in row]
    return model.state_dict(), validation, torch.get_rng_state()


def check_same(plain, watched, has_batch_norm=True):
    assert any("running_mean" in key for key in plain[0]) == has_batch_norm
    assert plain[0].keys() == watched[0].keys()
    for key in plain[0]:
        assert torch.equal(plain[0][key], watched[0][key]), key
    assert len(plain[1]) == 2
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("noise", [[], [StepRNG(seed=1)]], ids=["free", "step-noise"])
def test_training_is_unchanged_by_callbacks(fit, make_model, memory, tmp_path, name, noise):
    plain = trained(fit, make_model(name), noise, memory())
    model = make_model(name)
    watching = [*for_model(model), Progress(), RunCheckpoint(tmp_path, seed=0)]
    watched = trained(fit, model, [*watching, *noise], memory())
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 4  # it was looked at, and more than once
    check_same(plain, watched, has_batch_norm=name != "DRAW")


@pytest.mark.parametrize(("callback", "z_dim"), [("latent_plane", 2), ("latent_codes_tsne", 3)])
def test_training_is_unchanged_by_optional_figures(fit, make_model, memory, tmp_path, callback, z_dim):
    plain = trained(fit, make_model(z_dim=z_dim), [], memory())
    watched = trained(fit, make_model(z_dim=z_dim), [CALLBACKS[callback]()], memory())
    assert list((tmp_path / "figures").glob(f"{callback}_epoch0002.png"))
    check_same(plain, watched)
