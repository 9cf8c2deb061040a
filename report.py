"""Results of several checkpoints beside each other and beside the papers': differences, files, a figure."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from callbacks import plots
from callbacks.record import save_figure
from callbacks.replace import replacing
from keeping import per_image
from measures import standard_error
from papers import reported
from tables import by_kind, kind, run_folder, run_name

# How a run was made: the second table of a report
MADE = ("run", "model", "commit", "seed", "epochs", "time", "machine", "beside the paper")


def beside(results: Sequence[dict], checkpoints: Sequence[dict]) -> list[dict]:
    """Results with what they are compared with: the first run of their kind, image by image, and papers.

    Differences have a much smaller standard error than either likelihood, for an image that is hard for one model is
    hard for another. They are taken where images and K are the same.

    Args:
        results: As `evaluate.evaluate` gives them; it has kept their per-image values.
        checkpoints: Theirs.
    """
    found, first = [], {}
    for result, checkpoint in zip(results, checkpoints, strict=True):
        more = of_paper(result, checkpoint)
        if result["nll"] is not None:
            alike = (kind(result), result.get("images_hash"), result["num_samples"])
            if alike in first:
                less = log_px(first[alike]) - log_px(result)  # of the NLL
                more |= {"versus_first": less.mean().item(), "versus_first_se": standard_error(less)}
            first.setdefault(alike, result)
        found.append(result | more)
    return found


def log_px(result: dict) -> np.ndarray:
    """The per-image values of a result, as they are kept, `(N,)`."""
    with np.load(per_image(Path(result["checkpoint"]), "likelihoods"), allow_pickle=False) as file:
        return file["log_px"]


def of_paper(result: dict, checkpoint: dict) -> dict:
    """What a paper reports for such a run, and how far the result is from it, in words."""
    for key, paper in reported(checkpoint).items():
        name = "paper_nll" if key == "nll" else "paper_error"
        if result[key] is None:
            continue
        how = f"K = {paper.K}" if paper.K else "mean over draws of labels" if key == "test_error" else ""
        budget = f"{paper.epochs} epochs" if paper.epochs else ""
        source = ", ".join(filter(None, [paper.source, how, budget]))
        found = {name: paper.value, f"{name}_se": paper.se, "paper_source": source, "paper_epochs": paper.epochs}
        return found | {"words": in_words(result, key, paper)}
    return {}


def in_words(result: dict, key: str, paper) -> str:
    """How far a result is from a paper's, and after which part of its epochs."""
    difference = result[key] - paper.value
    amount = f"{abs(difference):.2f} nats" if key == "nll" else f"{abs(difference):.2%}"
    where = "above" if difference > 0 else "below"
    budget = f" of the paper's {paper.epochs}" if paper.epochs else ""
    K = f", K = {result['num_samples']} and not {paper.K}" if paper.K not in (None, result["num_samples"]) else ""
    few = f", on {result['num_images']} images" if key == "nll" and result["num_images"] < 10_000 else ""
    return f"{amount} {where}, after {result['epochs']} epochs{budget}{K}{few}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def made(result: dict) -> list[str]:
    """The cells of the table of how runs were made."""
    commits, machines = (", ".join(result[key] or []) or "-" for key in ("commit", "machine"))
    return [run_name(result), result["model"], commits, str(result["seed"]), str(result["epochs"]),
            duration(result["seconds"]), machines, result.get("words") or "-"]  # fmt: skip


def markdown(results: Sequence[dict], over_seeds: str) -> str:
    """All tables as Markdown."""
    parts = []
    for table in by_kind(results):
        parts += [f"**{table.title}**", "", *grid(table.columns, table.lines), ""]
        parts += [line for remark in table.remarks for line in (remark, "")]
    parts += ["**How the runs were made**", "", *grid(MADE, [made(result) for result in results]), ""]
    if over_seeds:
        parts += ["```", over_seeds.rstrip(), "```", ""]
    return "\n".join(parts)


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    first, *rest = [f"| {' | '.join(line)} |" for line in escaped]
    return [first, f"|{'---|' * len(columns)}", *rest]


def flat(results: Sequence[dict]) -> str:
    """One row per run, with the numbers and words of its result, as CSV."""
    keys = list(dict.fromkeys(key for result in results for key in result))
    keys = [key for key in keys if all(is_flat(result.get(key)) for result in results)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, keys, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: "+".join(map(str, value)) if isinstance(value, list) else value for key, value in result.items()}
        for result in results
    )
    return text.getvalue()


def is_flat(value) -> bool:
    """Whether a value has a place in one cell: a number, a word, or a short list of them."""
    return not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], list))


def write(folder: Path, results: Sequence[dict], over_seeds: str) -> None:
    """Writes `results.json`, `.csv`, `.md` and, where there are likelihoods, a `.png` for each kind of result.

    Args:
        folder: Made where it is missing.
        results: From `beside`.
        over_seeds: From `means.means`.
    """
    # where data lie is nobody's business who reads a report
    shown = [{key: value for key, value in result.items() if key != "data_root"} for result in results]
    contents = {
        "results.json": json.dumps(shown, indent=2, allow_nan=False),
        "results.csv": flat(shown),
        "results.md": markdown(results, over_seeds),
    }
    for name, text in contents.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    kinds = sorted({kind(result) for result in results if result["nll"] is not None})
    for number, about in enumerate(kinds, 1):
        same = [result for result in results if kind(result) == about]
        name = "results.png" if len(kinds) == 1 else f"results_{number}.png"
        save_figure(plots.comparison([labelled(result) for result in same], by_kind(same)[0].title), folder / name)


def labelled(result: dict) -> dict:
    """A result as the figure shows it: with a name, and its NLL as AIS moves it, which was run on fewer images."""
    folder = run_folder(Path(result["checkpoint"]))
    found = result | {"label": run_name(result).replace(str(folder), folder.resolve().name, 1)}
    if result.get("ais_nll") is None:
        return found
    return found | {"ais_nll": result["nll"] - result["ais_lowers_nll"], "ais_nll_se": result["ais_lowers_nll_se"]}
