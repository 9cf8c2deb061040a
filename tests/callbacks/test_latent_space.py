import pytest
import torch

from callbacks import LatentSpace, latent_space
from callbacks.latent_space import is_active
from models import VAE
from models.estimators import active_units


class TwoLayers(VAE):
    """Three units in the first layer, two of them active; one of four in the second."""

    def latent_statistics(self, x):
        varies = x.flatten(1).sum(1, keepdim=True)
        flat = torch.zeros_like(varies)
        means = torch.cat([varies, flat, varies], 1), torch.cat([flat, flat, varies, flat], 1)
        return [(mean, torch.ones_like(mean)) for mean in means]


class Collapsed(VAE):
    def latent_statistics(self, x):
        return [(torch.zeros(len(x), 4), torch.zeros(len(x), 4))]


def test_which_units_are_active():
    means = torch.tensor([[1.0, 5.0, 0.0], [-1.0, 5.0, 0.05], [1.0, 5.0, -0.05]])
    assert is_active(means).tolist() == [True, False, False]


def test_logs_the_active_units_of_the_whole_validation_set(fit, make_model, memory, data, monkeypatch):
    monkeypatch.setattr(latent_space, "CHUNK", 60)  # 250 images in parts, the last one smaller
    monkeypatch.setattr(latent_space, "BEGINNING", (0, 0))  # some units are active: no warning, which would be an error
    log, model = memory(), make_model(batch_norm=False)
    fit(model, [LatentSpace()], max_epochs=1, logger=log)
    expected = active_units(model.eval().encode(data.images("val")[0]))
    assert log.of("val/active_units")[-1][2] == expected > 0


def test_each_layer_has_its_number_beside_the_metrics_of_validation(fit, make_model, memory):
    log = memory()
    fit(make_model(kind=TwoLayers), [LatentSpace()], max_epochs=1, logger=log)
    step, epoch, _ = log.of("val/bound")[0]
    assert log.of("val/active_units") == [(step, epoch, 2)]
    assert log.of("val/active_units_2") == [(step, epoch, 1)]
    assert not log.of("val/active_units_3")


def test_draws_the_kl_averaged_over_images(fit, make_model, data, monkeypatch):
    drawn = []
    draw = latent_space.plots.kl_per_dimension
    monkeypatch.setattr(latent_space.plots, "kl_per_dimension", lambda *args: drawn.append(args) or draw(*args))
    model = make_model()
    fit(model, [LatentSpace()], max_epochs=1)
    _, kl = model.eval().latent_statistics(data.images("val")[0])[0]
    torch.testing.assert_close(drawn[0][0][0], kl.mean(0).detach())


def test_warns_of_a_latent_that_is_not_used_after_the_beginning(fit, make_model, monkeypatch):
    fit(make_model(kind=Collapsed), [LatentSpace()], max_epochs=4)  # 12 steps are a beginning; a warning is an error
    monkeypatch.setattr(latent_space, "BEGINNING", (4, 12))
    with pytest.warns(UserWarning, match="No latent unit is active after 4 epochs") as caught:
        fit(make_model(kind=Collapsed), [LatentSpace()], max_epochs=4)
    assert len([w for w in caught if "No latent unit" in str(w.message)]) == 1
