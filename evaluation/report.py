"""Write results of several checkpoints as files: JSON, CSV, Markdown, figures and a page for the browser."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from evaluation.html_report import comparison_page
from evaluation.label_counts import label_curves
from evaluation.over_seeds import SeedMean, as_text, mean_tables
from evaluation.schema import ComparedEvaluation, Difference
from evaluation.tables import Table, comparison_key, data_name, disentanglement_tables, plus_minus, tables_by_key
from figures import charts
from runtime.atomic_write import atomic_write
from runtime.figure_files import DEFAULT_STYLE, FigureStyle, save_figure
from runtime.run_folder import run_folder, run_name

# Files that some reports have and others do not: those of an earlier report are deleted
GENERATED_FILES = r"(results|error_over_labels)(_\d+)?\.(png|pdf|svg)|over_seeds\.(json|csv)"
# Columns of the table of how runs were made
PROVENANCE_COLUMNS = ("run", "model", "commit", "seed", "epochs", "time", "machine", "beside the paper", "options")


def duration(seconds: float | None) -> str:
    """Format a duration in minutes, or in hours from 1.5 hours on."""
    if seconds is None:
        return "-"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def provenance_cells(result: ComparedEvaluation) -> list[str]:
    """Return one line of the table of how runs were made."""
    return [
        run_name(result.checkpoint),
        result.model,
        ", ".join(result.commit or []) or "-",
        str(result.seed),
        str(result.epochs),
        duration(result.seconds),
        ", ".join(result.machine or []) or "-",
        result.paper.summary if result.paper else "-",
        options_text(result.options) or "-",
    ]


def options_text(options: dict) -> str:
    """Format options as "name value, name value"."""
    return ", ".join(f"{name} {value}" for name, value in options.items())


def difference_tables(results: Sequence[ComparedEvaluation]) -> list[Table]:
    """Return the tables of paired NLL differences, one for each kind of result and K."""

    def kind(result: ComparedEvaluation) -> tuple:
        return comparison_key(result), result.num_samples

    found = []
    compared = sorted((result for result in results if result.versus), key=kind)
    for (key, K), same_kind in groupby(compared, key=kind):
        group = list(same_kind)
        columns = list(dict.fromkeys(name for result in group for name in result.versus))
        lines = [
            [run_name(result.checkpoint), *(signed(result.versus.get(name)) for name in columns)] for result in group
        ]
        about = f"{data_name(group)}, protocol {key.protocol}: differences of the NLL of {key.num_images} test images"
        what = f"{key.about} in nats, row minus column, image by image"
        found.append(Table(f"{about} with K = {K}; {what}", ["", *columns], lines, []))
    return found


def signed(difference: Difference | None) -> str:
    """Return a cell of the table of paired differences."""
    return "" if difference is None else plus_minus(difference.nll, difference.se, "+z.2f")


def provenance_table(results: Sequence[ComparedEvaluation]) -> Table:
    """Return the table of how runs were made."""
    lines = [provenance_cells(result) for result in results]
    return Table("How the runs were made", list(PROVENANCE_COLUMNS), lines, [])


def markdown(results: Sequence[ComparedEvaluation], means: Sequence[SeedMean]) -> str:
    """Return all tables as Markdown."""
    parts = []
    for table in [*tables_by_key(results), *difference_tables(results), provenance_table(results)]:
        parts += [f"**{table.title}**", "", *grid(table.columns, table.lines), ""]
        parts += [line for remark in table.remarks for line in (remark, "")]
    if means:
        parts += ["```", as_text(means).rstrip(), "```", ""]
    return "\n".join(parts)


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *lines)]
    first, *rest = [f"| {' | '.join(line)} |" for line in escaped]
    return [first, f"|{'---|' * len(columns)}", *rest]


def to_csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return CSV with one row per entry and all keys whose values fit into one cell in every entry.

    Args:
        entries: Entries of `results.json` or `over_seeds.json`.
    """
    entries = [
        {key: options_text(value) if key == "options" else value for key, value in entry.items()} for entry in entries
    ]
    keys = list(dict.fromkeys(key for entry in entries for key in entry))
    keys = [key for key in keys if all(is_flat(entry.get(key)) for entry in entries)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, keys, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: "+".join(map(str, value)) if isinstance(value, list) else value for key, value in entry.items()}
        for entry in entries
    )
    return text.getvalue()


def is_flat(value: Any) -> bool:
    """Return whether a value fits into one cell: a number, text, or a list of them that is not nested."""
    return not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], list))


def write_report(
    folder: Path,
    results: Sequence[ComparedEvaluation],
    means: Sequence[SeedMean],
    style: FigureStyle = DEFAULT_STYLE,
) -> None:
    """Write `results.json`, `.csv`, `.md` and, for each kind of result with likelihoods, a figure.

    If runs differ in the number of labels, the figure `error_over_labels` shows their test errors and published ones.
    Means over seeds, if there are any, are added to `results.md` and written to `over_seeds.json` and `.csv`.
    `index.html` shows all tables and figures in a browser.

    Args:
        folder: Created if it is missing.
        results: From `comparisons.with_comparisons`.
        means: From `over_seeds.over_seeds`.
        style: Format and resolution of the figures.
    """
    # Paths of data are private: a report leaves them out.
    entries = [{key: value for key, value in result.to_dict().items() if key != "data_root"} for result in results]
    contents = {"results.md": markdown(results, means)}
    files = {"results": entries} | ({"over_seeds": [mean.to_dict() for mean in means]} if means else {})
    for name, rows in files.items():
        contents |= {f"{name}.json": json.dumps(rows, indent=2, allow_nan=False), f"{name}.csv": to_csv(rows)}
    for name, text in contents.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    kinds = sorted(
        {comparison_key(result) for result in results if result.nll is not None or result.ais_nll is not None}
    )
    stems = ["results"] if len(kinds) == 1 else [f"results_{number}" for number, _ in enumerate(kinds, 1)]
    figures = [f"{stem}.{style.format}" for stem in stems]
    for kind, name in zip(kinds, figures, strict=True):
        same = [result for result in results if comparison_key(result) == kind]
        have_nll = all(result.nll is not None for result in same)
        figure = charts.comparison([labelled(result, have_nll) for result in same], tables_by_key(same)[0].title)
        save_figure(figure, folder / name, style.dpi)
    figures += save_label_charts(folder, results, style)
    for path in folder.iterdir():  # of an earlier report of other runs
        if path.name not in {*contents, *figures} and re.fullmatch(GENERATED_FILES, path.name):
            path.unlink()
    with atomic_write(folder / "index.html") as file:
        file.write(page(folder, results, means).encode())


def page(folder: Path, results: Sequence[ComparedEvaluation], means: Sequence[SeedMean]) -> str:
    """Return all tables, and the figures in the folder of the report, as an HTML page."""
    sections = {
        "Results": [*tables_by_key(results), *disentanglement_tables(results)],
        "Means over seeds": mean_tables(means),
        "Paired differences": difference_tables(results),
    }
    return comparison_page(folder, results, sections, provenance_table(results))


def save_label_charts(folder: Path, results: Sequence[ComparedEvaluation], style: FigureStyle) -> list[str]:
    """Write the figures of test errors over the number of labels, and return the names of the files."""
    curves = label_curves(results)
    stems = (
        [f"error_over_labels_{number}" for number in range(1, len(curves) + 1)]
        if len(curves) > 1
        else ["error_over_labels"]
    )
    names = [f"{stem}.{style.format}" for stem, _ in zip(stems, curves, strict=False)]
    for name, (title, drawn) in zip(names, curves.items(), strict=True):
        save_figure(charts.error_over_labels(drawn, title), folder / name, style.dpi)
    return names


def labelled(result: ComparedEvaluation, have_nll: bool = True) -> dict[str, Any]:
    """Return a result as `charts.comparison` takes it, with a label.

    AIS was run on fewer images than importance sampling. Therefore its NLL is drawn relative to that of all images, if
    all results of the figure have one.
    """
    folder = run_folder(Path(result.checkpoint))
    name = run_name(result.checkpoint).replace(str(folder), folder.resolve().name, 1)
    entry = result.to_dict() | {"label": name}
    if have_nll and result.nll is not None and result.ais_lowers_nll is not None:
        entry |= {"ais_nll": result.nll - result.ais_lowers_nll, "ais_nll_se": result.ais_lowers_nll_se}
    return entry
