"""The local pool: several runs at a time, failures, signals, and exact resuming."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from small_runs import assert_same

import train
from sweep import local
from sweep.__main__ import main as sweep_main
from sweep.runs import Run

# Stands for train.py: notes its start and end, and behaves as its first argument says
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
folder, what = Path(sys.argv[1]), sys.argv[2]
def saved(number, frame):
    (folder / "saved").touch()
    sys.exit(128 + number)
if what != "deaf":
    signal.signal(signal.SIGTERM, saved)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "started").write_text(f"{time.monotonic()} {os.environ.get('OMP_NUM_THREADS')}")
if what == "fail":
    print("warning: something else")
    print("error: The model has diverged.", file=sys.stderr)
    sys.exit(1)
time.sleep(600 if what in ("wait", "deaf") else float(what))
(folder / "ended").write_text(f"{time.monotonic()}")
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Return a function that runs scripts instead of train.py and returns exit status and folders."""
    monkeypatch.setattr(
        local, "command_line", lambda run: [sys.executable, "-S", "-c", SCRIPT, str(run.folder), *run.options]
    )

    def run(*behaviours, processes=2):
        runs = [Run(f"n={n}", tmp_path / f"n={n}", [what]) for n, what in enumerate(behaviours)]
        return local.run_all(runs, processes), [run.folder for run in runs]

    return run


def when(folder, name):
    return float((folder / name).read_text().split()[0])


@pytest.fixture
def interrupt(tmp_path):
    """Return a function that sends signals to this process once `count` runs have started, one after another."""

    def later(count, *numbers, name="started"):
        def wait_and_send():
            end = time.monotonic() + 120
            while len(list(tmp_path.rglob(name))) < count and time.monotonic() < end:
                time.sleep(0.01)
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.5)

        thread = threading.Thread(target=wait_and_send, daemon=True)
        thread.start()

    return later


def test_at_most_n_runs_at_a_time_in_order(pool, capsys):
    status, folders = pool("0.5", "0.5", "0.5", "0", processes=2)
    assert status == 0
    starts, ends = ([when(folder, name) for folder in folders] for name in ("started", "ended"))
    for moment in starts:
        assert sum(a <= moment < b for a, b in zip(starts, ends, strict=True)) <= 2
    assert starts[1] < ends[0]  # at the same time
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 5
    assert out[0].startswith("1/4 n=")
    assert out[-1] == "4 finished."


def test_a_failed_run_is_named_and_the_others_go_on(pool, capsys):
    status, folders = pool("fail", "0", "0", processes=1)
    assert status == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (f"1/3 n=0: failed with exit status 1: The model has diverged. See {folders[0] / 'output.log'}.")
    assert lines[-1] == "2 finished, 1 failed."
    assert (folders[2] / "ended").exists()


def test_a_run_beside_others_has_one_thread_unless_the_user_chooses(pool, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    _, (folder,) = pool("0")
    assert (folder / "started").read_text().split()[1] == "1"
    _, (folder,) = pool("0", processes=1)
    assert (folder / "started").read_text().split()[1] == "None"  # the model decides
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    _, (folder,) = pool("0")
    assert (folder / "started").read_text().split()[1] == "3"


def test_the_log_keeps_the_output_of_all_starts(pool):
    pool("fail")
    _, (folder,) = pool("fail")
    assert (folder / "output.log").read_text().count("The model has diverged") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_runs_and_starts_no_other(pool, interrupt, capsys, number):
    handler = signal.getsignal(number)
    interrupt(2, number)
    status, folders = pool("wait", "wait", "wait", processes=2)
    assert status == 128 + number
    assert [(folder / "saved").exists() for folder in folders] == [True, True, False]
    assert not folders[2].exists()
    captured = capsys.readouterr()
    assert "Stopping 2 runs" in captured.err
    assert captured.out.splitlines()[-1] == "0 finished, 3 not finished. The same command resumes."
    assert signal.getsignal(number) is handler


def test_a_second_signal_kills_runs_that_do_not_stop(pool, interrupt):
    interrupt(1, signal.SIGINT, signal.SIGINT)
    status, _ = pool("deaf")
    assert status == 130


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_to_the_same_bits(sweep_file, tmp_path, interrupt, capsys, monkeypatch):
    fixed = {"data": "Digits", "model.hidden": [8], "num_samples": 2, "limit": 20, "callbacks": [],
             "trainer.max_epochs": 60, "trainer.accelerator": "cpu", "save_every_steps": 4}  # fmt: skip
    file = sweep_file({**{name: {"value": value} for name, value in fixed.items()}, "seed": {"values": [0, 1]}})
    command = [str(file), "--local", "2", "--sweep_dir", str(tmp_path / "sweep")]
    folders = [tmp_path / "sweep" / "file" / f"seed={seed}" for seed in (0, 1)]
    interrupt(2, signal.SIGINT, name="last.ckpt")
    assert sweep_main(command) == 130
    steps = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] for folder in folders]
    assert all(0 < step < 60 * 13 for step in steps)
    assert "Stopped by SIGTERM" in (folders[0] / "output.log").read_text()
    assert sweep_main(command) == 0
    assert "2 finished." in capsys.readouterr().out
    for seed, folder in enumerate(folders):
        options = [f"--{name}={value}" for name, value in fixed.items()]
        whole = tmp_path / f"whole-{seed}"
        assert train.main([*options, f"--seed={seed}", "--threads=1", "--run_dir", str(whole)]) == 0
        assert_same(folder, whole)
        assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
        assert (folder / "log_px.npy").read_bytes() == (whole / "log_px.npy").read_bytes()
    monkeypatch.setattr(local, "start", lambda run: pytest.fail(f"{run.name} is finished and must not start again"))
    assert sweep_main(command) == 0
    assert "2 runs, 2 of them finished." in capsys.readouterr().out


def test_the_command_names_the_script_and_the_folder():
    words = local.command_line(Run("a", Path("runs", "a"), ["--seed=1"]))
    assert words[0] == sys.executable
    assert Path(words[1]).samefile(train.__file__)
    assert words[2:] == ["--seed=1", "--run_dir", str(Path("runs", "a")), "--resume", "auto"]
