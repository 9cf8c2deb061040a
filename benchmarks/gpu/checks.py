"""Checks on the device: tests marked `gpu`, resuming to the same bits, signals, torchrun."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.session import ROOT, OutOfTime, Session
from benchmarks.gpu.training import mnist_options, run_train, without_graph

TESTS_SECONDS = 90.0
PROCESS_SECONDS = 60.0
# of one epoch: by default it depends on the length of the run, which differs between 2 + 2 and 4 epochs
WARM_UP = ("--model.beta_warmup", "1")
RESULT = re.compile(r"^(\S+::.+) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
NCCL = re.compile(r"NCCL version (\S+)")  # printed when processes first communicate, if NCCL_DEBUG asks for it
MARK = re.compile(r"^\s*@?pytest\.mark\.gpu\b|pytestmark\s*=.*mark\.gpu", re.MULTILINE)


def gpu_tests(session: Session) -> dict[str, Any]:
    """Run all tests marked `gpu`. Without a GPU they are collected and skipped."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK.search(path.read_text())]
    names = [str(path.relative_to(ROOT)) for path in files]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", "--slow", *names]
    try:
        done = session.call(command, TESTS_SECONDS)
    except OutOfTime as error:
        return {"passed": False, "files": len(files), "summary": f"{error}: {count_of_results(error.output)}"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {
        "passed": done.returncode == 0,
        "files": len(files),
        "summary": lines[-1] if lines else done.stderr[-300:],
        **({"failed": "; ".join(failed)[:600]} if failed else {}),
    }


def count_of_results(output: str) -> str:
    """Return how many tests had passed and failed, and which failed, from the output of `pytest -v` so far."""
    results = RESULT.findall(output)
    failed = [name for name, result in results if result in ("FAILED", "ERROR")]
    passed = sum(result == "PASSED" for _, result in results)
    return f"{passed} passed, {len(failed)} failed" + (f" ({'; '.join(failed)[:400]})" if failed else "")


def bits(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the state of the optimizer in the last checkpoint of a run, by name."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    tensors = dict(checkpoint["state_dict"])
    for number, optimizer in enumerate(checkpoint["optimizer_states"]):
        for index, state in optimizer["state"].items():
            tensors |= {f"{number}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return tensors


def same_bits(one: Path, other: Path) -> bool:
    """Return whether two runs ended with the same weights and the same state of the optimizer."""
    a, b = bits(one), bits(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resume(*options: str) -> Callable[[Session], dict[str, Any]]:
    """Return a check that 2 + 2 epochs end with the bits of 4 epochs.

    Args:
        options: Options of train.py.
    """

    def check(session: Session) -> dict[str, Any]:
        shown = ["--data.batch_size", "64" if session.is_tiny else "512", *WARM_UP, *options]
        whole, again = (run_train(session, *shown, "--trainer.max_epochs", "4").folder for _ in range(2))
        half = run_train(session, *shown, "--trainer.max_epochs", "2").folder
        run_train(session, *shown, "--trainer.max_epochs", "4", "--resume", "auto", folder=half)
        repeated, same = same_bits(whole, again), same_bits(whole, half)
        return {"passed": repeated and same, "repeats": repeated, "resumes": same, "options": " ".join(shown)}

    return check


def signalled(*options: str, batch: int, save_every: int) -> Callable[[Session], dict[str, Any]]:
    """Return a check that a run that SIGUSR1 stops in mid-epoch is resumed by the same command to the same bits.

    Args:
        options: Options of train.py.
        batch: Images per batch: small, so that an epoch is long enough for the signal to arrive within it.
        save_every: Steps between checkpoints; the signal is sent after the first one.
    """

    def check(session: Session) -> dict[str, Any]:
        size, every = (4, 20) if session.is_tiny else (batch, save_every)
        shown = [
            "--data.batch_size",
            str(size),
            "--trainer.max_epochs",
            "3",
            "--save_every_steps",
            str(every),
            *options,
        ]
        whole, folder = run_train(session, *shown).folder, session.new_folder("signalled")
        common = [*mnist_options(session), *shown, "--run_dir", str(folder), "--resume", "auto"]
        command = [sys.executable, "train.py", *common]
        last = folder / "checkpoints" / "last.ckpt"
        process = subprocess.Popen(
            command, cwd=ROOT, env=session.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            end = time.monotonic() + session.limit(PROCESS_SECONDS)
            while not last.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            process.send_signal(signal.SIGUSR1)
            _, messages = process.communicate(timeout=session.limit(PROCESS_SECONDS))
        finally:
            process.kill()
        step = torch.load(last, weights_only=True, map_location="cpu")["global_step"]
        done = session.call(command, PROCESS_SECONDS)
        expected = 128 + signal.SIGUSR1
        statuses = [process.returncode, done.returncode]
        same = done.returncode == 0 and same_bits(whole, folder)
        result = {"passed": same and statuses == [expected, 0], "statuses": str(statuses), "stopped_at_step": step}
        if not result["passed"]:
            result["messages"] = " ".join(f"{messages} {done.stderr}".split())[-400:]
        return {**result, "resumes": same, "options": " ".join(shown)}

    return check


def torchrun(session: Session) -> dict[str, Any]:
    """Check that torchrun with one process trains with a process group (NCCL on a GPU), to the bits of a plain run."""
    shown = ["--data.batch_size", "64" if session.is_tiny else "512", "--trainer.max_epochs", "2", *without_graph(1)]
    whole, folder = run_train(session, *shown).folder, session.new_folder("torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "train.py"]
    command += [*mnist_options(session), *shown, "--trainer.strategy", "ddp", "--run_dir", str(folder)]
    done = session.call(command, PROCESS_SECONDS, NCCL_DEBUG="VERSION")
    result: dict[str, Any] = {"passed": False, "status": done.returncode, "options": " ".join(shown)}
    if done.returncode != 0:
        return result | {"messages": " ".join(done.stderr.split())[-400:]}
    nccl, same = NCCL.search(done.stdout + done.stderr), same_bits(whole, folder)
    passed = same and (session.is_tiny or nccl is not None)
    return result | {"passed": passed, "same_bits_as_without": same, "nccl": nccl[1] if nccl else "not used"}
