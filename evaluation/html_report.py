"""The comparison page of a report: one self-contained HTML file with its tables, figures and links.

The page needs no network and no other file: style, script and figures are part of it. Its Content-Security-Policy lets
the browser load nothing else and run no other script.
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from evaluation.result_files import setting_file
from evaluation.schema import ComparedEvaluation
from evaluation.tables import Table, data_name
from runtime.run_folder import run_folder, run_name

STYLE = Path(__file__).with_name("html_report.css")
SCRIPT = Path(__file__).with_name("html_report.js")
# Figures of a report, in the order of the page: their titles by the beginning of their file names
FIGURE_TITLES = {
    "results": "Negative log-likelihoods",
    "rate_distortion": "Rate and distortion",
    "error_over_labels": "Test error over the number of labels",
}
FIGURE_FILE = re.compile(rf"({'|'.join(FIGURE_TITLES)})(?:_(\d+))?\.(png|pdf|svg)")
# File formats that browsers show as images; other figures are linked
MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
# Sorted as text even if all cells begin with a number, because these hold names or sentences
TEXT_COLUMNS = ("", "run", "model", "prior", "posterior", "group", "commit", "machine", "beside the paper", "options")
EMPTY_CELL = re.compile(r"(|-|None|- \[\d+\])")
NOT_FINITE = "not finite"
# A number at the beginning of a cell: "-1.20 ± 0.10", "3.5%", "86.76 [1]", "90 min", "1.5 h", "5 draws of 10 runs"
NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)%?(?: (min|h))?(?= |$)")
LAYERS = re.compile(r"-?\d+(\.\d+)?(\+-?\d+(\.\d+)?)+")  # a number per layer, such as active units "3+2"
MINUTES = {"min": 1, "h": 60}
LONG_TEXT = 40  # characters; longer cells are wrapped


def comparison_page(
    folder: Path,
    results: Sequence[ComparedEvaluation],
    sections: Mapping[str, Sequence[Table]],
    provenance: Table,
) -> str:
    """Return the comparison page of a report as HTML.

    Args:
        folder: The folder of the report. It holds the figures, and links are relative to it.
        results: All results.
        sections: Tables by the heading of their section. Sections without tables are left out.
        provenance: How the runs were made, with one line for each result.
    """
    parts = {heading: "".join(map(table_html, tables)) for heading, tables in sections.items()}
    parts["Figures"] = "".join(map(figure_html, figure_files(folder)))
    parts["Options"] = options_html(results)
    links = [links_html(result, folder) for result in results]
    parts["Runs"] = table_html(provenance, {"files": links})
    return document(
        page_title(folder, results), header_html(results), {name: html for name, html in parts.items() if html}
    )


def page_title(folder: Path, results: Sequence[ComparedEvaluation]) -> str:
    """Return the title of the page, for the tab of the browser."""
    return f"{folder.resolve().name}: {count(len(results), 'run')}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def document(title: str, header: str, sections: Mapping[str, str]) -> str:
    """Return a whole HTML document.

    Args:
        title: Title as text.
        header: HTML of the header.
        sections: HTML of each section by its heading.
    """
    style, script = STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    navigation = "".join(f'<a href="#{anchor(heading)}">{escape(heading)}</a>' for heading in sections)
    body = "".join(
        f'<section>\n<h2 id="{anchor(heading)}">{escape(heading)}</h2>\n{html}</section>\n'
        for heading, html in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header>\n{header}<nav>{navigation}</nav>\n</header>\n<main>\n{body}</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def source_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def anchor(heading: str) -> str:
    """Return the id of a section."""
    return re.sub(r"\W+", "-", heading.lower())


def header_html(results: Sequence[ComparedEvaluation]) -> str:
    """Return the heading of the page, what is compared, and links to the same results in other formats."""
    models = ", ".join(dict.fromkeys(result.model for result in results))
    data = ", ".join(dict.fromkeys(data_name([result]) for result in results))
    formats = ", ".join(
        f'<a href="results.{suffix}">{name}</a>'
        for suffix, name in {"json": "JSON", "csv": "CSV", "md": "Markdown"}.items()
    )
    title = f"Comparison of {count(len(results), 'run')}" if len(results) > 1 else "Results of 1 run"
    return (
        f"<h1>{title}</h1>\n<p>{escape(models)} on {escape(data)}. The same results as {formats}. "
        "Select a column header to sort a table.</p>\n"
    )


def table_html(table: Table, html_columns: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a table with its title above and its remarks below.

    Args:
        table: The table.
        html_columns: Columns to insert after the first one: their cells as HTML by the name of the column.
    """
    names, *columns = zip(table.columns, zip(*table.lines, strict=True), strict=True)
    more = html_columns or {}
    headers = [header_cell(names[0], is_number=False)]
    headers += [f'<th scope="col">{escape(name)}</th>' for name in more]
    headers += [header_cell(name, is_numeric(name, cells)) for name, cells in columns]
    cells = [[row_header(name) for name in names[1]]]
    cells += [[f"<td>{html}</td>" for html in column] for column in more.values()]
    cells += [column_cells(name, cells) for name, cells in columns]
    lines = "".join(f"<tr>{''.join(line)}</tr>\n" for line in zip(*cells, strict=True))
    remarks = "".join(f'<p class="remark">{escape(remark)}</p>\n' for remark in table.remarks)
    title = escape(table.title)
    return (
        f'<h3>{title}</h3>\n<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n'
        f'<table aria-label="{title}">\n<thead>\n<tr>{"".join(headers)}</tr>\n</thead>\n'
        f"<tbody>\n{lines}</tbody>\n</table>\n</div>\n{remarks}"
    )


def header_cell(name: str, is_number: bool) -> str:
    """Return the header of a column, with a button that sorts the table."""
    kind = ' class="number"' if is_number else ""
    return f'<th scope="col"{kind}><button type="button">{escape(name or "run")}</button></th>'


def row_header(name: str) -> str:
    """Return the first cell of a line, which names a run or a group of runs."""
    return f'<th scope="row"><div class="name">{breakable(name)}</div></th>'


def column_cells(name: str, cells: Sequence[str]) -> list[str]:
    """Return the cells of a column as HTML. Those of numeric columns hold the value that they are sorted by."""
    numeric = is_numeric(name, cells)
    return [cell_html(cell, numeric) for cell in cells]


def cell_html(cell: str, numeric: bool) -> str:
    """Return a cell as HTML."""
    value = sort_value(cell) if numeric else None
    classes = ["number"] * numeric + ["empty"] * is_empty(cell) + ["long"] * (len(cell) > LONG_TEXT)
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    if value is not None:
        attributes += f' data-value="{value}"'
    return f"<td{attributes}>{breakable(cell)}</td>"


def breakable(text: str) -> str:
    """Return text as HTML in which lines may break after a slash, as in long paths."""
    return escape(text).replace("/", "/<wbr>")


def is_empty(cell: str) -> bool:
    """Return whether a cell holds no value. Such cells are sorted last."""
    return EMPTY_CELL.fullmatch(cell) is not None


def is_numeric(name: str, cells: Sequence[str]) -> bool:
    """Return whether a column is sorted by number: each cell begins with a number, or holds no value."""
    values = [sort_value(cell) for cell in cells if not is_empty(cell) and cell != NOT_FINITE]
    return name not in TEXT_COLUMNS and bool(values) and None not in values


def sort_value(cell: str) -> float | None:
    """Return the number that a cell is sorted by; None if it does not begin with a number.

    The value of 3.5% is 3.5, of 1.5 h it is 90 (minutes), and of 3+2 (active units per layer) it is 5.
    """
    if LAYERS.fullmatch(cell):
        return sum(map(float, cell.split("+")))
    found = NUMBER.match(cell)
    return float(found[1]) * MINUTES.get(found[2], 1) if found else None


def figure_files(folder: Path) -> list[Path]:
    """Return the figures of the report in a folder, which may also hold other figures."""
    found = [(match, path) for path in folder.iterdir() if (match := FIGURE_FILE.fullmatch(path.name))]
    order = list(FIGURE_TITLES)
    return [
        path for _, path in sorted(found, key=lambda pair: (order.index(pair[0][1]), int(pair[0][2] or 0), pair[1]))
    ]


def figure_html(path: Path) -> str:
    """Return a figure: embedded if browsers show its format, else a link to its file."""
    title = escape(figure_title(path.name))
    suffix = path.suffix[1:]
    caption = f'<figcaption>{title} (<a href="{quote(path.name)}">{escape(path.name)}</a>)</figcaption>'
    if suffix not in MEDIA_TYPES:
        return f"<figure>{caption}</figure>\n"
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{title}" src="data:{MEDIA_TYPES[suffix]};base64,{data}">'
    region = f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{image}</div>'
    return f"<figure>{region}{caption}</figure>\n"


def figure_title(name: str) -> str:
    """Return the title of a figure by the name of its file."""
    match = FIGURE_FILE.fullmatch(name)
    if match is None:
        return name
    return f"{FIGURE_TITLES[match[1]]} {match[2]}" if match[2] else FIGURE_TITLES[match[1]]


def quote(path: str) -> str:
    """Return a relative path as a URL."""
    return quote_from_bytes(os.fsencode(path))


def links_html(result: ComparedEvaluation, folder: Path) -> str:
    """Return links to the run folder of a result and to its most important files, as far as they exist.

    Args:
        result: The result.
        folder: The folder of the report, which links are relative to.
    """
    checkpoint = Path(result.checkpoint)
    run = run_folder(checkpoint)
    targets = {
        "folder": run,
        "checkpoint": checkpoint,
        "config": run / "config.yaml",
        "evaluation": setting_file(checkpoint, result),
        "figures": run / "figures",
    }
    return ", ".join(
        f'<a href="{quote(os.path.relpath(target, folder)) + "/" * target.is_dir()}">{name}</a>'
        for name, target in targets.items()
        if target.exists()
    )


def options_html(results: Sequence[ComparedEvaluation]) -> str:
    """Return the table of the options that differ between the runs, and a list of all options that can be opened."""
    options = [settings(result) for result in results]
    names = list(dict.fromkeys(name for values in options for name in values))
    chosen = {name for result in results for name in result.options}
    different = [name for name in names if differs(name, options, name in chosen)]
    html = ""
    if len(results) > 1:
        html += (
            table_html(options_table("Options that differ between the runs", results, options, different))
            if different
            else "<p>The runs have the same options.</p>\n"
        )
    everything = table_html(options_table("All options", results, options, names))
    return f"{html}<details><summary>All {count(len(names), 'option')}</summary>\n{everything}</details>\n"


def settings(result: ComparedEvaluation) -> dict[str, str]:
    """Return the data, seed and length of training of a run, and all its options, as text."""
    values: dict[str, Any] = {
        "data": data_name([result]),
        "protocol": result.protocol,
        "seed": result.seed,
        "epochs": result.epochs,
        "processes": result.processes,
    }
    return {name: str(value) for name, value in values.items() if value is not None} | {
        name: str(value) for name, value in result.all_options.items()
    }


def differs(name: str, options: Sequence[Mapping[str, str]], is_chosen: bool) -> bool:
    """Return whether the runs have different values of an option.

    An option that some models do not have counts only if their values differ or a run does not have the default.

    Args:
        name: Name of the option.
        options: The options of each run.
        is_chosen: Whether a run has another value than the default.
    """
    values = {values[name] for values in options if name in values}
    return len(values) > 1 or (is_chosen and any(name not in values for values in options))


def options_table(
    title: str, results: Sequence[ComparedEvaluation], options: Sequence[Mapping[str, str]], names: Sequence[str]
) -> Table:
    """Return a table of options with one line for each run; an option that a model does not have is empty."""
    lines = [
        [run_name(result.checkpoint), result.model, *(values.get(name, "") for name in names)]
        for result, values in zip(results, options, strict=True)
    ]
    return Table(title, ["run", "model", *names], lines, [])
