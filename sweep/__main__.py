"""Run all combinations of options of a sweep file: `python -m sweep sweeps/FILE.yaml --local 2`."""

import argparse
import shlex
import sys
from pathlib import Path

from cli.errors import explain_error
from cli.streams import prepare_streams
from cli.train_options import expand_user
from runtime.processes import configure_performance, filter_warnings
from sweep import local, slurm
from sweep.grid import read_sweep
from sweep.runs import make_runs
from sweep.validation import check_runs

DESCRIPTION = (
    "Run train.py for all combinations of the options in a sweep file (W&B's format, method: grid) without W&B. Each "
    "run has a folder named after its options, and resumes from it; finished runs are skipped. The options of all runs "
    "are checked before the first one starts. Options that are not listed below are passed to every run."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m sweep`."""
    parser = argparse.ArgumentParser(
        prog="python -m sweep",
        usage="python -m sweep FILE (--local N | --slurm) [options] [options of train.py]",
        description=DESCRIPTION,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="Sweep file, such as sweeps/objectives.yaml."
    )
    parser.add_argument("--local", metavar="N", type=int, help="Run on this machine, N runs at a time.")
    parser.add_argument("--slurm", action="store_true", help="Submit a SLURM job array with one task per run.")
    parser.add_argument(
        "--sbatch",
        metavar="OPTIONS",
        default="",
        help="Further options of sbatch in one word, such as --sbatch='--partition=gpu --gpus-per-node=1'.",
    )
    parser.add_argument(
        "--sweep_dir",
        metavar="DIR",
        type=Path,
        default=Path("runs", "sweep"),
        help="Folder of all sweeps (default: runs/sweep). Run folders are DIR/NAME OF FILE/OPTIONS.",
    )
    parser.add_argument("--dry_run", action="store_true", help="Check and print the runs without starting them.")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError if options contradict each other or are out of range."""
    if args.file is None:
        raise ValueError("Name a sweep file first, such as sweeps/objectives.yaml.")
    if (args.local is None) == (not args.slurm):
        raise ValueError("Give exactly one of --local N and --slurm.")
    if args.local is not None and args.local < 1:
        raise ValueError(f"--local must be at least 1; got {args.local}.")
    if args.sbatch and not args.slurm:
        raise ValueError("--sbatch has no effect without --slurm: leave it out.")
    try:
        shlex.split(args.sbatch)
    except ValueError as error:
        raise ValueError(f"--sbatch has an unclosed quote or a single backslash at its end: {args.sbatch}") from error


def main(argv: list[str] | None = None) -> int:
    """Parse the options, check all runs, print them and start those that are not finished. Return the exit status."""
    prepare_streams()
    configure_performance()
    filter_warnings()
    try:
        args, more = build_parser().parse_known_args(argv)
        check_arguments(args)
        sweep = read_sweep(args.file)
        sweep_dir = Path(expand_user(str(args.sweep_dir)))
        runs = make_runs(sweep, sweep_dir, more)
        finished = check_runs(runs, for_this_machine=not args.slurm)
        for number, (run, is_finished) in enumerate(zip(runs, finished, strict=True), 1):
            note = " (finished)" if is_finished else ""
            print(f"{number}/{len(runs)} {run.folder}{note}: {shlex.join(run.options)}")
        left = [run for run, is_finished in zip(runs, finished, strict=True) if not is_finished]
        print(f"{len(runs)} runs, {len(runs) - len(left)} of them finished.", flush=True)
        if args.dry_run or not left:
            return 0
        if args.slurm:
            return slurm.submit(sweep.name, runs, finished, sweep_dir / sweep.name, shlex.split(args.sbatch))
    except (argparse.ArgumentError, ValueError, OSError) as error:
        print(f"error: {explain_error(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped before the first run.", file=sys.stderr)
        return 130
    try:
        return local.run_all(left, args.local)
    except OSError as error:  # such as a full disk
        print(f"error: {explain_error(error)} The same command resumes.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
