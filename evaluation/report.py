"""Results of several checkpoints as files: JSON, CSV, Markdown and a figure."""

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from evaluation.over_seeds import as_text
from evaluation.tables import comparison_key, data_name, plus_minus, tables_by_key
from figures import charts
from runtime.atomic_write import atomic_write
from runtime.figure_files import DEFAULT_STYLE, FigureStyle, save_figure
from runtime.run_folder import run_folder, run_name

GENERATED_FILES = (
    r"results(_\d+)?\.(png|pdf|svg)|over_seeds\.(json|csv)"  # in the folder of a report, besides what always is
)
# How a run was made: a table of a report
PROVENANCE_COLUMNS = ("run", "model", "commit", "seed", "epochs", "time", "machine", "beside the paper", "options")


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def provenance_cells(result: dict) -> list[str]:
    """The cells of the table of how runs were made."""
    commits, machines = (", ".join(result[key] or []) or "-" for key in ("commit", "machine"))
    return [run_name(result), result["model"], commits, str(result["seed"]), str(result["epochs"]),
            duration(result["seconds"]), machines, result.get("words") or "-",
            in_short(result["options"]) or "-"]  # fmt: skip


def in_short(options: dict) -> str:
    """Options as words: name value, name value."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def difference_tables(results: Sequence[dict]) -> list[str]:
    """The tables of differences between the NLL of runs, one for each kind of result and K."""

    def alike(result: dict) -> tuple:
        return comparison_key(result), result["num_samples"]

    parts = []
    for (of, K), group in groupby(sorted((r for r in results if "versus" in r), key=alike), key=alike):
        group = list(group)
        columns = list(dict.fromkeys(name for result in group for name in result["versus"]))
        lines = [[run_name(result), *(signed(result["versus"].get(name)) for name in columns)] for result in group]
        about = f"{data_name(group)}, protocol {of.protocol}: differences of the NLL of {of.num_images} test images"
        what = f"{of.about} in nats, row minus column, image by image"
        parts += [f"**{about} with K = {K}; {what}**", "", *grid(["", *columns], lines), ""]
    return parts


def signed(difference: dict | None) -> str:
    """A cell of the table of paired differences."""
    return "" if difference is None else plus_minus(difference["nll"], difference["se"], "+z.2f")


def markdown(results: Sequence[dict], means: Sequence[dict]) -> str:
    """All tables as Markdown."""
    parts = []
    for table in tables_by_key(results):
        parts += [f"**{table.title}**", "", *grid(table.columns, table.lines), ""]
        parts += [line for remark in table.remarks for line in (remark, "")]
    parts += difference_tables(results)
    parts += [
        "**How the runs were made**",
        "",
        *grid(PROVENANCE_COLUMNS, [provenance_cells(result) for result in results]),
        "",
    ]
    if means:
        parts += ["```", as_text(means).rstrip(), "```", ""]
    return "\n".join(parts)


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    first, *rest = [f"| {' | '.join(line)} |" for line in escaped]
    return [first, f"|{'---|' * len(columns)}", *rest]


def to_csv(results: Sequence[dict]) -> str:
    """One row per result, with its numbers and words, as CSV."""
    results = [result | ({"options": in_short(result["options"])} if "options" in result else {}) for result in results]
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


def write_report(
    folder: Path, results: Sequence[dict], means: Sequence[dict], style: FigureStyle = DEFAULT_STYLE
) -> None:
    """Writes `results.json`, `.csv`, `.md` and, where there are likelihoods, a figure for each kind of result.

    Means over seeds, where there are any, are in `results.md` and in `over_seeds.json` and `.csv`.

    Args:
        folder: Made where it is missing.
        results: From `differences.beside`.
        means: From `means.over_seeds`.
        style: Of the files of figures.
    """
    # where data lie is nobody's business who reads a report
    shown = [{key: value for key, value in result.items() if key != "data_root"} for result in results]
    contents = {"results.md": markdown(results, means)}
    for name, found in {"results": shown, **({"over_seeds": means} if means else {})}.items():
        contents |= {f"{name}.json": json.dumps(found, indent=2, allow_nan=False), f"{name}.csv": to_csv(found)}
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    kinds = sorted({comparison_key(result) for result in results if result["nll"] is not None})
    stems = ["results"] if len(kinds) == 1 else [f"results_{number}" for number, _ in enumerate(kinds, 1)]
    figures = [f"{stem}.{style.format}" for stem in stems]
    for about, name in zip(kinds, figures, strict=True):
        same = [result for result in results if comparison_key(result) == about]
        figure = charts.comparison([labelled(result) for result in same], tables_by_key(same)[0].title)
        save_figure(figure, folder / name, style.dpi)
    for file in folder.iterdir():  # of a report of other runs
        if file.name not in {*contents, *figures} and re.fullmatch(GENERATED_FILES, file.name):
            file.unlink()


def labelled(result: dict) -> dict:
    """A result as the figure shows it: with a name, and its NLL as AIS lowers it, which was run on fewer images."""
    folder = run_folder(Path(result["checkpoint"]))
    found = result | {"label": run_name(result).replace(str(folder), folder.resolve().name, 1)}
    if result.get("ais_nll") is None:
        return found
    return found | {"ais_nll": result["nll"] - result["ais_lowers_nll"], "ais_nll_se": result["ais_lowers_nll_se"]}
