"""Recorded optimizer steps are the eager ones, in all that changes from step to step."""

import csv
import os
import signal
from pathlib import Path

import pytest
import recorded_ops
import torch
from small_runs import assert_same, contents
from torch import nn

import train
from callbacks import StepRNG
from models import MODELS, VAE
from runtime import cuda_graph, steps_per_call

QUICK = ["--data", "Digits", "--data.batch_size", "100", "--num_samples", "0", "--callbacks", "[]", "--resume", "auto",
         "--trainer.enable_progress_bar", "false", "--steps_per_call", "4"]  # fmt: skip


@pytest.fixture
def _graph_on_cpu(monkeypatch):
    """Let train.py replay recorded operations on the CPU."""
    monkeypatch.setattr(cuda_graph, "capture", recorded_ops.capture)
    monkeypatch.setattr(steps_per_call, "can_replay", lambda device: True)


def losses(folder):
    with Path(folder, "metrics.csv").open() as file:
        return torch.tensor([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])


def run(folder, *more, epochs=3):
    return train.main([*QUICK, *more, "--trainer.max_epochs", str(epochs), "--run_dir", str(folder)])


@pytest.mark.usefixtures("_graph_on_cpu")
@pytest.mark.parametrize("more", [
    ["--model.beta_warmup", "2"], ["--model.lr_final", "1e-5"],
    ["--trainer.max_steps", "30", "--model.lr_final", "1e-5"],
    ["--trainer.precision", "bf16-mixed"], ["--model.batch_norm", "true"],
    ["--model.encoder", "resnet", "--model.decoder", "resnet", "--model.hidden", "[8,8]"],
    ["--model.objective", "dreg", "--model.num_samples", "3"],
    ["--model", "DRAW", "--model.steps", "3"], ["--model", "DRAW", "--model.steps", "3", "--model.attention", "true"],
    ["--model", "HierarchicalVAE"], ["--model", "AffineVAE"],  # CVAE reads its labels, on a CPU only
    ["--model", "LadderVAE", "--model.hidden", "[16]"],
    ["--model", "LadderVAE", "--model.encoder", "conv", "--model.hidden", "[8]"],
    ["--model", "M2", "--data.num_labels", "50", "--model.hidden", "[16]"],
    ["--model", "ADGM", "--data.num_labels", "50", "--model.hidden", "[16]"],
    ["--model", "GMMN"], ["--model", "GAN"], ["--model", "GAN", "--model.r1", "0.1"], ["--model", "AE"],
    ["--model.prior", "vamp", "--model.prior_components", "5"],
    ["--model.prior", "flow", "--trainer.precision", "64-true"],  # its rounding errors grow within a few steps
    ["--model.posterior", "flow", "--model.posterior_flow", "nsf"],
], ids=" ".join)  # fmt: skip
def test_recorded_steps_are_the_eager_steps(tmp_path, capsys, more):
    assert run(tmp_path / "eager", *more, "--cuda_graph", "false") == 0
    assert run(tmp_path / "graph", *more) == 0
    assert "not replayed" not in capsys.readouterr().err
    eager, graph = losses(tmp_path / "eager"), losses(tmp_path / "graph")
    assert len(eager) == len(graph) >= 3
    # a replay reads the learning rate as float32
    assert torch.allclose(graph, eager, rtol=1e-4, atol=1e-4)


def stop_at(step, on_next_step=StepRNG.on_next_step):
    """Return a hook that also asks the run to stop at this step."""

    def hook(self, trainer):
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        on_next_step(self, trainer)

    return hook


@pytest.mark.usefixtures("_graph_on_cpu")
def test_a_resumed_run_of_recorded_steps_is_the_same_run(tmp_path, monkeypatch):
    more = ["--model.lr_final", "1e-5"]
    assert run(tmp_path / "whole", *more) == 0
    with monkeypatch.context() as patch:
        # Python code of the model does not run in a replay
        patch.setattr(StepRNG, "on_next_step", stop_at(14))
        assert run(tmp_path / "cut", *more) == 143
    assert contents(tmp_path / "cut")["global_step"] < contents(tmp_path / "whole")["global_step"]
    assert run(tmp_path / "cut", *more, "--steps_per_call", "3") == 0
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("_graph_on_cpu")
def test_a_run_of_recorded_steps_goes_on_in_eager_steps(tmp_path):
    assert run(tmp_path, epochs=1) == 0
    assert run(tmp_path, "--steps_per_call", "1", epochs=2) == 0
    (group,) = contents(tmp_path)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["capturable"]) == (1e-3, False)


class ReadsValues(VAE):
    """Its loss waits for a value, which a CUDA graph cannot do."""

    def loss(self, x, y):
        loss = super().loss(x, y)
        return loss if loss.item() else -loss


@pytest.mark.usefixtures("_graph_on_cpu")
def test_a_model_that_cannot_be_captured_trains_without_graph(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "ReadsValues", ReadsValues)
    assert run(tmp_path / "eager", "--model", "ReadsValues", "--cuda_graph", "false") == 0
    assert run(tmp_path / "graph", "--model", "ReadsValues") == 0
    assert "warning: steps are not replayed as a CUDA graph: they cannot be captured" in capsys.readouterr().err
    assert torch.allclose(losses(tmp_path / "graph"), losses(tmp_path / "eager"), rtol=1e-5)


class CountsInPython(VAE):
    """Its loss depends on a number that a CUDA graph fixes."""

    def loss(self, x, y):
        return super().loss(x, y) * (1 + self.global_step)


@pytest.mark.usefixtures("_graph_on_cpu")
def test_a_graph_that_fixes_a_number_is_given_up_at_its_first_wrong_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "CountsInPython", CountsInPython)
    assert run(tmp_path / "eager", "--model", "CountsInPython", "--cuda_graph", "false") == 0
    assert run(tmp_path / "graph", "--model", "CountsInPython") == 0
    assert "because CountsInPython computes it from a changing number" in capsys.readouterr().err
    eager, graph = losses(tmp_path / "eager"), losses(tmp_path / "graph")
    assert torch.allclose(graph[1:], eager[1:], rtol=0.02)  # one step was wrong


def test_restoring_a_snapshot_undoes_steps():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    adam = torch.optim.Adam(layer.parameters())

    def steps(n):
        for _ in range(n):
            adam.zero_grad()
            layer(torch.arange(12.0).reshape(4, 3)).pow(2).sum().backward()
            adam.step()
        return [value.clone() for value in layer.state_dict().values()]

    for already in (0, 2):  # before and after Adam has moments
        steps(already)
        restore = cuda_graph.snapshot([*layer.parameters(), *layer.buffers()], [adam])
        once = steps(2)
        restore()
        assert all(torch.equal(a, b) for a, b in zip(once, steps(2), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("more", [
    ["--model.beta_warmup", "2", "--model.lr_final", "1e-5"], ["--model", "HierarchicalVAE"], ["--model", "AffineVAE"],
    ["--model", "LadderVAE"], ["--model", "LadderVAE", "--model.encoder", "conv"],
    ["--model", "DRAW"], ["--model", "DRAW", "--model.attention", "true"],
    ["--model", "CVAE"], ["--model", "M2", "--data.num_labels", "50"], ["--model", "GAN"], ["--model", "GMMN"],
    ["--trainer.precision", "bf16-mixed"],
], ids=" ".join)  # fmt: skip
def test_captured_steps_are_the_eager_steps_on_a_gpu(tmp_path, capsys, more):
    """200 steps and more, within 1e-3 of the loss."""
    assert run(tmp_path / "eager", *more, "--cuda_graph", "false", epochs=16) == 0
    assert run(tmp_path / "graph", *more, epochs=16) == 0
    assert "not replayed" not in capsys.readouterr().err
    assert torch.allclose(losses(tmp_path / "graph"), losses(tmp_path / "eager"), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_a_captured_step_keeps_the_tensors_that_it_uses():
    def new_step():
        total = torch.zeros(10**6, device="cuda")

        def step(x):
            total.add_(x)
            return total[:3]

        return step

    step = cuda_graph.capture(new_step(), torch.ones((), device="cuda"), restore=lambda: None)
    other = torch.zeros(10**6, device="cuda")  # would get the memory of `total`, were it free
    first = step(torch.ones((), device="cuda")).tolist()
    assert step(torch.ones((), device="cuda")).tolist() == [value + 1 for value in first]
    assert other.count_nonzero() == 0


@pytest.mark.gpu
def test_a_resumed_run_of_captured_steps_is_the_same_run_on_a_gpu(tmp_path):
    assert run(tmp_path / "whole", "--model.beta_warmup", "0", epochs=4) == 0
    assert run(tmp_path / "cut", "--model.beta_warmup", "0", epochs=2) == 0
    assert run(tmp_path / "cut", "--model.beta_warmup", "0", epochs=4) == 0
    assert_same(tmp_path / "whole", tmp_path / "cut")
