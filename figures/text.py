"""Text in figures: measure, wrap and shorten it to a given width."""

import re
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

ELLIPSIS = "…"


@lru_cache(maxsize=10_000)
def width(text: str, size: float) -> float:
    """Return the width of one line of text in points, at a font size in points."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]


def has_glyphs(text: str) -> bool:
    """Return whether the font of the figures has a glyph for every character."""
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(character)) for character in text if character != "\n")


def printable(text: str) -> str:
    """Return the text on one line, with ? for characters that the font lacks."""
    return "".join(character if has_glyphs(character) else "?" for character in " ".join(text.split()))


def shortened(text: str, room: float, size: float) -> str:
    """Return the text, cut and ended by an ellipsis if it is wider than `room` points."""
    if width(text, size) <= room:
        return text
    while text and width(text + ELLIPSIS, size) > room:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def wrapped(text: str, room: float, size: float, lines: int = 1) -> str:
    """Return the text in at most `lines` lines, none wider than `room` points.

    Lines break after spaces, slashes, hyphens and underscores; text that does not fit is replaced by an ellipsis.
    """
    finished: list[str] = []
    line = ""
    parts = re.split(r"(?<=[\s/_-])", text)
    for number, part in enumerate(parts):
        if not line or width((line + part).rstrip(), size) <= room:
            line += part
        elif len(finished) + 1 < lines:
            finished.append(shortened(line.rstrip(), room, size))
            line = part
        else:
            line += "".join(parts[number:])
            break
    return "\n".join([*finished, shortened(line.rstrip(), room, size)])
