"""Training and evaluation on several processes, started as by torchrun, with gloo on the CPU."""

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
QUIET = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "2",
    "--callbacks",
    "[]",
    "--trainer.enable_progress_bar",
    "false",
]
ON_CPUS = {"VAE": [], "M2": ["--model.batch_norm", "false"]}
SHORT_PILOT = "from models.estimators import ais; ais.PILOT_MOVES = 20\n"
pytestmark = pytest.mark.slow

ALL_MODELS = """
import sys
import torch
from torch import distributed
import train
from models import MODELS, Model

seen = {}
step = Model.training_step
def recording(self, batch, batch_idx):
    seen[type(self).__name__] = torch.get_rng_state()
    seen["model"] = self
    seen["labelled"] = int((batch[1] >= 0).sum())
    return step(self, batch, batch_idx)
Model.training_step = recording

few = ["--data.num_labels", "50"]
OF_MODEL = {"M2": few, "ADGM": few, "SDGM": few,
            "M1M2": ["--data.num_labels", "50", "--model.m1", "VAE/checkpoints/last.ckpt"],
            "HierarchicalVAE": ["--model.z_dim", "[4,2]", "--model.inner_hidden", "[8]"], 
            "LadderVAE": ["--model.z_dim", "[4,2]"],
            "DRAW": ["--model.steps", "2", "--model.rnn_size", "8", "--model.attention", "true"],
            "AffineVAE": ["--model.label_weight", "1"]}
# with batch norm by default, which several processes on CPUs cannot have
norm = {"LadderVAE", "M2", "M1M2", "ADGM", "SDGM", "GAN"}
for name in [name for name in MODELS if name != "M1M2"] + ["M1M2"]:
    drawn = "[log_likelihood]" if MODELS[name].can("log_weights") else "[]"
    argv = ["--data", "Digits", "--model", name, "--trainer.max_epochs", "1", "--num_samples", "3", "--callbacks",
            drawn, "--limit", "120", "--run_dir", name, *OF_MODEL.get(name, [])]
    argv += [] if name == "DRAW" else ["--model.hidden", "[8]"]
    assert train.main(argv + (["--model.batch_norm", "false"] if name in norm else [])) == 0, name
    weights = torch.cat([parameter.detach().flatten() for parameter in seen["model"].parameters()])
    everywhere = [torch.empty_like(weights) for _ in range(2)]
    distributed.all_gather(everywhere, weights)
    assert torch.equal(*everywhere), name
    noise = [torch.empty_like(seen[name]) for _ in range(2)]
    distributed.all_gather(noise, seen[name])
    assert not torch.equal(*noise), name
    if name in ("M2", "M1M2", "ADGM", "SDGM"):
        assert seen["labelled"] == 10, seen
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

UNEVEN = """
import time
from datetime import timedelta
import torch
from torch import distributed
from runtime.collectives import from_rank0, map_across_ranks

distributed.init_process_group("gloo", timeout=timedelta(seconds=1))
rank = distributed.get_rank()

def slowly(value):
    time.sleep(2.5)  # more than the timeout of the process group
    return value

assert from_rank0(lambda: slowly("rank 0")) == "rank 0"
parts = map_across_ranks(lambda part: slowly({"part": torch.tensor([part])}) if part else {"part": torch.zeros(1)}, 2)
assert parts["part"].tolist() == [0, 1]
distributed.destroy_process_group()
"""
LOST = """
import os, sys
from torch import distributed
from runtime.collectives import from_rank0, gather_from_ranks, patient_group
from runtime.processes import is_peer_failure

distributed.init_process_group("gloo")
patient_group()
when, rank = sys.argv[1], distributed.get_rank()
end = lambda: os._exit(3)
try:
    if when == "before" and rank == 0:
        end()
    if when == "gathering":
        gather_from_ranks(end if rank == 1 else lambda: 0)
    from_rank0(end)
except Exception as error:
    print(is_peer_failure(error), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that returns the run folder of an uninterrupted run of a model on two processes."""
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
    """Assert that all processes exited with status 0, and return the output of rank 0."""
    assert [status for status, _, _ in found] == [0] * len(found), found
    return found[0][1]


def test_ranks_have_the_same_weights_and_different_noise():
    output = done(processes(2, ALL_MODELS))
    names = ("AE", "VAE", "M2", "M1M2", "ADGM", "SDGM", "HierarchicalVAE", "LadderVAE")
    assert all(f"trained {name}" in output for name in names)


@pytest.mark.parametrize("world", [2, 3])
def test_map_across_ranks_computes_each_part_once(world):
    found = processes(world, SHARES)
    done(found)
    shares = [json.loads(message) for _, message, _ in found]
    for parts in (1, 2, 3, 7):
        assert all(share[str(parts)][0] == [10.0 * i + j for i in range(parts) for j in (0, 1)] for share in shares)
        assert sorted(part for share in shares for part in share[str(parts)][1]) == list(range(parts))


def test_ranks_wait_for_long_work_of_one_of_them():
    done(processes(2, UNEVEN))


@pytest.mark.parametrize(("when", "lost"), [("before", 0), ("within", 0), ("gathering", 1)])
def test_a_rank_that_ends_is_noticed_by_ranks_that_wait_for_it(when, lost):
    found = processes(2, LOST, when)
    assert found[lost][0] == 3
    assert found[1 - lost][1].strip() == "True", found


def test_map_across_ranks_with_one_process():
    alone = map_across_ranks(lambda part: {"value": torch.tensor([part])}, 3)
    assert alone["value"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["VAE", "M2", "CVAE"])
def test_the_test_likelihood_does_not_depend_on_the_number_of_processes(kind, monkeypatch):
    monkeypatch.setattr("models.estimators.ais.PILOT_MOVES", 20)  # every process makes the pilot run
    assert train.main([*QUIET, "--model", kind, "--num_samples", "0", "--run_dir", "a"]) == 0
    options = ["--num_samples", "7", "--device", "cpu", "--limit", "250", "--figures", "[]"]
    options += ["--ais", "--ais_images", "120", "--ais_temperatures", "20", "--ais_leapfrogs", "2"]
    assert evaluate.main(["a/checkpoints/best.ckpt", *options]) == 0
    alone = np.load("a/log_px.npy"), json.loads(Path("a/evaluation.json").read_text())
    assert len(alone[0]) == 250  # five parts of 50 images, a number that neither 2 nor 3 divides
    for world in (2, 3):
        shutil.rmtree("a/per_image")  # otherwise the cache would be used
        done(processes(world, SHORT_PILOT + EVALUATE, "a/checkpoints/best.ckpt", *options))
        np.testing.assert_array_equal(np.load("a/log_px.npy"), alone[0])
        assert json.loads(Path("a/evaluation.json").read_text()) == alone[1]


def test_validation_counts_each_image_once():
    # Without noise and with a negligible learning rate, 1, 2 and 3 processes have the same loss on 250 images.
    options = ["--model", "AE", *QUIET, "--model.lr", "1e-12", "--num_samples", "0"]
    found = []
    for world in (1, 2, 3):
        done(processes(world, TRAIN, *options, "--run_dir", str(world)))
        with Path(str(world), "metrics.csv").open() as file:
            found.append([float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)


def starting(script, *argv):
    """Return the output of a script that starts the second process itself."""
    found = subprocess.run(
        [sys.executable, str(ROOT / script), *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert "warning" not in found.stderr
    return found.stdout


def test_rank_0_can_start_the_other_ranks():
    options = [*QUIET, "--num_samples", "3", "--trainer.devices", "2"]
    starting("train.py", *options, "--run_dir", "a")
    done(processes(2, TRAIN, *options, "--run_dir", "b"))
    assert_same("a", "b")
    np.testing.assert_array_equal(np.load("a/log_px.npy"), np.load("b/log_px.npy"))
    before = np.load("a/log_px.npy")
    options = ["--num_samples", "3", "--device", "cpu", "--devices", "2"]
    output = starting("evaluate.py", "a/checkpoints/best.ckpt", *options)
    assert output.count("nats per image") == 1
    np.testing.assert_array_equal(np.load("a/log_px.npy"), before)


def test_all_ranks_share_one_default_run_folder():
    done(processes(2, TRAIN, *QUIET, "--num_samples", "3"))
    (folder,) = Path("runs/Digits-VAE").iterdir()
    assert (folder / "evaluation.json").exists()


def test_batch_norm_is_refused_on_the_cpu():
    found = processes(2, TRAIN, *QUIET, "--model.batch_norm", "true", "--run_dir", "a")
    assert [status for status, _, _ in found] == [2, 2]
    sentence = "error: Batch norm on several processes requires GPUs, to synchronise its statistics: "
    assert found[0][2].startswith(sentence)
    assert found[1][2].startswith("rank 1: " + sentence)
    assert not Path("a").exists()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["VAE", "M2"])
def test_a_run_killed_twice_on_two_processes_resumes_bit_identically(whole, kind, seed):
    cut = command("cut", kind, *ON_CPUS[kind])
    for rank, step in enumerate(sorted(random.Random(seed).sample(range(7, 21), 2))):  # in epochs 2 and 3
        found = faulty({"rank": rank, "step": step, "signal": signal.SIGKILL}, *cut, world=2)
        assert found[rank][0] == -signal.SIGKILL
        assert found[1 - rank][0] == 1  # it noticed that the other rank had exited
        assert "error: Another process of this run has ended: see its messages." in found[1 - rank][2]
        assert step - 4 < contents("cut")["global_step"] <= step
    done(faulty({}, *cut, world=2))
    assert_same(whole(kind), "cut")


def test_a_run_killed_while_saving_on_two_processes_resumes(whole):
    assert faulty({"save": 3}, *command("cut"), world=2)[0][0] == -signal.SIGKILL
    done(faulty({}, *command("cut"), world=2))
    assert_same(whole(), "cut")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_after_the_same_batch(whole, rank):
    found = faulty({"rank": rank, "step": 9, "signal": signal.SIGTERM}, *command("cut"), world=2)
    assert [status for status, _, _ in found] == [143, 0]
    assert "Stopped by SIGTERM after step 10. Resume with: " in found[0][2]
    assert contents("cut")["global_step"] == 10
    done(faulty({}, *command("cut"), world=2))
    assert_same(whole(), "cut")
    assert Path(whole(), "metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_the_average_of_the_weights_is_the_same_on_two_processes_after_an_interruption():
    more = ["--ema", "0.9", "--callbacks", "[log_likelihood]"]
    done(faulty({}, *command("whole", "VAE", *more), world=2))
    found = faulty({"rank": 1, "step": 9, "signal": signal.SIGTERM}, *command("cut", "VAE", *more), world=2)
    assert [status for status, _, _ in found] == [143, 0]
    done(faulty({}, *command("cut", "VAE", *more), world=2))
    assert_same("whole", "cut")
    whole, cut = contents("whole"), contents("cut")
    for key, value in whole["current_model_state"].items():
        assert torch.equal(value, cut["current_model_state"][key]), key
    assert whole["averaging_state"] == cut["averaging_state"] == {"n_averaged": torch.tensor(21)}
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_nan_loss_on_one_rank_stops_both():
    found = faulty({"rank": 1, "step": 9, "nan": True}, *command("a"), world=2)
    assert [status for status, _, _ in found] == [1, 0]
    assert "error: The loss is nan at step 10, in epoch 2: the model has diverged." in found[0][2]
    assert all(value.isfinite().all() for value in contents("a")["state_dict"].values() if value.is_floating_point())


def test_resuming_with_another_number_of_processes_needs_allow_changes(whole):
    more = "--trainer.max_epochs", "4"
    shutil.copytree(whole(), "a")
    found = faulty({}, *command("a", "VAE", *more))
    assert found[0][0] == 2
    assert (
        "last.ckpt cannot be resumed: its number of processes is 2, not 1. Give the same options, or add" in found[0][2]
    )
    done(faulty({}, *command("a", "VAE", *more, "--allow_changes")))
    assert contents("a")["global_step"] == 3 * 7 + 13


def test_the_number_of_processes_cannot_change_within_an_epoch():
    faulty({"step": 9, "signal": signal.SIGTERM}, *command("a"), world=2)
    found = faulty({}, *command("a", "VAE", "--allow_changes"))
    assert found[0][0] == 2
    assert "It was written in the middle of an epoch, whose batches would change: choose a checkpoint" in found[0][2]
