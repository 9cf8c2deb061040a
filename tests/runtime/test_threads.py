"""The number of threads of a run: by model size, by option, and unchanged on resume."""

import pytest
import torch
import yaml
from small_runs import command, contents

import evaluate
import train
from datamodules import DATAMODULES
from models import MODELS
from runtime import threads

IMAGE = (1, 16, 16)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Without OMP_NUM_THREADS, on eight cores, in an empty folder; the number of threads is put back."""
    before = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    yield
    torch.set_num_threads(before)


def test_multiply_adds_of_each_kind_of_layer():
    model = MODELS["VAE"](IMAGE, z_dim=3, hidden=[5])
    per_image = 256 * 5 + 5 * 6 + 3 * 5 + 5 * 256
    assert threads.multiply_adds(model, lambda: model.loss(torch.zeros(2, *IMAGE), None)) == 2 * per_image
    conv = MODELS["VAE"](IMAGE, z_dim=3, hidden=[4], encoder="conv", decoder="conv")
    per_image = 8 * 8 * 4 * 9 + 256 * 6 + 3 * 256 + 8 * 8 * 4 * 9
    assert threads.multiply_adds(conv, lambda: conv.loss(torch.zeros(2, *IMAGE), None)) == 2 * per_image
    assert not any(module._forward_hooks for module in conv.modules())


@pytest.mark.parametrize(("work", "processes", "expected"), [
    (0, 1, 1), (1.19e8, 1, 1), (1.2e8, 1, 2), (2.1e8, 1, 2), (7e8, 1, 7), (1e12, 1, 8), (1e12, 2, 4), (1e12, 100, 1),
])  # fmt: skip
def test_threads_for_work(work, processes, expected):
    assert threads.threads_for_work(work, processes) == expected


@pytest.mark.parametrize(("per_task", "work", "processes", "expected"), [
    (4, 1e12, 1, 4), (4, 0, 1, 1), (2, 1e12, 2, 2), (16, 1e12, 1, 8), (None, 1e12, 2, 4),
])  # fmt: skip
def test_a_task_of_srun_has_the_cores_that_it_was_given(monkeypatch, per_task, work, processes, expected):
    if per_task is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(per_task))
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert threads.threads_for_work(work, processes) == expected


def test_a_batch_script_of_slurm_shares_the_cores_as_any_other(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert threads.threads_for_work(1e12, 4) == 2
    assert threads.threads_for_work(1e12, 1) == 8


def test_the_size_of_a_step_counts_batch_samples_and_classes():
    digits = DATAMODULES["Digits"](batch_size=100)
    digits.setup()

    def work(name, **options):
        kind = MODELS[name]
        return threads.training_work(kind(**{key: getattr(digits, key) for key in kind.data_args}, **options), digits)

    assert threads.threads_for_work(work("VAE")) == 1
    assert work("IWAE", num_samples=50) > 20 * work("VAE")
    assert work("M2") > 5 * work("VAE")
    digits.batch_size = 1000
    assert threads.threads_for_work(work("VAE")) == 4


def test_counting_work_changes_nothing():
    digits = DATAMODULES["Digits"]()
    digits.setup()
    model = MODELS["VAE"]((1, 8, 8), batch_norm=True)
    torch.manual_seed(1)
    before, noise = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    threads.training_work(model, digits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), noise)
    assert model.training


def test_a_resumed_run_keeps_its_number_of_threads(capsys, monkeypatch):
    assert train.main(command("a", "VAE", "--threads", "2")) == 0
    assert ", 2 threads, 1 step per call, run folder a" in capsys.readouterr().out
    assert contents("a")["threads"] == 2
    with open("a/config.yaml") as file:
        assert yaml.safe_load(file)["threads"] == 2
    # of the size of the model there would be one
    assert train.main(command("a", "VAE", "--trainer.max_epochs", "4")) == 0
    assert torch.get_num_threads() == 2
    output = capsys.readouterr()
    assert ", 2 threads, 1 step per call, run folder a" in output.out
    assert "warning" not in output.err
    assert train.main(command("a", "VAE", "--trainer.max_epochs", "5", "--threads", "1")) == 0
    assert "warning: This run had 2 threads before and has 1 thread now" in capsys.readouterr().err
    assert train.main(command("b")) == 0
    assert ", 1 thread, 1 step per call, run folder b" in capsys.readouterr().out


def test_omp_num_threads_wins_over_the_size(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)  # as torch does when it starts
    assert train.main(command("a")) == 0
    assert ", 3 threads, 1 step per call, run folder a" in capsys.readouterr().out


def test_an_evaluation_chooses_its_own_number_of_threads(monkeypatch):
    assert train.main(command("a")) == 0
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(threads, "WORK_OF_TWO_THREADS", 1e5)
    monkeypatch.setattr(threads, "WORK_PER_THREAD", 1e6)
    options = ["a/checkpoints/best.ckpt", "--num_samples", "2", "--limit", "10", "--figures", "[]"]
    assert evaluate.main(options) == 0
    assert evaluate.main([*options, "--threads", "2"]) == 0
    # 2500 rows of 20 x 8 + 8 x 64 and a little for the encoder
    work = 2500 * (20 * 8 + 8 * 64 + (64 * 8 + 8 * 40) / 10)
    assert used == [2 + int((work - 1e5) / 1e6), 2]


@pytest.mark.parametrize("main", [train.main, lambda argv: evaluate.main(["x.ckpt", *argv])])
def test_no_threads_are_refused(capsys, main):
    assert main(["--threads", "0"]) == 2
    assert capsys.readouterr().err == "error: --threads must be at least 1; got 0.\n"


def test_more_threads_than_cores_print_a_warning(capsys):
    threads.set_threads(9)
    assert "9 threads on 8 cores will slow each other down" in capsys.readouterr().err
