import pytest
import torch
from pytorch_lightning import Callback

from callbacks import PowersOfTwoCallback, RunCheckpoint
from callbacks.base import finished_epochs


class Diary(PowersOfTwoCallback):
    """Writes down after which epochs it acts, and in what state it finds the model."""

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
    diary = Diary()
    fit(make_model(), [diary], max_epochs)
    assert diary.epochs == expected


@pytest.mark.parametrize(("stop", "expected"), [(3, [1, 2, 3]), (4, [1, 2, 4])])
@pytest.mark.parametrize("diary_first", [True, False])
def test_an_early_stop_makes_its_epoch_the_last(fit, make_model, stop, expected, diary_first):
    diary = Diary()
    fit(make_model(), [diary, StopAfter(stop)] if diary_first else [StopAfter(stop), diary], max_epochs=10)
    assert diary.epochs == expected


def test_a_limit_of_steps_makes_its_epoch_the_last(fit, make_model):
    diary = Diary()
    fit(make_model(), [diary], max_epochs=10, max_steps=9)  # three epochs of three
    assert diary.epochs == [1, 2, 3]


def test_a_resumed_run_keeps_the_schedule(fit, make_model, tmp_path):
    fit(make_model(), [RunCheckpoint(tmp_path, seed=0)], max_epochs=3)
    diary = Diary()
    resumed = {"max_epochs": 6, "ckpt_path": tmp_path / "checkpoints" / "last.ckpt"}
    fit(make_model(), [diary, RunCheckpoint(tmp_path, seed=0)], **resumed)
    assert diary.epochs == [4, 6]


def test_acts_in_evaluation_mode_without_gradients_with_the_same_noise(fit, make_model):
    diary = Diary()
    model = make_model()
    fit(model, [diary])
    assert diary.training == diary.gradients == [False, False]
    assert diary.noise[0] == diary.noise[1]
    assert all(module.training for module in model.modules() if not module._get_name().startswith("Mean"))


def test_acts_on_the_first_rank_alone(fit, make_model):
    diary = Diary()
    trainer = fit(make_model(), [])

    class Elsewhere:
        is_global_zero = False
        fit_loop = trainer.fit_loop
        max_epochs = 2

    diary.on_train_epoch_end(Elsewhere(), trainer.lightning_module)
    diary.on_train_end(Elsewhere(), trainer.lightning_module)
    assert diary.epochs == []
