"""Runs of several processes, as torchrun starts them: gloo on the CPU."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import EVALUATE, TRAIN, assert_same, command, contents, faulty, processes

import evaluate
import train
from runtime.collectives import map_across_ranks

ROOT = Path(train.__file__).parent
QUIET = ["--model.hidden", "[8]", "--trainer.max_epochs", "2", "--callbacks", "[]", "--trainer.enable_progress_bar",
         "false"]  # fmt: skip
ON_CPUS = {"VAE": [], "M2": ["--model.batch_norm", "false"]}
pytestmark = pytest.mark.slow

ALL_MODELS = """
import sys
import torch
from torch import distributed
import train
from models import MODELS, Model

drawn = {}
step = Model.training_step
def drawing(self, batch, batch_idx):
    drawn[type(self).__name__] = torch.get_rng_state()
    drawn["model"] = self
    drawn["labelled"] = int((batch[1] >= 0).sum())
    return step(self, batch, batch_idx)
Model.training_step = drawing

OF_MODEL = {"M2": ["--data.num_labels", "50"], 
            "M1M2": ["--data.num_labels", "50", "--model.m1", "VAE/checkpoints/last.ckpt"],
            "HierarchicalVAE": ["--model.z_dim", "[4,2]", "--model.inner_hidden", "[8]"], 
            "AffineVAE": ["--model.label_weight", "1"]}
norm = {"M2", "M1M2"}
for name in [name for name in MODELS if name != "M1M2"] + ["M1M2"]:
    argv = ["--model", name, "--model.hidden", "[8]", "--trainer.max_epochs", "1", "--num_samples", "3", "--callbacks",
            "[log_likelihood]" if name != "AE" else "[]", "--limit", "120", "--run_dir", name, *OF_MODEL.get(name, [])]
    assert train.main(argv + (["--model.batch_norm", "false"] if name in norm else [])) == 0, name
    weights = torch.cat([parameter.detach().flatten() for parameter in drawn["model"].parameters()])
    everywhere = [torch.empty_like(weights) for _ in range(2)]
    distributed.all_gather(everywhere, weights)
    assert torch.equal(*everywhere), name
    noise = [torch.empty_like(drawn[name]) for _ in range(2)]
    distributed.all_gather(noise, drawn[name])
    assert not torch.equal(*noise), name
    if name in norm:
        assert drawn["labelled"] == 10, drawn
    print("trained", name)
"""

SHARES = """
import json, sys
import torch
from torch import distributed
from runtime.collectives import map_across_ranks

distributed.init_process_group("gloo")
found = {}
for parts in (1, 2, 3, 7):
    done = []
    def compute(part):
        done.append(part)
        return {"value": torch.tensor([10.0 * part, 10.0 * part + 1], dtype=torch.float64)}
    found[parts] = map_across_ranks(compute, parts)["value"].tolist(), done
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run folder of a model on two processes that nothing interrupts, by the model's name."""
    folders = {}

    def run(kind="VAE"):
        if kind not in folders:
            folders[kind] = str(tmp_path_factory.mktemp("whole") / kind)
            done(faulty({}, *command(folders[kind], kind, *ON_CPUS[kind]), world=2))
        return folders[kind]

    return run


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def done(found):
    """The output of the first of `processes`, all of which have ended well."""
    assert [status for status, _, _ in found] == [0] * len(found), found
    return found[0][1]


def test_every_model_trains_with_the_same_weights_and_other_noise():
    said = done(processes(2, ALL_MODELS))
    assert all(f"trained {name}" in said for name in ("AE", "VAE", "M2", "M1M2", "HierarchicalVAE"))


@pytest.mark.parametrize("world", [2, 3])
def test_each_part_is_computed_once_and_known_to_all(world):
    found = processes(world, SHARES)
    done(found)
    shares = [json.loads(said) for _, said, _ in found]
    for parts in (1, 2, 3, 7):
        assert all(share[str(parts)][0] == [10.0 * i + j for i in range(parts) for j in (0, 1)] for share in shares)
        assert sorted(part for share in shares for part in share[str(parts)][1]) == list(range(parts))


def test_alone_there_is_nothing_to_share():
    alone = map_across_ranks(lambda part: {"value": torch.tensor([part])}, 3)
    assert alone["value"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["VAE", "M2", "CVAE"])
def test_the_test_likelihood_is_that_of_one_process_image_by_image(kind):
    assert train.main([*QUIET, "--model", kind, "--num_samples", "0", "--run_dir", "a"]) == 0
    options = ["--num_samples", "7", "--device", "cpu", "--limit", "250"]
    options += ["--ais", "--ais_images", "120", "--ais_temperatures", "3", "--ais_leapfrogs", "2"]
    assert evaluate.main(["a/checkpoints/best.ckpt", *options]) == 0
    alone = np.load("a/log_px.npy"), json.loads(Path("a/evaluation.json").read_text())
    assert len(alone[0]) == 250  # five parts of 50, which neither 2 nor 3 divides
    for world in (2, 3):
        shutil.rmtree("a/per_image")  # or nothing would be computed
        done(processes(world, EVALUATE, "a/checkpoints/best.ckpt", *options))
        np.testing.assert_array_equal(np.load("a/log_px.npy"), alone[0])
        assert json.loads(Path("a/evaluation.json").read_text()) == alone[1]


def test_validation_counts_each_image_once():
    # without noise, and at a rate that changes nothing, 1, 2 and 3 processes have the same loss on 250 images
    options = ["--model", "AE", *QUIET, "--model.lr", "1e-12", "--num_samples", "0"]
    found = []
    for world in (1, 2, 3):
        done(processes(world, TRAIN, *options, "--run_dir", str(world)))
        with Path(str(world), "metrics.csv").open() as file:
            found.append([float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)


def starting(script, *argv):
    """The output of a script that starts the second process itself."""
    found = subprocess.run([sys.executable, str(ROOT / script), *argv], capture_output=True, text=True, check=False,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_first_process_can_start_the_others():
    options = [*QUIET, "--num_samples", "3", "--trainer.devices", "2"]
    starting("train.py", *options, "--run_dir", "a")
    done(processes(2, TRAIN, *options, "--run_dir", "b"))
    assert_same("a", "b")
    np.testing.assert_array_equal(np.load("a/log_px.npy"), np.load("b/log_px.npy"))
    before = np.load("a/log_px.npy")
    options = ["--num_samples", "3", "--device", "cpu", "--devices", "2"]
    said = starting("evaluate.py", "a/checkpoints/best.ckpt", *options)
    assert said.count("nats per image") == 1
    np.testing.assert_array_equal(np.load("a/log_px.npy"), before)


def test_without_a_name_there_is_one_folder():
    done(processes(2, TRAIN, *QUIET, "--num_samples", "3"))
    (folder,) = Path("runs/Digits-VAE").iterdir()
    assert (folder / "evaluation.json").exists()


def test_batch_norm_is_refused_on_the_cpu():
    found = processes(2, TRAIN, *QUIET, "--model.batch_norm", "true", "--run_dir", "a")
    assert [status for status, _, _ in found] == [2, 2]
    sentence = "error: Batch norm on several processes needs GPUs, to see all of a batch: "
    assert found[0][2].startswith(sentence)
    assert found[1][2].startswith("rank 1: " + sentence)
    assert not Path("a").exists()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["VAE", "M2"])
def test_killed_twice_on_two_processes(whole, kind, seed):
    cut = command("cut", kind, *ON_CPUS[kind])
    for rank, step in enumerate(sorted(random.Random(seed).sample(range(7, 21), 2))):  # in epochs 2 and 3
        found = faulty({"rank": rank, "step": step, "signal": signal.SIGKILL}, *cut, world=2)
        assert found[rank][0] == -signal.SIGKILL
        assert found[1 - rank][0] == 1  # and it did not wait for ever
        assert "error: Another process of this run has ended: see what it has said." in found[1 - rank][2]
        assert step - 4 < contents("cut")["global_step"] <= step
    done(faulty({}, *cut, world=2))
    assert_same(whole(kind), "cut")


def test_killed_during_a_save_of_two_processes(whole):
    assert faulty({"save": 3}, *command("cut"), world=2)[0][0] == -signal.SIGKILL
    done(faulty({}, *command("cut"), world=2))
    assert_same(whole(), "cut")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_both_after_the_same_batch(whole, rank):
    found = faulty({"rank": rank, "step": 9, "signal": signal.SIGTERM}, *command("cut"), world=2)
    assert [status for status, _, _ in found] == [143, 0]
    assert "Stopped by SIGTERM after step 10. Go on with: " in found[0][2]
    assert contents("cut")["global_step"] == 10
    done(faulty({}, *command("cut"), world=2))
    assert_same(whole(), "cut")
    assert Path(whole(), "metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_loss_of_one_process_that_is_none_stops_both():
    found = faulty({"rank": 1, "step": 9, "nan": True}, *command("a"), world=2)
    assert [status for status, _, _ in found] == [1, 0]
    assert "error: The loss is nan at step 10, in epoch 2: the model has diverged." in found[0][2]
    assert all(value.isfinite().all() for value in contents("a")["state_dict"].values() if value.is_floating_point())


def test_another_number_of_processes_is_another_run(whole):
    more = "--trainer.max_epochs", "4"
    shutil.copytree(whole(), "a")
    found = faulty({}, *command("a", "VAE", *more))
    assert found[0][0] == 2
    assert (
        "last.ckpt cannot be resumed: its number of processes is 2, not 1. Give the same options, or add" in found[0][2]
    )
    done(faulty({}, *command("a", "VAE", *more, "--allow_changes")))
    assert contents("a")["global_step"] == 3 * 7 + 13


def test_within_an_epoch_the_number_of_processes_stays():
    faulty({"step": 9, "signal": signal.SIGTERM}, *command("a"), world=2)
    found = faulty({}, *command("a", "VAE", "--allow_changes"))
    assert found[0][0] == 2
    assert "It was written in the middle of an epoch, whose batches would change: choose a checkpoint" in found[0][2]
