"""Tables as text that fits a terminal: its width, and the characters that it can show."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from cli.streams import spell

GAP = "  "
NAME_WIDTH = 32  # to which names of runs are shortened before columns are left out
LEAST_NAME = 16


class Screen(NamedTuple):
    """Where text is shown.

    Args:
        width: In columns; none where there is no limit.
        encoding: That the text is written in.
    """

    width: int | None = None
    encoding: str = "utf-8"


FILE = Screen()  # of a file or a pipe, which take lines of any length


def terminal(stream: TextIO | None = None) -> Screen:
    """The screen behind a stream, by default the standard output.

    Only a terminal has a width; the variable COLUMNS, where it is set, gives one to all.
    """
    stream = sys.stdout if stream is None else stream
    try:
        is_terminal = stream.isatty()
    except (AttributeError, ValueError):  # no file at all, or a closed one
        is_terminal = False
    asked = os.environ.get("COLUMNS", "")
    has_width = is_terminal or (asked.isdecimal() and int(asked) > 0)
    return Screen(
        shutil.get_terminal_size().columns if has_width else None, getattr(stream, "encoding", None) or "utf-8"
    )


def number(value: float, form: str) -> str:
    """A number in a format such as `.2f`, or in scientific notation where that would fill a line with digits."""
    return f"{value:.2e}" if 1e7 <= abs(value) < float("inf") and form[-1:] in "f%" else f"{value:{form}}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def wrapped(text: str, screen: Screen) -> list[str]:
    """Text in lines that fit; a number and its standard error are not parted."""
    text = spell(text, screen.encoding)
    if screen.width is None or len(text) <= screen.width:
        return [text]
    tied = text
    for sign in ("±", "+-", "=", "of", "above", ">"):
        tied = tied.replace(f" {sign} ", f"\u00a0{sign}\u00a0")
    lines = textwrap.wrap(tied, max(screen.width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def lay_out(
    columns: Sequence[str], lines: Sequence[Sequence[str]], screen: Screen = FILE, importance: Sequence[str] = ()
) -> list[str]:
    """A table as lines of text.

    Where it is wider than the screen, a table of one run becomes one line for each column. In a table of several, the
    names of the runs are shortened, and then the least important columns are left out; a line below says which.

    Args:
        columns: Names of the columns; the first one tells runs apart.
        lines: Cells as text.
        screen: Where it is shown.
        importance: Names of columns, those to keep first; columns that are not named come after them.
    """
    header = [spell(name, screen.encoding) for name in columns]
    cells = [[spell(cell, screen.encoding) for cell in line] for line in lines]
    table = aligned([header, *cells])
    if fits(table, screen):
        return table
    names = [line[0] for line in cells]
    if len(set(names)) == 1:
        table = by_column(header, cells, screen)
        if fits(table, screen) or len(cells) == 1:
            return table
    parent, short = split_common_parent(names)
    tried = [(parent, short)] if parent else []
    tried += [(parent, shortened(short, width)) for width in (NAME_WIDTH, LEAST_NAME)]
    for parent, short in tried:
        table = aligned([header, *([name, *line[1:]] for name, line in zip(short, cells, strict=True))])
        if fits(table, screen):
            return [*table, *remarks(parent, [], screen)]
    for _, short in tried[-2:]:  # with names that can be read, if that leaves room for two columns more
        some = [[name, *line[1:]] for name, line in zip(short, cells, strict=True)]
        kept = columns_that_fit(columns, [header, *some], screen, importance)
        if len(kept) > min(2, len(columns) - 1):
            break
    if len(kept) < min(2, len(columns)):
        return [part for line in some for part in (*by_column(header, [line], screen), "")][:-1]
    table = aligned([[line[position] for position in kept] for line in (header, *some)])
    left_out = [name for position, name in enumerate(header) if position not in kept]
    return [*table, *remarks(parent, left_out, screen)]


def fits(lines: Sequence[str], screen: Screen) -> bool:
    """Whether lines are no longer than a screen is wide."""
    return screen.width is None or max(map(len, lines)) <= screen.width


def columns_that_fit(
    columns: Sequence[str], lines: Sequence[Sequence[str]], screen: Screen, importance: Sequence[str]
) -> list[int]:
    """Positions of the columns that fit beside each other, the most important ones first to be taken."""
    order = sorted(
        range(len(columns)),
        key=lambda n: (n > 0, importance.index(columns[n]) if columns[n] in importance else len(importance), n),
    )
    kept, left = [], (screen.width or 0) + len(GAP)
    for position in order:
        width = max(len(line[position]) for line in lines) + len(GAP)
        if width <= left:
            kept.append(position)
            left -= width
    return sorted(kept) if 0 in kept else []


def by_column(header: Sequence[str], cells: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """A table of one run turned over: a line for each column, `name: value`, with the values of all rows."""
    label = max(map(len, header)) + 1
    room = None if screen.width is None else max(LEAST_NAME, screen.width - label - len(GAP))
    name = cells[0][0] if room is None else from_the_right(cells[0][0], room)
    widths = [max(map(len, line[1:]), default=0) for line in cells]
    lines = [f"{header[0]}:".ljust(label) + GAP + name]
    for title, *values in list(zip(header, *cells, strict=True))[1:]:
        text = GAP.join(value.ljust(width) for value, width in zip(values, widths, strict=True))
        lines.append((f"{title}:".ljust(label) + GAP + text).rstrip())
    return lines


def split_common_parent(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all of several paths lie in, if there is one, and the paths from there."""
    parts = [name.split(os.sep) for name in names]
    common = []
    for folders in zip(*(part[:-1] for part in parts), strict=False):
        if len(set(folders)) > 1:
            break
        common.append(folders[0])
    if not any(common):
        return "", list(names)
    return os.sep.join(common), [os.sep.join(part[len(common) :]) for part in parts]


def from_the_right(name: str, width: int) -> str:
    """The end of a name, which tells runs apart more often than its beginning."""
    return name if len(name) <= width else "..." + name[len(name) - width + 3 :]


def from_both_ends(name: str, width: int) -> str:
    """A name without its middle."""
    end = (width - 3) // 2
    return name if len(name) <= width else name[: width - 3 - end] + "..." + name[len(name) - end :]


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names of at most so many characters, or of as many as it takes to tell them apart."""
    longest = max(map(len, names))
    for size in range(width, longest):
        for cut in (from_the_right, from_both_ends):
            short = [cut(name, size) for name in names]
            if len(set(short)) == len(set(names)):
                return short
    return list(names)


def remarks(parent: str, left_out: Sequence[str], screen: Screen) -> list[str]:
    """What was done to a table to make it fit."""
    lines = wrapped(f"Runs are below {parent}.", screen) if parent else []
    if left_out:
        lines += wrapped(
            f"Not shown in {screen.width} columns: {', '.join(left_out)}. A wider terminal or a pipe shows them, and "
            "files hold them: evaluation.json of each run, and those of --report.",
            screen,
        )
    return lines
