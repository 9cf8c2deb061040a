import math
import re

import pytest
import torch

from callbacks import ActiveUnits, active_units
from models import MODELS, VAE
from models.estimators.active_units import is_active


class TwoLayers(VAE):
    """Three units in the first layer, two of them active; one of four in the second."""

    def latent_statistics(self, x):
        varies = x.flatten(1).sum(1, keepdim=True)
        flat = torch.zeros_like(varies)
        means = torch.cat([varies, flat, varies], 1), torch.cat([flat, flat, varies, flat], 1)
        return [(mean, torch.ones_like(mean)) for mean in means]


def test_logs_the_active_units_of_the_whole_validation_set(fit, make_model, memory, data, monkeypatch):
    monkeypatch.setattr(active_units, "CHUNK", 60)  # 250 images in parts, the last one smaller
    log, model = memory(), make_model(batch_norm=False)
    fit(model, [ActiveUnits()], max_epochs=1, logger=log)
    expected = is_active(model.eval().encode(data.images("val")[0])).sum()
    assert log.of("val/active_units")[-1][2] == expected > 0


def test_each_layer_is_logged_with_the_validation_metrics(fit, make_model, memory):
    log = memory()
    fit(make_model(kind=TwoLayers), [ActiveUnits()], max_epochs=1, logger=log)
    step, epoch, _ = log.of("val/bound")[0]
    assert log.of("val/active_units") == [(step, epoch, 2)]
    assert log.of("val/active_units_2") == [(step, epoch, 1)]
    assert not log.of("val/active_units_3")


def test_draws_the_kl_averaged_over_images(fit, make_model, data, monkeypatch):
    drawn = []
    draw = active_units.charts.kl_per_dimension
    monkeypatch.setattr(active_units.charts, "kl_per_dimension", lambda *args: drawn.append(args) or draw(*args))
    model = make_model()
    fit(model, [ActiveUnits()], max_epochs=1)
    _, kl = model.eval().latent_statistics(data.images("val")[0])[0]
    torch.testing.assert_close(drawn[0][0][0], kl.mean(0).detach())


@pytest.fixture
def collapsing(fit, make_model, monkeypatch):
    """Train a model with given variances of posterior means over images, one per check, 3 steps apart."""
    monkeypatch.setattr(active_units, "MIN_STEPS_BETWEEN_CHECKS", 6)

    def run(variances, callback=None, name="VAE", **options):
        class Collapsing(MODELS[name]):
            checks = iter(variances)

            def latent_statistics(self, x, y=None):
                varies = x.flatten(1).sum(1, keepdim=True)
                means = varies / varies.std() * next(self.checks) ** 0.5
                return [(means.expand(-1, 4), torch.zeros(len(x), 4))]

        model = make_model(name, kind=Collapsing, **{"beta_warmup": 0, **options})
        callback = callback or ActiveUnits()
        callback.act = lambda trainer, model: None
        fit(model, [callback], max_epochs=len(variances))
        return callback.has_warned

    return run


def test_a_collapse_is_reported_once(collapsing):
    message = r"No latent unit is active after 3 epochs: .* Try --model\.beta_warmup 3\.$"
    with pytest.warns(UserWarning, match=message) as caught:
        assert collapsing([1e-7, 9e-8, 8e-8, 7e-8, 6e-8, 5e-8])
    assert len([w for w in caught if "No latent unit" in str(w.message)]) == 1


@pytest.mark.parametrize("variances", [
    [1e-7],  # a single check
    [1e-7, 9e-8],  # two, close to each other
    [1e-7, 1e-6, 1e-4, 1e-2, 1],  # slow start
    [1e-8, 2e-8, 4e-8, 8e-8, 1.6e-7],  # still growing
    [1e-3, 1e-4, 6e-6, 6e-6, 6e-6, 1e-5, 1],  # recovers
])  # fmt: skip
def test_no_warning_if_units_may_still_become_active(collapsing, variances):
    assert not collapsing(variances)


def test_no_warning_during_kl_warm_up(collapsing):
    assert not collapsing([1e-7] * 5, beta_warmup=5)
    with pytest.warns(UserWarning, match=r"after 3 epochs: .*beta_warmup 2\."):
        assert collapsing([1e-7] * 5, beta_warmup=1)


def test_no_warning_with_few_images(collapsing, data, monkeypatch):
    images = type(data).images
    monkeypatch.setattr(
        type(data),
        "images",
        lambda self, split, n=None, *args, **kwargs: images(self, split, min(n or 49, 49), *args, **kwargs),
    )
    assert not collapsing([1e-7] * 5)


def test_active_units_are_not_logged_for_one_image(fit, make_model, memory, data, monkeypatch):
    images = type(data).images
    monkeypatch.setattr(
        type(data), "images", lambda self, split, n=None, *args, **kwargs: images(self, split, 1, *args, **kwargs)
    )
    log = memory()
    fit(make_model(), [ActiveUnits()], max_epochs=1, logger=log)
    assert log.of("val/bound")
    assert not log.of("val/active_units")


@pytest.mark.parametrize(("name", "options", "epochs", "message"), [
    ("VAE", {}, 100, "Try --model.beta_warmup 10."),
    ("VAE", {}, 7, "Try --model.beta_warmup 3."),
    ("VAE", {}, 1, "Try --model.beta_warmup 1."),
    ("VAE", {}, math.inf, "Try --model.beta_warmup 10."),
    ("VAE", {"beta_warmup": 10}, 100, "Try --model.beta_warmup 20."),
    ("VAE", {"beta": 100}, 100, "Lower --model.beta, which is 100."),
    ("VAE", {"lr": 0.1}, 100, "Try a lower --model.lr, which is 0.1."),
    ("HierarchicalVAE", {}, 100, "Try --model.beta_warmup 10."),
    ("CVAE", {}, 100, "Try --model.beta_warmup 10."),
    ("AffineVAE", {}, 100, "Try --model.beta_warmup 10."),
    ("IWAE", {"batch_norm": False}, 100, "Try --model.batch_norm true."),
    ("IWAE", {}, 100, "Try --model.activation tanh."),
    ("VAE", {"objective": "stl", "activation": "tanh"}, 100, "Try a lower --model.lr."),
    ("M2", {"batch_norm": False}, 100, "Try --model.batch_norm true."),
])  # fmt: skip
def test_the_suggested_option_is_accepted_by_the_model(make_model, monkeypatch, name, options, epochs, message):
    model = make_model(name, **options)
    monkeypatch.setattr(model, "steps_per_epoch", lambda: 100)
    monkeypatch.setattr(model, "total_steps", lambda: 100 * epochs)
    assert active_units.remedy(model, epochs) == message
    if change := re.match(r"Try --model\.(\w+) (\w+)", message):
        value = {"true": True, "tanh": "tanh"}.get(change[2]) or int(change[2])
        make_model(name, **options | {change[1]: value})
