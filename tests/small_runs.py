"""Small runs that are killed and resumed, for tests that an interrupted run equals an uninterrupted one exactly."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning.utilities import rank_zero_only

EPOCHS = 3
COMMAND = ["--data", "Digits", "--model.hidden", "[8]", "--trainer.max_epochs", str(EPOCHS), "--num_samples", "0",
           "--callbacks", "[]",
           "--trainer.enable_progress_bar", "false", "--save_every_steps", "4",
           "--trainer.log_every_n_steps", "1"]  # fmt: skip
OF_MODEL = {"VAE": [], "M2": ["--model", "M2", "--data.num_labels", "50"]}
LAST = Path("checkpoints", "last.ckpt")
# The fork server imports everything once; forking it for each process saves imports, which take longer than training.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["train"])
os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))  # where it looks for that
TRAIN = "import sys, train; sys.exit(train.main(sys.argv[1:]))"
EVALUATE = "import sys, evaluate; sys.exit(evaluate.main(sys.argv[1:]))"
# train.py with a fault in one process: a signal or a NaN loss at a given step, or SIGKILL during a given save
FAULTY = """
import json, math, os, signal, sys
import train
from models import M2, VAE
fault, *argv = sys.argv[1:]
fault = json.loads(fault)
here = int(os.environ.get("RANK", 0)) == fault.get("rank", 0)
for kind in (VAE, M2):
    def loss(self, x, y, measured=kind.loss):
        at = here and self.global_step == fault.get("step")
        if at and "signal" in fault:
            os.kill(os.getpid(), fault["signal"])
        return measured(self, x, y) * (math.nan if at and "nan" in fault else 1)
    kind.loss = loss
replace = os.replace
def replaced(a, b):
    replaced.times += str(b).endswith("last.ckpt")
    if here and replaced.times == fault.get("save"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
replaced.times = 0
os.replace = replaced
sys.exit(train.main(argv))
"""


def command(folder, kind="VAE", *more):
    return [*OF_MODEL[kind], *COMMAND, "--run_dir", folder, "--resume", "auto", *more]


@cache
def _trained(*arguments):
    """Train in a temporary folder, once per process, and return this folder."""
    import train  # not at the top: processes of the fork server have it already

    folder = TemporaryDirectory()
    assert train.main(command(f"{folder.name}/run", *arguments)) == 0
    return folder


def uninterrupted(folder, kind="VAE", *more):
    """Copy an uninterrupted run to `folder`. Tests share it; it is trained once for each set of options."""
    shutil.copytree(Path(_trained(kind, *more).name, "run"), folder)


def contents(folder):
    return torch.load(Path(folder, LAST), weights_only=True)


def assert_same(folder, other):
    """Assert that the last checkpoints of two runs have equal steps, weights and optimizer states."""
    a, b = contents(folder), contents(other)
    assert a["global_step"] == b["global_step"]
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    for state, again in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for index, values in state["state"].items():
            assert all(torch.equal(value, again["state"][index][key]) for key, value in values.items())


def at_steps(monkeypatch, kind, act):
    """Call `act(step)` in each training step of models of this class."""
    loss = kind.loss

    def watched(self, x, y):
        if self.training:  # the cost of a step is measured in evaluation mode before training
            act(self.global_step)
        return loss(self, x, y)

    monkeypatch.setattr(kind, "loss", watched)


def ranks(rank, world, port):
    """Return the environment variables that torchrun sets for a process; none for a single process."""
    if world == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {key: str(value) for key, value in (numbers | place).items()}


def _process(output_files, folder, environment, script, argv):
    """Run `python -c script *argv` in a folder, with output and errors redirected to files."""
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, path in enumerate(output_files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    rank_zero_only.rank = int(environment.get("RANK", 0))  # Lightning sets it only when it is imported
    torch.set_num_threads(1)  # as tests/conftest.py does; the number of threads affects rounding
    sys.argv = ["-c", *argv]
    exec(script, {"__name__": "__main__"})


def processes(world, script, *argv):
    """Run several processes `python -c script *argv` of one run; return exit status, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        files = [(f"{folder}/{rank}.out", f"{folder}/{rank}.err") for rank in range(world)]
        started = [
            SERVER.Process(target=_process, args=(files[rank], os.getcwd(), ranks(rank, world, port), script, argv))
            for rank in range(world)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(timeout=200)
            process.kill()
            process.join()
        texts = [[Path(path).read_text() for path in paths] for paths in files]
    return [(process.exitcode, *text) for process, text in zip(started, texts, strict=True)]


def faulty(fault, *argv, world=1):
    """Run train.py with `processes`, with a fault (keys of `FAULTY`) in one of them."""
    return processes(world, FAULTY, json.dumps(fault), *argv)


def killed(step, where, *argv):
    fault = {"step": step, "signal": signal.SIGKILL} if where == "step" else {"save": step}
    ((status, _, stderr),) = faulty(fault, *argv)
    assert status == -signal.SIGKILL, stderr
