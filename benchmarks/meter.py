"""What a contender reports to, in a process of its own: it works for a slice of time, and waits for the next."""

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
    """Counts images and the seconds that they take.

    The beginning of each slice is not counted: caches are cold, and a loader has read ahead while it waited.

    Args:
        connection: To the process that hands out slices: gets (warm-up, seconds), gives (images, seconds).
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self._wait()

    def _wait(self) -> None:
        self.warm_up, self.seconds = self.connection.recv()
        self.images, self.spent, self.last = 0, 0.0, time.perf_counter()

    def tick(self, images: int) -> None:
        """So many images have been worked on since the last call."""
        self.images += images
        self.spent += time.perf_counter() - self.last
        if self.warm_up is not None and self.spent >= self.warm_up:
            self.images, self.spent, self.warm_up = 0, 0.0, None
        elif self.warm_up is None and self.spent >= self.seconds:
            self.connection.send((self.images, self.spent))
            self._wait()
        self.last = time.perf_counter()

    def skip(self) -> None:
        """The time since the last call belongs to something else."""
        self.last = time.perf_counter()


def open_terminal(log: Path) -> None:
    """Lets this process write to a terminal, as a user's would, so that bars are drawn; `log` gets what they show."""
    import termios  # not on Windows, where only the benchmarks cannot run

    outside, inside = os.openpty()
    termios.tcsetwinsize(inside, (24, 100))
    os.dup2(inside, 1)
    os.dup2(inside, 2)

    def read() -> None:
        with log.open("wb", buffering=0) as file:
            while text := os.read(outside, 65536):
                file.write(text)

    threading.Thread(target=read, daemon=True).start()


def work(module: str, function: str, job: Job, connection: Connection, log: Path) -> None:
    """Runs a contender until it is ended; a message in words to the other side where it cannot run."""
    open_terminal(log)
    os.chdir(mkdtemp(prefix=f"{module}-", dir=log.parent))
    try:
        contender: Callable = getattr(import_module(f"benchmarks.contenders.{module}"), function)
        contender(Meter(connection), job)
        connection.send("it ended")
    except ModuleNotFoundError as error:
        connection.send(f"{error.name} is not installed")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        connection.send(f"{type(error).__name__}: {error}")
