"""How many optimizer steps the Trainer takes per call when the user does not say."""

from types import SimpleNamespace

import pytest
import torch
from small_runs import command

import train
from models import MODELS, VAE
from runtime import steps_per_call
from runtime.steps_per_call import choose, need_single_steps

PLAIN = [
    "--data", "Digits", "--model.hidden", "[8]", "--trainer.max_epochs", "2", "--num_samples", "0", "--callbacks", "[]",
    "--trainer.enable_progress_bar", "false",
]  # fmt: skip


def plain_trainer(**options):
    defaults = {"world_size": 1, "accumulate_grad_batches": 1, "gradient_clip_val": None, "precision": "32-true",
                "limit_train_batches": 1.0, "val_check_interval": 1.0, "min_steps": None}  # fmt: skip
    return SimpleNamespace(**defaults | options)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_work_means_fewer_steps(device):
    numbers = [choose(work, device, []) for work in (1e3, 1e7, 1e8, 1e9, 1e10, 1e12, 1e15)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 5
    assert numbers[-1] == 1


def test_a_call_ends_where_the_user_wants_to_see_or_save_something():
    assert choose(0, "cpu", []) == 10
    assert choose(0, "cpu", [50, 1000]) == 10
    assert choose(0, "cpu", [50, 6]) == 2
    assert choose(0, "cpu", [7]) == 7
    assert choose(0, "cpu", [1]) == 1
    assert choose(0, "cpu", [25]) == 5
    assert choose(0, "cpu", [53]) == 10  # 1 would be too slow


class OwnHook(VAE):
    """Clips gradients itself, in a hook that the Trainer calls in single steps only."""

    def on_before_optimizer_step(self, optimizer):
        pass


def test_options_and_methods_that_need_single_steps_are_named():
    assert need_single_steps(plain_trainer(), VAE((1, 8, 8))) == []
    assert need_single_steps(plain_trainer(world_size=2), VAE((1, 8, 8))) == ["--trainer.devices"]
    assert need_single_steps(plain_trainer(), OwnHook((1, 8, 8))) == ["OwnHook.on_before_optimizer_step"]


def test_no_model_of_this_project_needs_single_steps():
    for kind in MODELS.values():
        assert need_single_steps(plain_trainer(), kind.__new__(kind)) == []


def test_a_hook_of_a_users_model_is_called(tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setitem(MODELS, "OwnHook", OwnHook)
    monkeypatch.setattr(OwnHook, "on_before_optimizer_step", lambda self, optimizer: called.append(self.global_step))
    assert train.main(command(str(tmp_path / "a"), "VAE", "--model", "OwnHook", "--trainer.max_epochs", "1")) == 0
    assert called == list(range(13))
    assert "warning" not in capsys.readouterr().err  # nobody asked for more
    more = ["--model", "OwnHook", "--trainer.max_epochs", "1", "--steps_per_call", "5"]
    assert train.main(command(str(tmp_path / "b"), "VAE", *more)) == 0
    assert "--steps_per_call is set to 1, as OwnHook.on_before_optimizer_step requires" in capsys.readouterr().err


def test_a_gpu_that_cannot_replay_steps_is_said_to_be_slower(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps_per_call, "can_replay", lambda device: True)
    clipped = [*PLAIN, "--trainer.gradient_clip_val", "1"]
    sentence = "Steps are not replayed as a CUDA graph, as --trainer.gradient_clip_val requires"
    for name, more, is_lost in (
        ("default", [], True),
        ("not wanted", ["--cuda_graph", "false"], False),
        ("single steps anyway", ["--trainer.log_every_n_steps", "1"], False),
    ):
        assert train.main([*clipped, *more, "--run_dir", str(tmp_path / name)]) == 0
        assert (sentence in capsys.readouterr().err) == is_lost


def test_the_default_takes_several_steps_per_call_and_has_the_bits_of_single_steps(tmp_path, capsys):
    for name, more in (("default", []), ("single", ["--steps_per_call", "1"])):
        assert train.main([*PLAIN, *more, "--run_dir", str(tmp_path / name)]) == 0
        assert (", 10 steps per call, run folder" in capsys.readouterr().out) == (name == "default")
    default, single = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("default", "single")
    )
    assert all(torch.equal(value, single[key]) for key, value in default.items())


class ReadsTrainer(VAE):
    """Its loss reads a number of the Trainer, which is there only during training."""

    def loss(self, x, y):
        return super().loss(x, y) * (1 + self.trainer.current_epoch)


def test_a_loss_that_reads_the_trainer_needs_no_option(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "ReadsTrainer", ReadsTrainer)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    more = ["--model", "ReadsTrainer", "--trainer.max_epochs", "1"]
    assert train.main(command(str(tmp_path / "a"), "VAE", *more)) == 0


@pytest.mark.parametrize("value", ["0", "many"])
def test_wrong_numbers_end_in_a_sentence(value, capsys):
    assert train.main(["--steps_per_call", value]) == 2
    assert "--steps_per_call" in capsys.readouterr().err
