"""Runs that are resumed with other options or after they have finished."""

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import yaml
from small_runs import LAST, assert_same, command, contents, faulty

import train

MORE = ("--trainer.max_epochs", "4")


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rates(folder):
    with Path(folder, "metrics.csv").open() as file:
        return [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]


def test_a_change_is_named_and_allowed_only_when_asked_for(capsys):
    assert train.main(command("a")) == 0
    changed = command("a", "VAE", *MORE, "--model.lr", "1e-2", "--model.beta", "0.5")
    assert train.main(changed) == 2
    stderr = capsys.readouterr().err
    assert (
        "its --model.lr is 0.001, not 0.01; its --model.beta is 1.0, not 0.5. Give the same options, or add" in stderr
    )
    assert contents("a")["epoch"] == 2
    assert train.main([*changed, "--allow_changes"]) == 0
    assert "warning: a/checkpoints/last.ckpt is of another run: its --model.lr is 0.001" in capsys.readouterr().err
    assert contents("a")["hyper_parameters"]["beta"] == 0.5
    assert rates("a") == pytest.approx([1e-3, 1e-3, 1e-3, 1e-2])  # the flag wins over what the optimizer remembers


def test_options_that_are_newer_than_a_checkpoint_had_the_values_of_then(capsys):
    """Runs had no warm-up before the option existed: with that of today beta would fall when they go on."""
    assert train.main(command("a")) == 0
    path = Path("a", LAST)
    checkpoint = contents("a")
    for option in ("beta_warmup", "init"):
        del checkpoint["hyper_parameters"][option]
    torch.save(checkpoint, path)
    assert train.main(command("a", "VAE", *MORE)) == 2
    assert "its --model.beta_warmup is 0, not None. Give the same options" in capsys.readouterr().err
    assert train.main(command("a", "VAE", *MORE, "--model.beta_warmup", "0")) == 0


def without_option(folder, option):
    """Turn the last checkpoint of a run into one that was written before this option existed."""
    checkpoint = contents(folder)
    del checkpoint["hyper_parameters"][option]
    torch.save(checkpoint, Path(folder, LAST))


def test_a_run_from_before_shared_noise_goes_on_without_it(capsys):
    assert train.main(command("a", "M2", "--model.share_noise", "false")) == 0
    shutil.copytree("a", "b")
    without_option("a", "share_noise")
    assert train.main(command("a", "M2", *MORE)) == 0
    assert contents("a")["hyper_parameters"]["share_noise"] is False
    assert yaml.safe_load(Path("a/config.yaml").read_text())["model"]["share_noise"] is False
    assert train.main(command("b", "M2", *MORE, "--model.share_noise", "false")) == 0
    assert_same("a", "b")
    without_option("a", "share_noise")
    more = ["--trainer.max_epochs", "5", "--model.share_noise", "true"]
    assert train.main(command("a", "M2", *more)) == 2  # the user asks for something else
    assert "its --model.share_noise is False, not True" in capsys.readouterr().err
    assert train.main(command("a", "M2", *more, "--allow_changes")) == 0
    assert contents("a")["hyper_parameters"]["share_noise"] is True


def test_a_checkpoint_without_options_is_refused(capsys):
    assert train.main(command("a")) == 0
    checkpoint = contents("a")
    del checkpoint["hyper_parameters"]
    torch.save(checkpoint, Path("a", LAST))
    assert train.main(command("a", "VAE", *MORE)) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("before", "after", "expected"), [
    ([], ["--model.lr_final", "1e-4", "--model.lr_schedule", "exponential"], [1e-3, 1e-3, 1e-3, 1e-4]),
    (["--model.lr_final", "1e-4", "--model.lr_schedule", "exponential"], ["--model.lr", "2e-3"],
     [1e-3, 10**-3.5, 1e-4, 2e-3]),
    (["--model.lr_final", "1e-4", "--model.lr_schedule", "exponential"],
     ["--model.lr_final", "1e-6", "--model.lr_schedule", "exponential"], [1e-3, 10**-3.5, 1e-4, 1e-6]),
])  # fmt: skip
def test_a_schedule_can_be_changed(before, after, expected):
    assert train.main(command("a", "VAE", *before)) == 0
    assert train.main(command("a", "VAE", *MORE, *after, "--allow_changes")) == 0
    assert rates("a") == pytest.approx(expected)


@pytest.mark.parametrize("change", [["--model.hidden", "[9]"], ["--model", "IWAE"], ["--model.z_dim", "3"]])
def test_weights_of_another_model_are_refused_whatever_is_allowed(capsys, change):
    assert train.main(command("a")) == 0
    assert train.main([*command("a", "VAE", *MORE), *change, "--allow_changes"]) == 2
    assert "Its weights are those of another model." in capsys.readouterr().err


def test_batch_options_may_not_change_mid_epoch():
    faulty({"step": 17, "signal": signal.SIGTERM}, *command("a"))
    ((status, _, stderr),) = faulty({}, *command("a", "VAE", "--data.batch_size", "50", "--allow_changes"))
    assert status == 2
    assert (
        "its --data.batch_size is 100, not 50. It was written in the middle of an epoch, whose batches would change"
        in stderr
    )
    assert (
        train.main(
            command("b", "VAE", "--resume", "a/checkpoints/best.ckpt", "--data.batch_size", "50", "--allow_changes")
        )
        == 0
    )


def test_the_result_of_a_finished_run_is_kept(monkeypatch, capsys):
    with_result = command("a", "VAE", "--num_samples", "3", "--limit", "100")
    assert train.main(with_result) == 0
    table = capsys.readouterr().out.splitlines()[1:]
    written = os.stat("a/evaluation.json").st_mtime_ns
    assert train.main(with_result) == 0
    assert capsys.readouterr().out.splitlines()[1:] == table
    assert os.stat("a/evaluation.json").st_mtime_ns == written


@pytest.mark.parametrize("change", ["missing", "samples", "limit", "older"])
def test_a_missing_or_different_result_is_computed(change):
    assert train.main(command("a", "VAE", "--num_samples", "3", "--limit", "100")) == 0
    found = Path("a/evaluation.json")
    written = found.stat().st_mtime_ns
    if change == "missing":
        found.unlink()
    elif change == "older":  # of a version that did not know results by the hash of the weights
        result = json.loads(found.read_text())
        del result["weights_hash"]
        found.write_text(json.dumps(result))
        shutil.rmtree("a/evaluations")
        written = Path("a/checkpoints/best.ckpt").stat().st_mtime_ns - 1
        os.utime(found, ns=(written, written))
    samples, limit = {"samples": ("4", "100"), "limit": ("3", "150")}.get(change, ("3", "100"))
    assert train.main(command("a", "VAE", "--num_samples", samples, "--limit", limit)) == 0
    result = json.loads(found.read_text())
    assert (result["num_samples"], result["num_images"]) == (int(samples), int(limit))
    assert found.stat().st_mtime_ns > written


def save_images(value, names):
    x = np.random.default_rng(0).integers(value, 256, (60, 4, 4), np.uint8)
    np.savez("mine.npz", x=x, y=np.array(names * 20))


@pytest.mark.parametrize(
    ("value", "names", "difference"),
    [
        (1, ["a", "b", "c"], r"the images have changed since \(hash \w{12}, now \w{12}\)"),
        (0, ["a", "b", "d"], r"the classes have changed since \(a, b, c; now a, b, d\)"),
    ],
)
def test_changed_files_of_the_user_are_detected(capsys, value, names, difference):
    save_images(0, ["a", "b", "c"])
    data = ("--data", "NPZ", "--data.root", "mine.npz", "--data.batch_size", "10")
    assert train.main(command("a", "VAE", *data)) == 0
    os.rename("mine.npz", "elsewhere.npz")
    assert train.main(command("a", "VAE", *MORE, *data, "--data.root", "elsewhere.npz")) == 0
    save_images(value, names)
    resumed = command("a", "VAE", "--trainer.max_epochs", "5", *data)
    assert train.main(resumed) == 2
    assert re.search(
        f"last.ckpt cannot be resumed: {difference}. Give the same options and images, or", capsys.readouterr().err
    )
    assert contents("a")["epoch"] == 3
    assert train.main([*resumed, "--allow_changes"]) == 0
    assert re.search(f"warning: a/checkpoints/last.ckpt is of another run: {difference}", capsys.readouterr().err)


def test_options_of_training_are_compared_too(capsys):
    assert train.main(command("a")) == 0
    more = ["--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.1"]
    assert train.main(command("a", "VAE", *MORE, *more)) == 2
    message = "its --trainer.accumulate_grad_batches is 1, not 2; its --trainer.gradient_clip_val is None, not 0.1."
    assert message in capsys.readouterr().err
    assert train.main(command("a", "VAE", *MORE, *more, "--allow_changes")) == 0


def test_a_smaller_result_is_cached_and_a_larger_one_kept(monkeypatch, capsys):
    assert train.main(command("a", "VAE", "--num_samples", "3", "--limit", "100")) == 0
    large = Path("a/evaluation.json").read_bytes()
    smaller = command("a", "VAE", "--num_samples", "2", "--limit", "50")
    assert train.main(smaller) == 0
    output = capsys.readouterr()
    assert "note: a/evaluation.json keeps the more complete result (100 images, K = 3)" in output.err
    assert Path("a/evaluation.json").read_bytes() == large
    monkeypatch.setattr(train, "evaluate_checkpoint", None)  # it is not needed any more
    for again in (smaller, command("a", "VAE", "--num_samples", "3", "--limit", "100")):
        assert train.main(again) == 0
    assert "of 50 test images" in output.out


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_result_is_computed_again(content):
    run = command("a", "VAE", "--num_samples", "3", "--limit", "100")
    assert train.main(run) == 0
    before = Path("a/evaluation.json").read_text()
    Path("a/evaluation.json").write_text(content)
    assert train.main(run) == 0
    assert Path("a/evaluation.json").read_text() == before


def test_a_run_folder_is_resumed_from_its_newest_checkpoint(capsys):
    assert train.main(command("a")) == 0
    more = command("a", "VAE", *MORE)
    place = more.index("--resume")
    more[place : place + 2] = ["--resume", "a"]
    more[more.index("--run_dir") + 1] = "b"
    assert train.main(more) == 0
    assert "Resuming from a/checkpoints/last.ckpt." in capsys.readouterr().err
    assert contents("b")["epoch"] == 3
    Path("empty").mkdir()
    assert train.main([*more, "--run_dir", "c", "--resume", "empty"]) == 2
    assert "There is no checkpoint in empty" in capsys.readouterr().err


def test_an_m1_may_be_given_by_its_run_folder():
    assert train.main(command("m1", "VAE", "--model.z_dim", "2")) == 0
    stack = [
        "--model",
        "M1M2",
        "--data.num_labels",
        "50",
        "--data",
        "Digits",
        "--model.m1",
        "m1",
        "--model.hidden",
        "[8]",
        "--trainer.max_epochs",
        "1",
        "--num_samples",
        "0",
        "--callbacks",
        "[]",
        "--run_dir",
        "stack",
    ]
    assert train.main(stack) == 0


def contents_of(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_refused_start_leaves_the_folder_as_it_was(capsys, monkeypatch):
    assert train.main(command("a")) == 0
    before = contents_of("a")

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    for change, message in {
        "--trainer.max_epochs 2": "--trainer.max_epochs 2: it is in epoch 3 already. Give 3 or more",
        "--trainer.max_steps 20": "--trainer.max_steps 20: it is in step 39 already. Give 39 or more",
        "--trainer.max_epochs 2 --allow_changes": "it is in epoch 3 already",
        "--trainer.max_epochs 8 --trainer.val_check_interval 500": "val_check_interval",  # of Lightning itself
        "--trainer.max_epochs 8 --wandb online": "W&B: No API key configured.",
        "--trainer.max_epochs 8 --model.lr 0.1": "its --model.lr is 0.001, not 0.1",
    }.items():
        assert train.main([*command("a"), *change.split()]) == 2, change
        assert message in capsys.readouterr().err
        assert contents_of("a") == before, change


def test_a_full_disk_is_detected_before_anything_is_written(capsys, monkeypatch):
    assert train.main(command("a")) == 0
    before = contents_of("a")
    monkeypatch.setattr("callbacks.checkpoint.shutil.disk_usage", lambda path: SimpleNamespace(free=-(10**9)))
    assert train.main([*command("a"), "--trainer.max_epochs", "8"]) == 2
    assert "too little for four checkpoints" in capsys.readouterr().err
    assert contents_of("a") == before


@pytest.mark.parametrize("damage", [{"fit_loop": {}}, {"fit_loop": {"epoch_loop.batch_progress": 3}}])
def test_a_damaged_record_of_steps_is_refused(capsys, damage):
    assert train.main(command("a")) == 0
    torch.save(contents("a") | {"loops": damage}, Path("a", LAST))
    assert train.main([*command("a"), "--trainer.max_epochs", "8"]) == 2
    assert "its record of epochs and steps is damaged." in capsys.readouterr().err


def test_new_folders_of_a_refused_run_are_deleted():
    Path("old").mkdir()
    for folder in ("new/of/a/run", "old"):
        assert train.main(["--run_dir", folder, "--trainer.val_check_interval", "500"]) == 2
    assert [path.name for path in Path().iterdir()] == ["old"]
    assert [path.name for path in Path("old").iterdir()] in ([], [".lock"])
