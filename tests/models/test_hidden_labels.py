"""Labels that are hidden from training do not affect it."""

import pytest
import torch

from callbacks.step_rng import StepRNG
from datamodules import DATAMODULES
from models import MODELS

Digits = DATAMODULES["Digits"]


def m1():
    """The same M1 in all tests: random weights, 6 latents of which some are kept."""
    data = Digits()
    data.setup()
    torch.manual_seed(1)
    return MODELS["VAE"].for_data(data, z_dim=6, hidden=[16])


def make(name, data):
    name, _, features = name.partition(" ")
    torch.manual_seed(0)
    if name in ("M2", "ADGM", "SDGM"):
        more = {} if name == "M2" else {"a_dim": 3, "classifier_samples": 5}
        return MODELS[name].for_data(data, hidden=[16], z_dim=4, **more)
    if name == "AffineVAE":
        return MODELS[name].for_data(data, hidden=[16], z_dim=10, decoder_hidden=[16], label_weight=1.0)
    options = {"labelled_fraction": data.labelled_fraction, "num_classes": 10, "hidden": [16], "z_dim": 4}
    part = m1()
    model = MODELS["M1M2"](data.image_shape, m1="", m1_options=dict(part.hparams), kept=[0, 1, 2, 4],
                           features=features, **options)  # fmt: skip
    model.m1.load_state_dict(part.state_dict())
    return model


def run(trainer, data, name="M2"):
    data.setup()
    data.run_seed = 3
    model = make(name, data)
    fitter = trainer(max_epochs=2, callbacks=[StepRNG(3)])
    fitter.fit(model, datamodule=data)
    return model.state_dict(), fitter.callback_metrics


@pytest.fixture
def reference():
    data = Digits(num_labels=50, batch_size=200)
    data.setup()
    return data


def flipped(reference, shown, change):
    """Digits with other labels wherever they are hidden, including the validation split."""

    class Flipped(Digits):
        def fetch(self):
            train, test = super().fetch()
            y = change(train.y.clone())
            y[shown] = train.y[shown]
            self.changed = (y != train.y).double().mean().item()
            return train._replace(y=y), test

        def _choose_labelled(self, y, train_index):
            return shown  # the visible labels are chosen before the flip

    Flipped.__name__ = "Digits"
    return Flipped(num_labels=50, batch_size=200)


@pytest.mark.parametrize("name", ["M2", "M1M2 grey", "M1M2 binarized", "ADGM", "SDGM", "AffineVAE"])
@pytest.mark.parametrize("change", [lambda y: (y + 3) % 10, lambda y: torch.full_like(y, 9), lambda y: y.flip(0)])
def test_flipping_every_hidden_label_leaves_training_bit_identical(trainer, reference, change, name):
    expected, metrics = run(trainer, Digits(num_labels=50, batch_size=200), name)
    data = flipped(reference, reference.label_indices, change)
    state, other = run(trainer, data, name)
    assert data.changed > 0.8
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    for key in metrics.keys() - {"val/error", "val/labelled_bound"}:
        assert torch.equal(metrics[key], other[key])
    assert metrics["val/error"] != other["val/error"]  # validation labels are logged but select nothing


@pytest.mark.parametrize("name", ["M2", "M1M2 grey", "ADGM", "SDGM", "AffineVAE"])
def test_control_changing_a_visible_label_changes_training(trainer, reference, name):
    expected, _ = run(trainer, Digits(num_labels=50, batch_size=200), name)
    data = flipped(reference, reference.label_indices[1:], lambda y: (y + 3) % 10)
    state, _ = run(trainer, data, name)
    assert any(not torch.equal(value, expected[key]) for key, value in state.items())


def test_the_choice_of_visible_labels_does_not_depend_on_hidden_ones(reference, monkeypatch):
    # end to end, the choice of labels included: hidden images take the class of which all shown ones came earlier
    train, test = reference.fetch()
    hidden = torch.ones(len(train.y), dtype=torch.bool)
    hidden[reference.label_indices] = False
    changed = 0
    for offset in (1, 4, 7):
        y = torch.where(hidden, (train.y + offset) % 10, train.y)
        for index in hidden.nonzero()[:40, 0].tolist():
            candidate = train.y.clone()
            candidate[index] = y[index]
            data = Digits(num_labels=50)
            monkeypatch.setattr(data, "fetch", lambda candidate=candidate: (train._replace(y=candidate), test))
            data.setup()
            if torch.equal(data.label_indices, reference.label_indices):
                changed += 1
                assert torch.equal(data.train.y, reference.train.y)
    assert changed > 60
