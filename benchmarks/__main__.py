"""Compare the speed of this project with peers and a raw loop: `python -m benchmarks --data.root data`."""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.jobs import COMPARISONS
from benchmarks.report import about, figure, publish, table
from benchmarks.rounds import side_by_side


def options() -> argparse.Namespace:
    """Parse and validate the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compares the speed of this project, other libraries, a raw PyTorch loop and the bare matrix "
        "products. Each contender runs in its own process and takes turns with the others. Needs the MNIST files, and "
        "pip install -e '.[benchmarks]'.",
    )
    parser.add_argument("names", nargs="*", metavar="JOB", help=f"from {', '.join(COMPARISONS)}; all by default")
    parser.add_argument("--data.root", dest="root", default="data", help="folder that contains MNIST/raw")
    parser.add_argument("--rounds", type=int, default=9, help="measured time slices per contender")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for tables and figures")
    parser.add_argument("--only", nargs="*", help="contenders, by their names in the tables; all by default")
    args = parser.parse_args()
    if unknown := set(args.names) - set(COMPARISONS):
        parser.error(f"unknown job {', '.join(unknown)}: choose from {', '.join(COMPARISONS)}")
    known = {contender for name in args.names or COMPARISONS for contender in COMPARISONS[name].contenders}
    if unknown := set(args.only or ()) - known:
        parser.error(f"unknown contender {', '.join(unknown)}: choose from {', '.join(sorted(known))}")
    if not Path(args.root, "MNIST", "raw").is_dir():
        parser.error(f"there is no folder {args.root}/MNIST/raw: set --data.root to the folder that contains MNIST")
    if args.rounds < 2:
        parser.error("--rounds must be at least 2, to estimate the variation of a rate")
    return args


def measure(name: str, args: argparse.Namespace) -> None:
    """Measure the contenders of one job, and write its table, figure and rates."""
    comparison = COMPARISONS[name]
    jobs = {
        contender: job._replace(root=str(Path(args.root).absolute()))
        for contender, job in comparison.contenders.items()
        if not args.only or contender in args.only
    }
    with TemporaryDirectory() as folder:
        measured = side_by_side(
            jobs, args.rounds, comparison.seconds, comparison.warm_up, Path(folder), comparison.every_slice
        )
    text = f"{table(comparison, measured)}\n\n{about(measured.elsewhere)}\n"
    publish(text, args.out, name)
    (args.out / f"{name}.json").write_text(json.dumps(measured._asdict(), indent=1) + "\n")
    figure(comparison, measured).savefig(args.out / f"{name}.png", dpi=150)


def main() -> None:
    args = options()
    for name in args.names or COMPARISONS:
        measure(name, args)


if __name__ == "__main__":
    sys.exit(main())
