"""Runs that are interrupted, killed, damaged or started twice: interrupted = uninterrupted, bit for bit."""

import math
import os
import random
import shlex
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from small_runs import LAST, assert_same, at_steps, command, contents, killed, uninterrupted

import train
from callbacks import RunCheckpoint
from models import M2, VAE
from runtime import run_folder


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("kind", ["VAE", "M2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_after_the_batch_and_the_same_command_resumes(monkeypatch, capsys, kind, number):
    uninterrupted("whole", kind)
    stops = {3, 20}

    def act(step):
        if step in stops:
            stops.discard(step)
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a second one finds nothing to break

    at_steps(monkeypatch, {"VAE": VAE, "M2": M2}[kind], act)
    for step in (3, 20):
        assert train.main(command("cut", kind)) == 128 + number
        assert contents("cut")["global_step"] == step + 1
        stderr = capsys.readouterr().err
        assert f"Stopped by {number.name} after step {step + 1}. Resume with: " in stderr
        assert shlex.split(stderr.split("Resume with: ")[1])[2:] == command("cut", kind)
    assert train.main(command("cut", kind)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_signal_in_the_last_batch_of_an_epoch_waits_for_validation(monkeypatch):
    uninterrupted("whole")
    at_steps(monkeypatch, VAE, lambda step: step == 12 and os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(command("cut")) == 128 + signal.SIGTERM
    assert contents("cut")["global_step"] == 13
    assert train.main(command("cut")) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "epoch"), [("VAE", 13), ("M2", 14)])
def test_killed_twice(kind, epoch, seed):
    uninterrupted("whole", kind)
    for step in sorted(random.Random(seed).sample(range(epoch, 3 * epoch), 2)):  # in epochs 2 and 3
        killed(step, "step", *command("cut", kind))
        assert contents("cut")["global_step"] == max(4 * (step // 4), epoch * (step // epoch))
    assert train.main(command("cut", kind)) == 0
    assert_same("whole", "cut")


@pytest.mark.slow
def test_killed_during_a_save():
    uninterrupted("whole")
    killed(3, "save", *command("cut"))
    assert contents("cut")["global_step"] == 8  # the second save; the third was under way
    assert train.main(command("cut")) == 0
    assert_same("whole", "cut")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(monkeypatch, capsys, damage):
    uninterrupted("whole")
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 22 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut")) == 128 + signal.SIGTERM
    last = Path("cut") / LAST
    good = last.read_bytes()
    middle = len(good) // 2
    with zipfile.ZipFile(last) as archive:  # a bit of the largest tensor: one of the padding would not matter
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = largest.header_offset + 64 + largest.file_size // 2
    flipped = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
    last.write_bytes({"truncated": good[:middle], "flipped": flipped, "empty": b""}[damage])
    capsys.readouterr()
    assert train.main(command("cut")) == 0
    stderr = capsys.readouterr().err
    assert "last.ckpt cannot be read as a checkpoint" in stderr
    assert "Resuming from cut/checkpoints/previous.ckpt." in stderr
    assert_same("whole", "cut")


def test_resuming_without_a_readable_checkpoint_is_refused(capsys):
    assert train.main(command("a")) == 0
    for name in ("last.ckpt", "previous.ckpt"):
        Path("a/checkpoints", name).write_bytes(b"no")
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("a").rglob("*") if path.suffix != ".lock")
    assert train.main(command("a")) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("cannot be read as a checkpoint") == 2
    assert sorted((p, p.stat().st_mtime_ns) for p in Path("a").rglob("*") if p.suffix != ".lock") == before


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_nan_loss_stops_training_within_a_step(monkeypatch, capsys, what):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    loss = VAE.loss

    def poisoned(self, x, y):
        value = loss(self, x, y)
        if self.global_step < 17:
            return value
        return value * math.nan if what == "loss" else Poison.apply(value)

    monkeypatch.setattr(VAE, "loss", poisoned)
    assert train.main(command("a")) == 1
    stderr = capsys.readouterr().err
    assert (
        f"error: The loss is nan at step {18 if what == 'loss' else 19}, in epoch 2: the model has diverged." in stderr
    )
    assert "a/checkpoints/last.ckpt holds the last finite state" in stderr
    assert contents("a")["global_step"] == 16
    assert all(value.isfinite().all() for value in contents("a")["state_dict"].values() if value.is_floating_point())


def test_nan_weights_are_not_saved(monkeypatch, capsys):
    def spoil(step):
        if step == 11:  # spoils the step after it, the last of the epoch, so that only the checkpoint can notice
            monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure: spoiled(self, closure))

    def spoiled(optimizer, closure):
        closure()
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(math.nan)

    at_steps(monkeypatch, VAE, spoil)
    assert train.main(command("a")) == 1
    assert "A weight is not finite after step 13" in capsys.readouterr().err
    assert contents("a")["global_step"] == 12


def test_a_run_folder_is_locked_by_one_process(capsys):
    Path("a").mkdir()
    with FileLock("a/.lock"):
        assert train.main(command("a")) == 2
    assert "Another job is writing to a: wait for it, or choose another --run_dir." in capsys.readouterr().err
    assert not Path("a/checkpoints").exists()
    assert train.main(command("a")) == 0


def test_insufficient_disk_space_is_detected_before_the_first_step(monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("callbacks.checkpoint.shutil.disk_usage", lambda path: usage)
    assert train.main(command("a")) == 2
    assert "too little for four checkpoints" in capsys.readouterr().err
    assert not Path("a").exists()


def test_a_disk_that_fills_up_destroys_no_checkpoint(monkeypatch, capsys):
    save = RunCheckpoint._save
    times = []

    def full(self, trainer, path, keep=None):
        times.append(path)
        if len(times) == 5:
            raise OSError(28, "No space left on device", str(path))
        save(self, trainer, path, keep)

    monkeypatch.setattr(RunCheckpoint, "_save", full)
    assert train.main(command("a")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert contents("a")["global_step"] == 12


def test_a_finished_run_is_not_changed(capsys):
    assert train.main(command("a")) == 0
    before = Path("a", LAST).read_bytes()
    assert train.main(command("a")) == 0
    assert Path("a", LAST).read_bytes() == before


def test_a_file_system_without_links_keeps_a_copy(monkeypatch):
    def refuse(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("callbacks.checkpoint.os.link", refuse)
    assert train.main(command("a")) == 0
    Path("a", LAST).write_bytes(b"")
    assert train.main(command("a")) == 0
    uninterrupted("whole")
    assert_same("whole", "a")


def test_a_signal_within_an_accumulated_step_waits_for_its_end(monkeypatch):
    more = ["--trainer.accumulate_grad_batches", "4"]
    uninterrupted("whole", "VAE", *more)
    with monkeypatch.context() as patch:  # step 5 begins with batch 4 of the second epoch
        at_steps(patch, VAE, lambda step: step == 5 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", *more)) == 143
    assert contents("cut")["global_step"] == 6
    assert train.main(command("cut", "VAE", *more)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_signal_at_the_end_of_training_leaves_the_evaluation_to_the_next_start(monkeypatch, capsys):
    with_result = command("a", "VAE", "--num_samples", "3")
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 38 and os.kill(os.getpid(), signal.SIGUSR1))
        assert train.main(with_result) == 138
    assert "Stopped by SIGUSR1 after step 39. Resume with: " in capsys.readouterr().err
    assert not Path("a/evaluation.json").exists()
    assert train.main(with_result) == 0
    assert Path("a/evaluation.json").exists()


@pytest.mark.slow
def test_rows_of_metrics_survive_a_kill_with_a_large_log_interval():
    rare = ["--trainer.log_every_n_steps", "5", "--save_every_steps", "100"]
    uninterrupted("whole", "VAE", *rare)
    killed(19, "step", *command("cut", "VAE", *rare))
    assert train.main(command("cut", "VAE", *rare)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_process_without_the_lock_changes_nothing(monkeypatch, capsys):
    made = run_folder.make_folder

    def slowly(folder, is_default):  # another job takes the lock between the making of the folder and the locking
        found = made(folder, is_default)
        lock.acquire()
        Path("a/config.yaml").write_text("of another job")
        return found

    lock = FileLock("a/.lock")
    monkeypatch.setattr(run_folder, "make_folder", slowly)
    assert train.main(command("a")) == 2
    lock.release()
    assert "Another job is writing to a" in capsys.readouterr().err
    assert Path("a/config.yaml").read_text() == "of another job"


def test_the_folder_is_locked_until_the_evaluation_ends(monkeypatch):
    def look(*args, **options):
        with pytest.raises(Timeout):
            FileLock("a/.lock").acquire(timeout=0)

    monkeypatch.setattr(train, "evaluate_checkpoint", look)
    assert train.main(command("a", "VAE", "--num_samples", "3")) == 0


@pytest.mark.parametrize("when", ["loading", "evaluating"])
def test_ctrl_c_outside_training(monkeypatch, capsys, when):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((train, "build") if when == "loading" else (train, "evaluate_checkpoint")), stop)
    assert train.main(command("a", "VAE", "--num_samples", "3")) == 130
    stderr = capsys.readouterr().err
    expected = "before the first step" if when == "loading" else "after training: the same command with --resume auto"
    assert f"Stopped {expected}" in stderr
    assert Path("a").exists() == (when == "evaluating")
