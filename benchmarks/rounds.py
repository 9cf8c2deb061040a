"""Measure contenders side by side: in each round every contender works for one time slice while the others wait."""

import multiprocessing
import random
import statistics
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.jobs import Job
from benchmarks.meter import work

TIMEOUT = 600.0  # seconds for a slice, including start-up and compilation


class Measured(NamedTuple):
    """The measured rates of the contenders of a job."""

    rates: dict[str, list[float]]  # contender -> images per second in each round
    missing: dict[str, str]  # contender that did not run -> reason
    elsewhere: float  # fraction of all cores that other programs used meanwhile
    of_means: bool = False  # whether to compare means over rounds instead of medians

    def rate(self, name: str) -> float:
        """Return images per second: the median over rounds, or the mean with `of_means`."""
        average = statistics.fmean if self.of_means else statistics.median
        return average(self.rates[name])

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Return median, lower and upper quartile of the ratio of two contenders' rates within each round.

        Ratios within a round are insensitive to drift of the machine's speed. With `of_means`, the ratio of the mean
        rates takes the place of the median.
        """
        ratios = [a / b for a, b in zip(self.rates[name], self.rates[to], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return (self.rate(name) / self.rate(to) if self.of_means else median), low, high


class Runner:
    """A contender in its own process.

    Args:
        name: Name in tables.
        job: The work, with the module and function that do it.
        folder: Folder for its log and files.
    """

    def __init__(self, name: str, job: Job, folder: Path):
        self.name = name
        # A fresh interpreter, so that process-wide settings such as flushing of denormals are not shared.
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        log = folder / f"{name.replace(' ', '_').replace('/', '_')}.log"
        self.process = spawn.Process(target=work, args=(*job.contender.split("."), job, other, log))
        self.process.start()
        other.close()

    def slice(self, warm_up: float, seconds: float, timeout: float) -> float:
        """Run one slice and return images per second. Raise RuntimeError with the reason if the contender failed."""
        self.connection.send((warm_up, seconds))
        try:
            answer = self.connection.recv() if self.connection.poll(timeout) else f"no answer in {timeout:.0f} s"
        except EOFError:
            answer = "it exited without a message"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        images, spent = answer
        return images / spent

    def end(self) -> None:
        """Kill the process and its children."""
        if not self.process.is_alive():
            return
        family = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for member in family:
            member.kill()
        self.process.join()


def busy_seconds() -> float:
    """Return the CPU time used by all programs since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def own_seconds(processes: list[psutil.Process]) -> float:
    """Return the CPU time used by these processes and their children, including children that have exited."""
    used = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # DataLoader workers exit after each epoch
            used += sum(process.cpu_times()[:4])
            used += own_seconds(process.children())
    return used


class OtherLoad:
    """The fraction of all cores that other programs use, from construction on.

    Args:
        processes: The measured processes, which do not count.
    """

    def __init__(self, processes: list[psutil.Process]):
        self.processes, self.start = processes, time.monotonic()
        self.busy, self.own = busy_seconds(), own_seconds(processes)

    def __call__(self) -> float:
        """Return the fraction until now, at least 0."""
        used = busy_seconds() - self.busy - own_seconds(self.processes) + self.own
        return max(0.0, used / (time.monotonic() - self.start) / psutil.cpu_count())


def side_by_side(
    jobs: dict[str, Job], rounds: int, seconds: float, warm_up: float, folder: Path, every_slice: bool = False
) -> Measured:
    """Run contenders in turn, `rounds` slices of at least `seconds` each after a first slice that is not counted.

    Args:
        jobs: Name of a contender -> its job.
        rounds: Number of counted slices per contender.
        seconds: Minimum length of a slice.
        warm_up: Seconds at the start of each slice that are not counted.
        folder: Folder for the files of the contenders.
        every_slice: Count the first slice too.
    """
    runners: list[Runner] = []
    rates: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    try:
        for name, job in jobs.items():
            runner = Runner(name, job, folder)
            runners.append(runner)
            try:  # contenders start one by one, because starting uses all cores
                first = runner.slice(0.0, seconds, TIMEOUT)
                rates[name] = [first] if every_slice else []
            except RuntimeError as error:
                missing[name] = str(error)
                runner.end()
        running = [runner for runner in runners if runner.name in rates]
        other_load = OtherLoad([psutil.Process(runner.process.pid) for runner in running])
        for number in range(rounds):
            order = random.Random(number).sample(running, len(running))  # a new order each round
            for runner in order:
                try:
                    rates[runner.name].append(runner.slice(warm_up, seconds, TIMEOUT))
                except RuntimeError as error:
                    running.remove(runner)
                    del rates[runner.name]
                    missing[runner.name] = str(error)
        elsewhere = other_load()
    finally:
        for runner in runners:
            runner.end()
    return Measured(rates, missing, elsewhere, every_slice)
