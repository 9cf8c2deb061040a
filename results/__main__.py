"""Published experiments, run from their recipes on MNIST: `python -m results --data.root DIR`.

Trains the experiments that are not trained yet, evaluates all, and writes `results/results.md`, `.json`, `.csv` and
figures. After an interruption, the same command continues.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from cli.errors import explain_option_error
from evaluation import report
from evaluation.comparisons import with_comparisons
from evaluation.evaluate import EvaluationConfig, evaluate_checkpoint
from evaluation.inputs import load_data, open_checkpoint, pick_device
from evaluation.over_seeds import over_seeds
from evaluation.schema import Evaluation
from evaluation.tables import tables
from models import read_checkpoint
from models.estimators.ais import Settings
from runtime.processes import configure_performance, filter_warnings
from runtime.resume import is_mid_epoch

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
K, AIS = 5000, Settings()


class Row(NamedTuple):
    """One experiment, a row of the table.

    Args:
        recipe: Name of its file in `recipes/` without the extension, and of its run folder.
        m1: Recipe of the M1 that it is trained on, if any.
    """

    recipe: str
    m1: str | None = None


ROWS = (
    Row("vae_mnist"),
    Row("iwae5_mnist"),
    Row("dreg5_mnist"),
    Row("hvae5_mnist"),
    Row("vae_larochelle"),
    Row("m1_mnist"),
    Row("m2_100"),
    Row("m1m2_100", m1="m1_mnist"),
    Row("affine_mnist"),
)


def train(row: Row, root: str, runs: Path) -> None:
    """Train a row, or resume its training; do nothing if it is finished.

    Raises:
        SystemExit: Training failed or was stopped.
    """
    m1 = ("--model.m1", str(runs / row.m1 / "checkpoints" / "best.ckpt")) if row.m1 else ()
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(RECIPES / f"{row.recipe}.yaml"),
               "--data.root", root, "--run_dir", str(runs / row.recipe), "--resume", "auto", "--num_samples", "0",
               "--save_every_minutes", "5", *m1]  # fmt: skip
    print(f"{row.recipe}: training", flush=True)
    if status := subprocess.run(command, check=False).returncode:
        sys.exit(status)


def is_trained(row: Row, runs: Path) -> bool:
    """Return whether the training of a row is finished."""
    last = runs / row.recipe / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return False
    epochs = yaml.safe_load((RECIPES / f"{row.recipe}.yaml").read_text())["trainer"]["max_epochs"]
    checkpoint = read_checkpoint(last)
    return checkpoint["epoch"] + 1 == epochs and not is_mid_epoch(checkpoint)


def finished(runs: Path) -> list[Row]:
    """Return the rows of the table: all finished ones, except M1s, which are only a step of M1+M2."""
    steps = {row.m1 for row in ROWS}
    return [row for row in ROWS if row.recipe not in steps and is_trained(row, runs)]


def evaluate_row(row: Row, root: str, runs: Path, device: str) -> tuple[Evaluation, dict]:
    """Return the evaluation of a trained row, and its checkpoint."""
    path = runs / row.recipe / "checkpoints" / "best.ckpt"
    ((checkpoint, data),) = load_data([open_checkpoint(str(path), {"root": root})])
    print(f"{row.recipe}: evaluating", flush=True)
    config = EvaluationConfig(K, ais=AIS, with_probes=True)
    result = evaluate_checkpoint(checkpoint, path, data, config, device)
    assert result is not None  # there is one process, which has rank 0
    return result, checkpoint


def publish(evaluations: list[tuple[Evaluation, dict]], out: Path) -> None:
    """Write and print the tables of all rows."""
    checkpoints = [checkpoint for _, checkpoint in evaluations]
    results = with_comparisons([result for result, _ in evaluations], checkpoints)
    report.write_report(out, results, over_seeds(results, checkpoints))
    print(tables(results))


def home_path(text: str) -> Path:
    """Return a path with `~` expanded, which shells do not do in --out=~/results."""
    return Path(text).expanduser()


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m results", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="RECIPE", help=f"of {', '.join(row.recipe for row in ROWS)}; all")
    parser.add_argument("--data.root", dest="root", default="data", help="where the data lies")
    parser.add_argument("--runs", type=home_path, default=Path("runs/results"), help="folder of the run folders")
    parser.add_argument("--out", type=home_path, default=Path("results"), help="folder of tables and figures")
    parser.add_argument("--device", default="auto", help="where to evaluate")
    parser.add_argument("--trained", action="store_true", help="train nothing; evaluate all that is trained")
    args = parser.parse_args()
    if unknown := set(args.names) - {row.recipe for row in ROWS}:
        parser.error(f"unknown recipe {', '.join(sorted(unknown))}: choose of {', '.join(r.recipe for r in ROWS)}")
    if not Path(args.root, "MNIST", "raw").is_dir():
        parser.error(f"there is no folder {args.root}/MNIST/raw: give the folder that holds MNIST by --data.root")
    return args


def run(args: argparse.Namespace) -> None:
    """Train the requested rows, then evaluate and publish all finished ones."""
    device, root = pick_device(args.device), str(Path(args.root).absolute())
    for row in ROWS if not args.trained else ():
        if not args.names or row.recipe in args.names:
            train(row, root, args.runs)
    rows = finished(args.runs)
    if not rows:
        do = "leave --trained out" if args.trained else "an M1 is a step of m1m2_100, train that too"
        raise ValueError(f"No row of the table is trained to its end in {args.runs}: {do}.")
    configure_performance()
    filter_warnings()
    publish([evaluate_row(row, root, args.runs, device) for row in rows], args.out)


def main() -> int:
    args = options()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"error: {explain_option_error(error, {}, [])}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command continues.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
