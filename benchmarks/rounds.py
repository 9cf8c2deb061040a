"""Contenders side by side: each works for a slice of time while the others wait, round after round."""

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

PATIENCE = 600.0  # seconds until a contender must have started, and compiled what it compiles


class Measured(NamedTuple):
    """What came of the contenders of a job."""

    rates: dict[str, list[float]]  # images per second, of each contender in each round
    missing: dict[str, str]  # contenders that did not run, and why
    elsewhere: float  # the part of all cores that other programs used meanwhile
    of_means: bool = False  # whether rounds are alike only on the whole

    def rate(self, name: str) -> float:
        """Images per second: the median over rounds, or their mean."""
        return (statistics.fmean if self.of_means else statistics.median)(self.rates[name])

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Median and quartiles of a contender's rate over another's, round by round: what drifts, drifts for both. Of
        rounds that are alike only on the whole, the ratio of the means in place of the median."""
        ratios = [a / b for a, b in zip(self.rates[name], self.rates[to], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return (self.rate(name) / self.rate(to) if self.of_means else middle), low, high


class Runner:
    """A contender in its own process.

    Args:
        name: As in tables.
        job: What it is to do, with the file and function that do it.
        folder: For what it writes.
    """

    def __init__(self, name: str, job: Job, folder: Path):
        self.name = name
        # a fresh interpreter: settings of one contender, such as denormals, are none of another's
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        log = folder / f"{name.replace(' ', '_').replace('/', '_')}.log"
        self.process = spawn.Process(target=work, args=(*job.contender.split("."), job, other, log))
        self.process.start()
        other.close()

    def slice(self, warm_up: float, seconds: float, patience: float) -> float:
        """Images per second in a slice; RuntimeError, saying why, where the contender cannot go on."""
        self.connection.send((warm_up, seconds))
        try:
            answer = self.connection.recv() if self.connection.poll(patience) else f"no answer in {patience:.0f} s"
        except EOFError:
            answer = "it ended without a word"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer[0] / answer[1]

    def end(self) -> None:
        """Ends the process and those that it has started."""
        if not self.process.is_alive():
            return
        family = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for member in family:
            member.kill()
        self.process.join()


def busy_seconds() -> float:
    """CPU time used on this machine since it started, by anybody."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def own_seconds(processes: list[psutil.Process]) -> float:
    """CPU time used by these processes and their children, those that have ended too."""
    used = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # workers of a loader end after each epoch
            used += sum(process.cpu_times()[:4])
            used += own_seconds(process.children())
    return used


class Elsewhere:
    """The part of all cores that other programs use from now on.

    Args:
        processes: Those that are measured.
    """

    def __init__(self, processes: list[psutil.Process]):
        self.processes, self.start = processes, time.monotonic()
        self.busy, self.own = busy_seconds(), own_seconds(processes)

    def __call__(self) -> float:
        """Until now, between 0 and 1."""
        used = busy_seconds() - self.busy - own_seconds(self.processes) + self.own
        return max(0.0, used / (time.monotonic() - self.start) / psutil.cpu_count())


def side_by_side(
    jobs: dict[str, Job], rounds: int, seconds: float, warm_up: float, folder: Path, every_slice: bool = False
) -> Measured:
    """Lets contenders work in turn, `rounds` slices of at least `seconds` each, after a first one that is not counted.

    Args:
        jobs: What each contender does, by its name.
        rounds: How many are counted.
        seconds: Of each slice.
        warm_up: Seconds at its beginning that are not counted.
        folder: For what contenders write.
        every_slice: Count the first slice too.
    """
    runners: list[Runner] = []
    rates: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    try:
        for name, job in jobs.items():
            runner = Runner(name, job, folder)
            runners.append(runner)
            try:  # one after the other: starting takes all cores
                first = runner.slice(0.0, seconds, PATIENCE)
                rates[name] = [first] if every_slice else []
            except RuntimeError as error:
                missing[name] = str(error)
                runner.end()
        running = [runner for runner in runners if runner.name in rates]
        elsewhere = Elsewhere([psutil.Process(runner.process.pid) for runner in running])
        for number in range(rounds):
            order = random.Random(number).sample(running, len(running))  # nobody always follows the same neighbour
            for runner in order:
                try:
                    rates[runner.name].append(runner.slice(warm_up, seconds, PATIENCE))
                except RuntimeError as error:
                    running.remove(runner)
                    del rates[runner.name]
                    missing[runner.name] = str(error)
        used_elsewhere = elsewhere()
    finally:
        for runner in runners:
            runner.end()
    return Measured(rates, missing, used_elsewhere, every_slice)
