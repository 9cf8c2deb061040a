"""Run a sweep on this machine, several runs at a time."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

import train
from evaluation.result_files import read_result, result_file
from models.checkpoints import BEST, LAST
from runtime.threads import is_set_by_environment
from sweep.runs import Run

LOG = "output.log"  # in the run folder: what train.py prints, of all starts
POLL_SECONDS = 0.1
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Started(NamedTuple):
    """A run whose process has been started."""

    run: Run
    process: subprocess.Popen
    log: IO[bytes]
    since: float


class StopRequest:
    """The signals that this process has received.

    Attributes:
        number: The first of these signals; 0 before.
        count: How many there were.
    """

    def __init__(self) -> None:
        self.number = self.count = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: only note it."""
        self.number, self.count = self.number or number, self.count + 1


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note signals that would end this process for the duration of the block."""
    request = StopRequest()
    earlier = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def run_all(runs: Sequence[Run], processes: int) -> int:
    """Run train.py for all runs, at most `processes` at a time, and return the exit status.

    The status is 1 if a run has failed, and 128 + the signal number after a signal. After Ctrl-C or SIGTERM, each run
    saves a checkpoint and stops; a second signal kills all runs.
    """
    waiting, running = deque(runs), list[Started]()
    finished = failed = told = 0
    with stop_request() as request:
        try:
            while running or (waiting and not request.number):
                while waiting and len(running) < processes and not request.number:
                    running.append(start(waiting.popleft(), is_alone=processes == 1))
                if request.count > told:
                    stop(running, kill=told > 0)
                    told = request.count
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    each.log.close()
                    is_success = each.process.returncode == 0
                    finished += is_success
                    failed += not is_success and not request.number
                    print(f"{finished + failed}/{len(runs)} {outcome(each, bool(request.number))}", flush=True)
                time.sleep(POLL_SECONDS)
        finally:  # also after an error, such as a full disk
            stop(running, kill=False)
            for each in running:
                each.process.wait()
                each.log.close()
    left = len(runs) - finished - failed
    parts = [f"{finished} finished", f"{failed} failed" if failed else "", f"{left} not finished" if left else ""]
    print(", ".join(filter(None, parts)) + (". The same command resumes." if left else "."), flush=True)
    return 128 + request.number if request.number else int(failed > 0)


def command_line(run: Run) -> list[str]:
    """Return the command that starts a run, or resumes it."""
    folder = ["--run_dir", str(run.folder), "--resume", "auto"]
    return [sys.executable, str(Path(train.__file__).resolve()), *run.options, *folder]


def start(run: Run, is_alone: bool) -> Started:
    """Start or resume a run. What it prints is appended to the log in its folder.

    Args:
        run: The run.
        is_alone: Whether no other run shares the cores; otherwise it has one thread, unless the user chooses.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    log = (run.folder / LOG).open("ab")
    env = dict(os.environ)
    if not is_alone and not is_set_by_environment():
        env["OMP_NUM_THREADS"] = "1"  # several processes on all cores would slow each other down
    # A session of its own: Ctrl-C reaches only this process, which passes it on once.
    process = subprocess.Popen(
        command_line(run), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
    )
    return Started(run, process, log, time.monotonic())


def stop(running: Sequence[Started], kill: bool) -> None:
    """Let all running processes save and stop, or kill them."""
    if running and not kill:
        print(f"Stopping {len(running)} runs after their current batch. Repeat to kill them.", file=sys.stderr)
    for each in running:
        if kill:
            each.process.kill()
        elif os.name == "posix":  # on Windows, Ctrl-C has reached them, and terminate() would not let them save
            each.process.terminate()


def outcome(ended: Started, is_stopping: bool) -> str:
    """Return a line about a run that has ended."""
    run, status = ended.run, ended.process.returncode
    seconds = time.monotonic() - ended.since
    if status == 0:
        return f"{run.name}: finished in {seconds:.0f} s{result_text(run.folder)}"
    if is_stopping:
        return f"{run.name}: stopped"
    log = run.folder / LOG
    return f"{run.name}: failed with exit status {status}: {last_error(log)} See {log}."


def result_text(folder: Path) -> str:
    """Return the main result of a finished run, as the end of its line; empty if there is none."""
    checkpoints = folder / "checkpoints"
    files = [result_file(checkpoints / name) for name in (BEST, LAST)]
    results = [result for file in files if (result := read_result(file)) is not None]
    if not results:
        return ""
    result = max(results, key=lambda result: result.step or 0)
    parts = [f"NLL {result.nll:.2f}" if result.nll is not None else ""]
    parts += [f"test error {result.test_error:.2%}" if result.test_error is not None else ""]
    return "".join(f", {part}" for part in parts if part)


def last_error(log: Path) -> str:
    """Return the last line of a log that names an error, or its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing."]
    errors = [line for line in lines if re.match(r"error: |\w*(Error|Exception)\b", line)]
    return (errors or lines)[-1].removeprefix("error: ").strip()
