"""Detection of mode collapse: the share of nearly identical samples, the warning, and the remark."""

import math

import pytest
import torch

from callbacks import ModeCollapse, mode_collapse
from evaluation.metrics import mode_collapse as measured
from models import GAN, evaluating
from models.implicit import COLLAPSED_SHARE


@pytest.fixture
def data(grey_data):
    return grey_data


class Few(GAN):
    """A generator of `count` test images; with 0, of all of them."""

    count = 0
    source = None

    def generate(self, z):
        images = self.source[: self.count or None].to(z)
        return images[(torch.special.ndtr(z[..., 0]) * len(images)).long()] + 0 * super().generate(z)


class IgnoresCode(GAN):
    """A generator that ignores z."""

    def generate(self, z):
        return super().generate(torch.zeros_like(z))


def few(make_model, data, count):
    model = make_model("GAN", kind=Few, batch_norm=False)
    model.count, model.source = count, data.images("test")[0]
    return model


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_generator_of_few_images_has_a_share_of_about_one_over_their_number(make_model, data, count):
    with evaluating(model := few(make_model, data, count)):
        share = model.duplicates(data.images("val")[0])
    assert share == pytest.approx(1 / count, abs=0.05)
    assert share > COLLAPSED_SHARE


def test_samples_as_varied_as_the_data_are_no_collapse(make_model, data):
    with evaluating(model := few(make_model, data, 0)):
        assert model.duplicates(data.images("val")[0]) < 0.02


def test_a_generator_that_ignores_z_has_collapsed(make_model, data):
    model = make_model("GAN", kind=IgnoresCode)
    assert measured(model, data.images("test")[0]) == {"duplicates": pytest.approx(1, abs=1e-3)}
    assert measured(model, data.images("test", 49)[0]) == {}  # too few to decide


def test_data_without_variation_are_no_collapse(make_model):
    with evaluating(model := make_model("GAN", kind=IgnoresCode)):
        assert model.duplicates(torch.rand(1, 1, 8, 8).expand(60, -1, -1, -1)) == 0


def test_the_share_is_logged(fit, make_model, memory):
    log = memory()
    fit(make_model("GAN", kind=IgnoresCode), [ModeCollapse()], max_epochs=1, logger=log)
    step, epoch, _ = log.of("val/bound")[0]
    assert log.of("val/duplicates") == [(step, epoch, pytest.approx(1))]


def test_a_collapse_is_reported_once(fit, make_model, monkeypatch):
    monkeypatch.setattr(mode_collapse, "MIN_STEPS_BETWEEN_CHECKS", 6)
    message = r"The generator has collapsed after 3 epochs: 100% of the pairs .* identical\. Try a lower --model\.lr\.$"
    with pytest.warns(UserWarning, match=message) as caught:
        fit(make_model("GAN", kind=IgnoresCode), [ModeCollapse()], max_epochs=6)
    assert len([w for w in caught if "has collapsed" in str(w.message)]) == 1


@pytest.mark.parametrize(("shares", "collapsed"), [
    ([1.0], False),  # a single check
    ([1.0, 1.0], False),  # two, close to each other
    ([1.0, 0.9, 0.7, 0.5, 0.3, 0.1], False),  # slow start
    ([0.1, 0.0, 0.15, 0.1, 0.1], False),
    ([0.3, 0.3, 0.1, 0.3, 0.3], False),  # recovers
    ([math.nan] * 5, False),  # too few images
    ([1.0, 0.5, 0.0, 0.4, 0.5, 0.6], True),  # later
])  # fmt: skip
def test_when_a_collapse_is_certain(fit, make_model, monkeypatch, shares, collapsed):
    monkeypatch.setattr(mode_collapse, "MIN_STEPS_BETWEEN_CHECKS", 6)
    checks, callback = iter(shares), ModeCollapse()
    callback.share = lambda trainer, model: next(checks)
    callback.act = lambda trainer, model: None
    monkeypatch.setattr(mode_collapse, "rank_zero_warn", lambda text: None)
    fit(make_model("GAN"), [callback], max_epochs=len(shares))
    assert callback.has_warned is collapsed


def test_the_remedy_names_an_option_that_is_not_used_yet(make_model):
    assert make_model("GAN", r1=0.0).collapse_remedy() == "Try --model.r1 0.1."
    assert make_model("GAN").collapse_remedy() == "Try a lower --model.lr."
