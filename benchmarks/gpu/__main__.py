"""Measure everything on a CUDA device within a few minutes: `python -m benchmarks.gpu --data.root DIR --out DIR`."""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

START = time.monotonic()  # the imports in `main` take seconds, and count
MARGIN = 5.0  # seconds for the end of the process


def options() -> argparse.Namespace:
    """Parse and validate the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Runs the tests marked gpu, and measures training, likelihoods, resuming and torchrun on a CUDA "
        "device, in so many minutes at most. Results are written after each measurement, so that a run that is cut "
        "off keeps what it has. Without a device the same jobs run in miniature on the CPU. The exit status is 1 if a "
        "test or a comparison of bits fails.",
    )
    parser.add_argument("--data.root", dest="root", type=Path, default=Path("data"), help="folder with MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for the whole command")
    parser.add_argument("--only", default="", help="run the jobs whose group or name contains this text")
    args = parser.parse_args()
    if not (args.root / "MNIST" / "raw").is_dir():
        parser.error(f"there is no folder {args.root}/MNIST/raw: set --data.root to the folder that contains MNIST")
    if not args.minutes > 0:
        parser.error(f"--minutes must be above 0; got {args.minutes}")
    return args


def main() -> int:
    """Run all jobs and return the exit status."""
    args = options()
    from benchmarks.gpu.jobs import JOBS
    from benchmarks.gpu.session import Session

    with TemporaryDirectory() as work:
        session = Session(args.root, args.out.absolute(), Path(work), START + 60 * args.minutes - MARGIN)
        session.run_all([job for job in JOBS if args.only.lower() in f"{job.group}, {job.name}".lower()])
        print((session.out / "gpu.md").read_text(), flush=True)
    return 1 if session.has_failed_check else 0


if __name__ == "__main__":
    sys.exit(main())
