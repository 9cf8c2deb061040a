import pytest
import torch
from pytorch_lightning import Callback

from callbacks import PowersOfTwoCallback, RunCheckpoint
from callbacks.base import finished_epochs


class Recorder(PowersOfTwoCallback):
    """Record the epochs after which it acts, and the state of the model."""

    def __init__(self):
        self.epochs, self.training, self.gradients, self.noise = [], [], [], []

    def act(self, trainer, model):
        self.epochs.append(finished_epochs(trainer))
        self.training.append(any(module.training for module in model.modules()))
        self.gradients.append(torch.is_grad_enabled())
        self.noise.append(torch.rand(1).item())


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize(
    ("max_epochs", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4, 7]), (8, [1, 2, 4, 8])]
)
def test_acts_after_powers_of_two_and_the_last_epoch_once_each(fit, make_model, max_epochs, expected):
    recorder = Recorder()
    fit(make_model(), [recorder], max_epochs)
    assert recorder.epochs == expected


@pytest.mark.parametrize(("stop", "expected"), [(3, [1, 2, 3]), (4, [1, 2, 4])])
@pytest.mark.parametrize("recorder_first", [True, False])
def test_acts_after_the_epoch_of_an_early_stop(fit, make_model, stop, expected, recorder_first):
    recorder = Recorder()
    fit(make_model(), [recorder, StopAfter(stop)] if recorder_first else [StopAfter(stop), recorder], max_epochs=10)
    assert recorder.epochs == expected


def test_acts_after_the_last_epoch_of_a_step_limit(fit, make_model):
    recorder = Recorder()
    fit(make_model(), [recorder], max_epochs=10, max_steps=9)  # three epochs of three
    assert recorder.epochs == [1, 2, 3]


def test_a_resumed_run_keeps_the_schedule(fit, make_model, tmp_path):
    fit(make_model(), [RunCheckpoint(tmp_path, seed=0)], max_epochs=3)
    recorder = Recorder()
    resumed = {"max_epochs": 6, "ckpt_path": tmp_path / "checkpoints" / "last.ckpt"}
    fit(make_model(), [recorder, RunCheckpoint(tmp_path, seed=0)], **resumed)
    assert recorder.epochs == [4, 6]


def test_acts_in_evaluation_mode_without_gradients_with_the_same_noise(fit, make_model):
    recorder = Recorder()
    model = make_model()
    fit(model, [recorder])
    assert recorder.training == recorder.gradients == [False, False]
    assert recorder.noise[0] == recorder.noise[1]
    assert all(module.training for module in model.modules() if not module._get_name().startswith("Mean"))


def test_acts_on_rank_0_only(fit, make_model):
    recorder = Recorder()
    trainer = fit(make_model(), [])

    class Elsewhere:
        is_global_zero = False
        fit_loop = trainer.fit_loop
        max_epochs = 2

    recorder.on_train_epoch_end(Elsewhere(), trainer.lightning_module)
    recorder.on_train_end(Elsewhere(), trainer.lightning_module)
    assert recorder.epochs == []
