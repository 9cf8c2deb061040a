"""Measure the throughput of a contender in its own process, which works only during its time slices."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.jobs import Job


class Meter:
    """Count images and the seconds spent on them.

    The warm-up of each slice is not counted: caches are cold, and a data loader has prefetched while it waited.

    Args:
        connection: Connection to the parent process: receives (warm-up, seconds), sends (images, seconds).
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self._wait()

    def _wait(self) -> None:
        self.warm_up, self.seconds = self.connection.recv()
        self.images, self.spent, self.last = 0, 0.0, time.perf_counter()

    def tick(self, images: int) -> None:
        """Count the images processed since the last call. At the end of a slice, block until the next one."""
        self.images += images
        self.spent += time.perf_counter() - self.last
        if self.warm_up is not None and self.spent >= self.warm_up:
            self.images, self.spent, self.warm_up = 0, 0.0, None
        elif self.warm_up is None and self.spent >= self.seconds:
            self.connection.send((self.images, self.spent))
            self._wait()
        self.last = time.perf_counter()

    def skip(self) -> None:
        """Exclude the time since the last call."""
        self.last = time.perf_counter()


def open_terminal(log: Path) -> None:
    """Connect stdout and stderr to a pseudo-terminal, so that progress bars are drawn, and copy the output to `log`."""
    import termios  # imported here because Windows has no termios; only the benchmarks need it

    outside, inside = os.openpty()
    termios.tcsetwinsize(inside, (24, 100))
    os.dup2(inside, 1)
    os.dup2(inside, 2)
    # The streams of a process whose output goes to a file would try to seek
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))

    def read() -> None:
        with log.open("wb", buffering=0) as file:
            while text := os.read(outside, 65536):
                file.write(text)

    threading.Thread(target=read, daemon=True).start()


def work(module: str, function: str, job: Job, connection: Connection, log: Path) -> None:
    """Run a contender until its process is killed. If it fails, send the error message through the connection."""
    open_terminal(log)
    os.chdir(mkdtemp(prefix=f"{module}-", dir=log.parent))
    try:
        contender: Callable = getattr(import_module(f"benchmarks.contenders.{module}"), function)
        contender(Meter(connection), job)
        connection.send("it returned")
    except ModuleNotFoundError as error:
        connection.send(f"{error.name} is not installed")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        connection.send(f"{type(error).__name__}: {error}")
