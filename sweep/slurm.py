"""Submit a sweep to SLURM: one job array with a task for each run that is not finished."""

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import train
from runtime.atomic_write import atomic_write
from sweep.runs import Run

SCRIPT = Path("slurm", "train.sbatch")


def submit(name: str, runs: Sequence[Run], is_finished: Sequence[bool], folder: Path, sbatch: Sequence[str]) -> int:
    """Submit the runs that are not finished, and return the exit status.

    Args:
        name: Name of the sweep.
        runs: All runs. The index of a task is the number of its run, counted from 1.
        is_finished: Which of them are finished.
        folder: Folder of the sweep, for the list of runs and the output of the tasks.
        sbatch: Further options of sbatch.

    Raises:
        ValueError: A job of this sweep is queued or running, or there is no SLURM here.
    """
    script = Path(train.__file__).resolve().parent / SCRIPT
    if not script.is_file():
        raise ValueError(f"There is no {script}: start from a clone of the repository.")
    job_name = f"sweep-{name}"
    refuse_if_queued(job_name)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    file, is_new = write_run_list(runs, folder)
    tasks = [number for number, finished in enumerate(is_finished, 1) if not finished]
    words = [
        f"--job-name={job_name}",
        f"--array={index_ranges(tasks)}",
        f"--output={folder / 'slurm-%A_%a.out'}",
        *sbatch,
    ]
    done = run_slurm("sbatch", "--parsable", *words, str(script), "--options_file", str(file))
    if done.returncode != 0:
        if is_new:
            file.unlink()
        for path in created:
            path.rmdir()
        print(f"error: sbatch refused the job: {done.stderr.strip()}", file=sys.stderr)
        return 1
    job = done.stdout.strip().partition(";")[0]
    print(f"Submitted job {job} with {len(tasks)} tasks; their output is in {folder}/slurm-{job}_*.out.")
    return 0


def run_slurm(*words: str) -> subprocess.CompletedProcess:
    """Run a command of SLURM.

    Raises:
        ValueError: There is no such command.
    """
    try:
        return subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(f"There is no {words[0]} on this machine: use --local N.") from error


def refuse_if_queued(job_name: str) -> None:
    """Raise ValueError if a job with this name, submitted from this folder, is queued or running."""
    queue = run_slurm("squeue", "--me", "--noheader", f"--name={job_name}", "--format=%F %Z")
    here = str(Path.cwd())
    for line in queue.stdout.splitlines():
        job, _, folder = line.strip().partition(" ")
        if folder == here:
            raise ValueError(f"Job {job} of this sweep is queued or running: wait for its end, or run 'scancel {job}'.")


def write_run_list(runs: Sequence[Run], folder: Path) -> tuple[Path, bool]:
    """Write the options of all runs, one line each, and return the file and whether it is new.

    Its name depends on its content: a later submission with other options does not change the file of queued jobs.
    """
    lines = [shlex.join([*run.options, "--run_dir", str(run.folder)]) for run in runs]
    content = "\n".join([*lines, ""]).encode()
    file = folder / f"runs-{hashlib.sha256(content).hexdigest()[:8]}.txt"
    is_new = not file.exists()
    with atomic_write(file) as opened:
        opened.write(content)
    return file, is_new


def index_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as SLURM writes them: `1-3,5`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)
