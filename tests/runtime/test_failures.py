"""Errors of torch that a user can fix."""

import pytest
import torch
from small_runs import at_steps, command

import train
from models import VAE
from runtime.failures import check_compiler, explain_failure


@pytest.mark.parametrize(("error", "message"), [
    (MemoryError(), "Out of memory: lower --data.batch_size"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 1"), "Out of"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "Out of memory"),
    (RuntimeError("CUDA error: no kernel image is available. Compile with"), "use --trainer.accelerator cpu"),
    (ValueError("Expected more than 1 value per channel when training, got [1, 4]"), "Batch norm needs at least two"),
    (RuntimeError("Function 'LogBackward0' returned nan values in its 0th output."), "nan"),
])  # fmt: skip
def test_failures_are_explained_in_a_sentence(error, message):
    assert message in explain_failure(error)


def test_bugs_of_the_program_are_not_explained():
    assert explain_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert explain_failure(ValueError("other")) is None


def test_out_of_memory_in_training_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def act(step):
        if step == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    at_steps(monkeypatch, VAE, act)
    assert train.main(command("a")) == 1
    message = capsys.readouterr().err
    assert "error: Out of memory: lower --data.batch_size" in message
    assert "Traceback" not in message


def test_a_missing_compiler_is_detected_before_training(monkeypatch):
    def missing(*args, **options):
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda function: missing)
    with pytest.raises(ValueError, match=r"--compile has failed \(No working C\+\+ compiler found\): install a C\+\+"):
        check_compiler("cpu")
