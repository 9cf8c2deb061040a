"""Tables as text that fits the width and the encoding of a terminal."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from cli.streams import transliterate

GAP = "  "
NAME_WIDTH = 32  # characters; names of runs are shortened to this width before columns are dropped
MIN_NAME_WIDTH = 16


class Screen(NamedTuple):
    """Properties of the output.

    Args:
        width: In characters; None if unlimited.
        encoding: Encoding of the text.
    """

    width: int | None = None
    encoding: str = "utf-8"


FILE = Screen()  # a file or a pipe: lines of any length


def terminal(stream: TextIO | None = None) -> Screen:
    """Return width and encoding of a stream, by default the standard output.

    Only terminals have a width, unless the environment variable COLUMNS sets one for all streams.
    """
    stream = sys.stdout if stream is None else stream
    try:
        is_terminal = stream.isatty()
    except (AttributeError, ValueError):  # not a file, or a closed one
        is_terminal = False
    columns = os.environ.get("COLUMNS", "")
    has_width = is_terminal or (columns.isdecimal() and int(columns) > 0)
    width = shutil.get_terminal_size().columns if has_width else None
    return Screen(width, getattr(stream, "encoding", None) or "utf-8")


def number(value: float, form: str) -> str:
    """Return a number in a format such as `.2f`, or in scientific notation if it is at least 10 million."""
    return f"{value:.2e}" if 1e7 <= abs(value) < float("inf") and form[-1:] in "f%" else f"{value:{form}}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def wrapped(text: str, screen: Screen) -> list[str]:
    """Return text in lines that fit; a number and its standard error stay on one line."""
    text = transliterate(text, screen.encoding)
    if screen.width is None or len(text) <= screen.width:
        return [text]
    unbreakable = text
    for sign in ("±", "+-", "=", "of", "above", ">"):
        unbreakable = unbreakable.replace(f" {sign} ", f"\u00a0{sign}\u00a0")
    lines = textwrap.wrap(unbreakable, max(screen.width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def lay_out(
    columns: Sequence[str], lines: Sequence[Sequence[str]], screen: Screen = FILE, importance: Sequence[str] = ()
) -> list[str]:
    """Return a table as lines of text.

    If it does not fit, a table of one run is transposed. In a table of several runs, first their names are shortened,
    then the least important columns are dropped, and a note below the table lists them.

    Args:
        columns: Names of the columns; the first column identifies the run.
        lines: Rows of cells as text.
        screen: Width and encoding of the output.
        importance: Names of columns, the most important first; other columns are less important.
    """
    header = [transliterate(name, screen.encoding) for name in columns]
    rows = [[transliterate(cell, screen.encoding) for cell in line] for line in lines]
    table = aligned([header, *rows])
    if fits(table, screen):
        return table

    names = [row[0] for row in rows]
    if len(set(names)) == 1:
        table = transposed(header, rows, screen)
        if fits(table, screen) or len(rows) == 1:
            return table

    parent, relative_names = split_common_parent(names)
    candidates = [relative_names] if parent else []
    candidates += [shorten_names(relative_names, width) for width in (NAME_WIDTH, MIN_NAME_WIDTH)]
    for short_names in candidates:
        table = aligned([header, *with_names(rows, short_names)])
        if fits(table, screen):
            return [*table, *table_notes(parent, [], screen)]

    for short_names in candidates[-2:]:  # the longer names only if at least two more columns fit
        short_rows = with_names(rows, short_names)
        shown = columns_that_fit(columns, [header, *short_rows], screen, importance)
        if len(shown) > min(2, len(columns) - 1):
            break
    if len(shown) < min(2, len(columns)):
        return [line for row in short_rows for line in (*transposed(header, [row], screen), "")][:-1]
    table = aligned([[row[index] for index in shown] for row in (header, *short_rows)])
    dropped = [name for index, name in enumerate(header) if index not in shown]
    return [*table, *table_notes(parent, dropped, screen)]


def with_names(rows: Sequence[Sequence[str]], names: Sequence[str]) -> list[list[str]]:
    """Return the rows with their first cells replaced by `names`."""
    return [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]


def fits(lines: Sequence[str], screen: Screen) -> bool:
    """Return whether no line is longer than the screen is wide."""
    return screen.width is None or max(map(len, lines)) <= screen.width


def columns_that_fit(
    columns: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen, importance: Sequence[str]
) -> list[int]:
    """Return the sorted indices of the columns that fit, chosen in order of importance.

    Returns an empty list if the first column does not fit.
    """
    order = sorted(
        range(len(columns)),
        key=lambda n: (n > 0, importance.index(columns[n]) if columns[n] in importance else len(importance), n),
    )
    chosen = []
    remaining = (screen.width or 0) + len(GAP)
    for index in order:
        width = max(len(row[index]) for row in rows) + len(GAP)
        if width <= remaining:
            chosen.append(index)
            remaining -= width
    return sorted(chosen) if 0 in chosen else []


def transposed(header: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """Return the table of one run with a line `column: values` per column."""
    label_width = max(map(len, header)) + 1
    name = rows[0][0]
    if screen.width is not None:
        name = keep_end(name, max(MIN_NAME_WIDTH, screen.width - label_width - len(GAP)))
    widths = [max(map(len, row[1:]), default=0) for row in rows]
    lines = [f"{header[0]}:".ljust(label_width) + GAP + name]
    for title, *values in list(zip(header, *rows, strict=True))[1:]:
        text = GAP.join(value.ljust(width) for value, width in zip(values, widths, strict=True))
        lines.append((f"{title}:".ljust(label_width) + GAP + text).rstrip())
    return lines


def split_common_parent(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the common parent folder of several paths, or "", and the paths relative to it."""
    parts = [name.split(os.sep) for name in names]
    common = []
    for folders in zip(*(part[:-1] for part in parts), strict=False):
        if len(set(folders)) > 1:
            break
        common.append(folders[0])
    if not any(common):
        return "", list(names)
    return os.sep.join(common), [os.sep.join(part[len(common) :]) for part in parts]


def keep_end(name: str, width: int) -> str:
    """Shorten a name by dropping its beginning; ends of names differ more often."""
    return name if len(name) <= width else "..." + name[len(name) - width + 3 :]


def keep_both_ends(name: str, width: int) -> str:
    """Shorten a name by dropping its middle."""
    end = (width - 3) // 2
    return name if len(name) <= width else name[: width - 3 - end] + "..." + name[len(name) - end :]


def shorten_names(names: Sequence[str], width: int) -> list[str]:
    """Shorten names to `width` characters, or to as many as are needed to keep distinct names distinct."""
    longest = max(map(len, names))
    for size in range(width, longest):
        for shorten in (keep_end, keep_both_ends):
            short = [shorten(name, size) for name in names]
            if len(set(short)) == len(set(names)):
                return short
    return list(names)


def table_notes(parent: str, dropped: Sequence[str], screen: Screen) -> list[str]:
    """Return notes on what was removed from a table to make it fit.

    Args:
        parent: Common folder that was removed from the names of the runs, or "".
        dropped: Names of the columns that were dropped.
        screen: Width and encoding of the output.
    """
    lines = wrapped(f"Run folders are relative to {parent}.", screen) if parent else []
    if dropped:
        lines += wrapped(
            f"Not shown in {screen.width} columns: {', '.join(dropped)}. They are shown in a wider terminal or a pipe, "
            "and saved in evaluation.json of each run and in the files of --report.",
            screen,
        )
    return lines
