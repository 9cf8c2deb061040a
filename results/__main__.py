"""Published experiments, run from their recipes on real MNIST: `python -m results --data.root DIR`.

Trains what is not trained yet, evaluates all, and writes `results/results.md`, `.json`, `.csv` and figures. Given again
after an interruption, it goes on where it was.
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
from evaluation.tables import tables
from models import read_checkpoint
from models.estimators.ais import Settings
from runtime.processes import configure_performance, filter_warnings
from runtime.resume import is_mid_epoch

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
K, AIS = 5000, Settings()


class Row(NamedTuple):
    """An experiment.

    Args:
        recipe: Its file in `recipes/`, without ending; also the name of its run folder.
        m1: The row whose model it is trained on, if any.
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
    """Trains a row, or goes on with it, or leaves it as it is if it is done.

    Raises:
        SystemExit: Training failed, or was stopped.
    """
    m1 = ("--model.m1", str(runs / row.m1 / "checkpoints" / "best.ckpt")) if row.m1 else ()
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(RECIPES / f"{row.recipe}.yaml"),
               "--data.root", root, "--run_dir", str(runs / row.recipe), "--resume", "auto", "--num_samples", "0",
               "--save_every_minutes", "5", *m1]  # fmt: skip
    print(f"{row.recipe}: training", flush=True)
    if status := subprocess.run(command, check=False).returncode:
        sys.exit(status)


def is_trained(row: Row, runs: Path) -> bool:
    """Whether the training of a row has come to its end."""
    last = runs / row.recipe / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return False
    epochs = yaml.safe_load((RECIPES / f"{row.recipe}.yaml").read_text())["trainer"]["max_epochs"]
    checkpoint = read_checkpoint(last)
    return checkpoint["epoch"] + 1 == epochs and not is_mid_epoch(checkpoint)


def finished(runs: Path) -> list[Row]:
    """The rows of the table: those trained to their end, but for an M1, which is a step of its M1+M2."""
    steps = {row.m1 for row in ROWS}
    return [row for row in ROWS if row.recipe not in steps and is_trained(row, runs)]


def measure(row: Row, root: str, runs: Path, device: str) -> tuple[dict, dict]:
    """The result of a trained row, and its checkpoint."""
    path = runs / row.recipe / "checkpoints" / "best.ckpt"
    (checkpoint, data), = load_data([open_checkpoint(str(path), {"root": root})])  # fmt: skip
    print(f"{row.recipe}: evaluating", flush=True)
    wanted = EvaluationConfig(K, ais=AIS, with_probes=True)
    return evaluate_checkpoint(checkpoint, path, data, wanted, device), checkpoint


def publish(found: list[tuple[dict, dict]], out: Path) -> None:
    """Writes and prints the tables of all rows."""
    results, checkpoints = ([part[place] for part in found] for place in (0, 1))
    results = with_comparisons(results, checkpoints)
    report.write_report(out, results, over_seeds(results, checkpoints))
    print(tables(results))


def home_path(text: str) -> Path:
    """A path of the command line; a shell leaves the `~` of --out=~/results as it is."""
    return Path(text).expanduser()


def options() -> argparse.Namespace:
    """The command line."""
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
    """Trains what was asked for, evaluates and publishes. The table holds all finished rows, asked for or not."""
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
    publish([measure(row, root, args.runs, device) for row in rows], args.out)


def main() -> int:
    args = options()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"error: {explain_option_error(error, {}, [])}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
