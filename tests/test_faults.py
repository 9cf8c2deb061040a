"""Disks that fill up or turn read-only, W&B that does not answer: nothing is lost, and training stays the same."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from small_runs import LAST, assert_same, at_steps, command, contents, uninterrupted
from wandb_file import read_wandb_file

import train
from models import VAE


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Mounts(list):
    """The file systems that are mounted, the latest last."""

    def add(self, point, *options):
        point = Path(point).absolute()
        point.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, point], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        self.append(point)
        return point

    def turn_read_only(self, *options):
        subprocess.run(["mount", "-o", ",".join(["remount", "ro", *options]), self[-1]], check=True)

    def undo(self):
        subprocess.run(["umount", "-l", self.pop()], check=True)


@pytest.fixture
def mounts():
    found = Mounts()
    yield found
    while found:
        found.undo()


def small(mounts, size="256k"):
    return mounts.add("disk", "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def fill(disk):
    """Takes all the room there is."""
    try:
        with open(disk / "filler", "ab", buffering=0) as file:
            while file.write(bytes(512)):
                pass
    except OSError:
        return


def files(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def rows(folder):
    with Path(folder, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def history(paths):
    """Every number that W&B files hold of a run, as (step, name), each once."""
    found = [
        (json.loads(step), name)
        for path in sorted(paths)
        for record in read_wandb_file(path)
        if record.HasField("history")
        for values in [{item.key or item.nested_key[0]: item.value_json for item in record.history.item}]
        if (step := values.get("trainer/global_step"))
        for name in values
        if name[0] != "_" and name not in ("trainer/global_step", "epoch")
    ]
    assert len(found) == len(set(found))
    return set(found)


def numbers(folder):
    """Every number in metrics.csv, as (step, name)."""
    return {
        (int(row["step"]), name)
        for row in rows(folder)
        for name, value in row.items()
        if value and name not in ("step", "epoch")
    }


def what_stops(act, monkeypatch, capsys):
    """What the run in disk/a says when `act(step)`, called in each step, has made it impossible to go on."""
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, act)
        assert train.main(command("disk/a")) == 1
    stderr = capsys.readouterr().err
    assert "The checkpoints are unchanged." in stderr
    return stderr


def goes_on():
    """The same command ends as the run that nothing stopped."""
    assert train.main(command("disk/a")) == 0
    assert_same("whole", "disk/a")
    assert Path("whole/metrics.csv").read_text() == Path("disk/a/metrics.csv").read_text()


def nothing_half_written(folder):
    return not [path for path in Path(folder).rglob("*") if path.suffix in (".partial", ".tmp")]


# Disks


@pytest.mark.parametrize("room", [0, 8, 40, 150])
def test_a_full_disk_is_detected_before_the_first_step(mounts, monkeypatch, capsys, room):
    disk = small(mounts)
    fill(disk)
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - room * 1024))
    at_steps(monkeypatch, VAE, lambda step: pytest.fail("it trained"))
    assert train.main(command("disk/a")) == 2
    stderr = capsys.readouterr().err
    assert re.search(
        r"No space left on device\. Free disk space|too little for four checkpoints: free some space", stderr
    )
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert not Path("disk/a").exists()


@pytest.mark.parametrize("step", [2, 18, 25])
def test_a_disk_that_fills_up_destroys_no_checkpoint(mounts, monkeypatch, capsys, step):
    uninterrupted("whole")
    disk, saved = small(mounts), {}

    def act(now):
        if now == step:
            fill(disk)
            saved.update(files("disk/a/checkpoints"))

    assert "No space left on device. Free disk space" in what_stops(act, monkeypatch, capsys)
    assert files("disk/a/checkpoints") == saved
    assert nothing_half_written(disk)
    assert train.main(command("disk/a")) == 2  # still full
    assert files("disk/a/checkpoints") == saved
    (disk / "filler").unlink()
    goes_on()


def test_a_truncated_row_of_metrics_is_rewritten(monkeypatch):
    uninterrupted("whole")
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 20 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut")) == 128 + signal.SIGTERM
    with Path("cut/metrics.csv").open("a") as file:
        file.write("1")  # of 19,1,...
    assert train.main(command("cut")) == 0
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_disk_that_fills_up_before_the_evaluation(mounts, monkeypatch, capsys):
    disk, measured = small(mounts), train.evaluate_checkpoint
    again = command("disk/a", "VAE", "--num_samples", "3")

    def act(*args, **options):
        fill(disk)
        return measured(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate_checkpoint", act)
        assert train.main(again) == 1
    assert "No space left on device. Free disk space" in capsys.readouterr().err
    assert nothing_half_written(disk)
    assert not Path("disk/a/evaluation.json").exists()
    before = files("disk/a/checkpoints")
    (disk / "filler").unlink()
    assert train.main(again) == 0
    assert Path("disk/a/evaluation.json").exists()
    assert files("disk/a/checkpoints") == before


def test_a_read_only_disk_is_refused(mounts, capsys):
    small(mounts)
    assert train.main(command("disk/a")) == 0
    before = files("disk")
    mounts.turn_read_only()
    capsys.readouterr()
    for folder in ("disk/a", "disk/new"):
        assert train.main(command(folder, "VAE", "--trainer.max_epochs", "4")) == 2
        stderr = capsys.readouterr().err
        assert "Read-only file system. Free disk space, change the permissions, or choose another --run_dir." in stderr
        assert stderr.count("\n") == 1
    assert files("disk") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(capsys):
    Path("a").mkdir(mode=0o555)
    assert train.main(command("a")) == 2
    assert "Permission denied. Free disk space, change the permissions" in capsys.readouterr().err


@pytest.mark.parametrize("step", [2, 18])
def test_a_disk_that_turns_read_only_destroys_no_checkpoint(mounts, monkeypatch, capsys, step):
    uninterrupted("whole")
    small(mounts)

    def act(now):
        if now == step:  # over itself, because a file system with files open for writing cannot turn
            mounts.add("disk", "--bind", "disk")
            mounts.turn_read_only("bind")

    assert "Read-only file system. Free disk space" in what_stops(act, monkeypatch, capsys)
    mounts.undo()
    assert nothing_half_written("disk")
    goes_on()


# Data


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing", "another"])
def test_damaged_data_are_refused_before_the_run_folder_is_created(capsys, damage):
    path = Path("mine.npz")
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (40, 5, 6), np.uint8))
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "truncated": good[:middle],
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "empty": b"",
            "missing": b"",
            "another": b"hello",
        }[damage]
    )
    if damage == "missing":
        path.unlink()
    assert train.main(["--data", "NPZ", "--data.root", "mine.npz", "--run_dir", "a", "--resume", "auto"]) == 2
    stderr = capsys.readouterr().err
    assert re.match(r"error: mine\.npz (is not a complete \.npz file|was not found)", stderr)
    assert stderr.count("\n") == 1
    assert not Path("a").exists()


# Runs train.main and kills its process when it calls a function of os, for the third time, on last.ckpt
KILLED_AT = """
import os, signal, sys
import train
name, *argv = sys.argv[1:]
call, times = getattr(os, name), []
def watched(file, *more, **options):
    path = os.readlink(f"/proc/self/fd/{file}") if name == "fsync" else f"{file} {more[0]}"
    times.append("last." in path)
    if sum(times) == 3:
        if name == "fsync":  # half of it is on the disk
            os.ftruncate(file, os.fstat(file).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return call(file, *more, **options)
setattr(os, name, watched)
sys.exit(train.main(argv))
"""


def run(script, *argv, **env):
    """A process of its own, with as many threads as this one: others give other bits."""
    paths = os.pathsep.join([str(Path(train.__file__).parent), str(Path(__file__).parent)])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | env
    return subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "step"), [("fsync", 8), ("link", 12), ("replace", 8)])
def test_killed_during_a_save_with_tmpdir_on_another_file_system(mounts, call, step):
    uninterrupted("whole")
    elsewhere = small(mounts, "8k")
    fill(elsewhere)  # nothing of a checkpoint depends on what lies there
    done = run(KILLED_AT, call, *command("cut"), TMPDIR=str(elsewhere))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert contents("cut")["global_step"] == step
    assert (Path("cut") / LAST.with_suffix(".partial")).exists()
    assert [path.name for path in elsewhere.iterdir()] == ["filler"]
    done = run("import sys, train; sys.exit(train.main(sys.argv[1:]))", *command("cut"), TMPDIR=str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert nothing_half_written("cut")
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


# W&B

# Runs train.main with a W&B that fails in some way
WANDB = """
import os, signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
import callbacks.loggers
import evaluate
import train
from models import VAE
how, *argv = sys.argv[1:]
class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(401 if how == "key" else 200)
        # without an error, wandb-core relies on the addresses for uploads that are missing in this answer, and crashes
        is_refused = how == "key" or (how != "crash" and b"CreateRunFiles" in body)
        content = b'{"errors": [{"message": "who?"}]}' if is_refused else b'{"data": {}}'
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *message):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
if how == "unreachable":
    server.server_close()
else:
    Thread(target=server.serve_forever, daemon=True).start()
callbacks.loggers.INIT_SECONDS = callbacks.loggers.FINISH_SECONDS = 2.0
loss = VAE.loss
def watched(self, x, y):
    assert Path(self.trainer.default_root_dir, "wandb_id").read_text()
    if self.global_step == 20 and how == "network":
        server.shutdown()
        server.server_close()
    if self.global_step == 20 and how == "service":
        words = {path.parent.name: path.read_bytes().split(b"\\0") for path in Path("/proc").glob("[0-9]*/cmdline")}
        me = str(os.getpid()).encode()
        os.kill(*(int(pid) for pid, argv in words.items() if b"wandb-core" in argv[0] and me in argv), signal.SIGKILL)
    return loss(self, x, y)
VAE.loss = watched
sys.exit(train.main(argv))
"""
ACCOUNT = {"WANDB_API_KEY": "0" * 40, "WANDB_HTTP_TIMEOUT": "2"}
UPLOAD = "Upload it later by: wandb sync --include-online a/wandb\n"


@pytest.mark.slow
@pytest.mark.parametrize(("how", "message"), [
    ("unreachable", r"W&B does not answer \(.*connection refused\): the run is written to disk\. "),
    ("network", r"W&B has not received the whole run \(.*\)\. "),
    ("service", r"W&B has failed \(.*\): nothing more is sent to it\. "),
])  # fmt: skip
def test_training_continues_without_wandb(how, message):
    uninterrupted("whole")
    done = run(WANDB, how, *command("a", "VAE", "--wandb", "online"), **ACCOUNT)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(f"warning: {message}{UPLOAD}", done.stderr)) == 1, done.stderr
    assert done.stderr.count("warning: ") == 1
    assert_same("whole", "a")
    assert Path("whole/metrics.csv").read_text() == Path("a/metrics.csv").read_text()
    offline = list(Path("a/wandb").glob("offline-run-*/*.wandb"))
    assert [path.stem.removeprefix("run-") for path in offline] == (
        [Path("a/wandb_id").read_text()] if how == "unreachable" else []
    )
    if how == "unreachable":
        assert history(offline) == numbers("a")


@pytest.mark.slow
def test_training_continues_when_the_service_of_wandb_crashes_at_any_time():
    uninterrupted("whole")
    done = run(WANDB, "crash", *command("a", "VAE", "--wandb", "online"), **ACCOUNT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: ") == 1, done.stderr
    assert re.search(f"warning: W&B .*{UPLOAD}", done.stderr)
    assert "error: " not in done.stderr.replace("runtime error: ", "")  # of Go
    assert_same("whole", "a")


def test_all_starts_of_a_run_are_one_wandb_run(monkeypatch):
    uninterrupted("whole")
    again = command("a", "VAE", "--wandb", "offline")
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 20 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(again) == 128 + signal.SIGTERM
    known = Path("a/wandb_id").read_text()
    wandb.teardown()
    assert train.main(again) == 0
    wandb.teardown()  # only now all of it is on the disk
    assert Path("a/wandb_id").read_text() == known
    found = list(Path("a/wandb").glob("offline-run-*/*.wandb"))
    assert len(found) == 2
    ids = {record.run.run_id for path in found for record in read_wandb_file(path) if record.HasField("run")}
    assert ids == {known}
    assert history(found) == numbers("a") == numbers("whole")
    assert_same("whole", "a")
    assert train.main(command("b", "VAE", "--wandb", "offline")) == 0
    wandb.teardown()  # its service would write the next run from this folder
    assert Path("b/wandb_id").read_text() != known


@pytest.mark.slow
@pytest.mark.parametrize("key", ["0" * 40, "short"])
def test_an_invalid_wandb_key_is_refused(key):
    done = run(WANDB, "key", *command("a", "VAE", "--wandb", "online"), **ACCOUNT | {"WANDB_API_KEY": key})
    assert done.returncode == 2
    assert re.search("^error: W&B: .*(401|API key must have).* Use --wandb offline", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert not Path("a").exists()


def test_wandb_writes_into_the_run_folder_for_any_working_directory(tmp_path, monkeypatch):
    """The service keeps the folder that it was started in, by whichever run of a process came first."""
    wandb.setup().ensure_service()
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    assert train.main(command("a", "VAE", "--wandb", "offline")) == 0
    wandb.teardown()
    assert len(list(there.glob("a/wandb/offline-run-*/*.wandb"))) == 1
