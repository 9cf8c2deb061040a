"""Failures of torch that a user can do something about."""

import pytest
import torch
from small_runs import at_steps, command

import train
from models import VAE
from runtime.failures import check_compiler, explain_failure


@pytest.mark.parametrize(("error", "said"), [
    (MemoryError(), "Out of memory: lower --data.batch_size"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 1"), "Out of"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "Out of memory"),
    (RuntimeError("CUDA error: no kernel image is available. Compile with"), "use --trainer.accelerator cpu"),
    (ValueError("Expected more than 1 value per channel when training, got [1, 4]"), "Batch norm needs at least two"),
    (RuntimeError("Function 'LogBackward0' returned nan values in its 0th output."), "nan"),
])  # fmt: skip
def test_a_failure_is_a_sentence(error, said):
    assert said in explain_failure(error)


def test_a_mistake_of_the_program_is_none():
    assert explain_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert explain_failure(ValueError("other")) is None


def test_memory_that_runs_out_in_training_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def act(step):
        if step == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    at_steps(monkeypatch, VAE, act)
    assert train.main(command("a")) == 1
    said = capsys.readouterr().err
    assert "error: Out of memory: lower --data.batch_size" in said
    assert "Traceback" not in said


def test_no_compiler_is_known_before_training(monkeypatch):
    def missing(*args, **options):
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda function: missing)
    with pytest.raises(ValueError, match=r"--compile has failed \(No working C\+\+ compiler found\): install a C\+\+"):
        check_compiler("cpu")
