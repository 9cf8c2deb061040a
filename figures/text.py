"""Text of figures that has to fit somewhere: measured, broken into lines, shortened."""

import re
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

ELLIPSIS = "…"


@lru_cache(maxsize=10_000)
def width(text: str, size: float) -> float:
    """The width of one line of text in points, at a font size in points."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)[0]


def has_glyphs(text: str) -> bool:
    """Whether the font of the figures can show each character."""
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(character)) for character in text if character != "\n")


def printable(text: str) -> str:
    """The text on one line, with ? in place of characters that the font does not have."""
    return "".join(character if has_glyphs(character) else "?" for character in " ".join(text.split()))


def shortened(text: str, room: float, size: float) -> str:
    """The text, or its beginning and an ellipsis, where it is wider than `room` points."""
    if width(text, size) <= room:
        return text
    while text and width(text + ELLIPSIS, size) > room:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def wrapped(text: str, room: float, size: float, lines: int = 1) -> str:
    """The text in at most so many lines, none wider than `room` points: broken after spaces, slashes and hyphens; what
    does not fit is replaced by an ellipsis."""
    done: list[str] = []
    line = ""
    parts = re.split(r"(?<=[\s/_-])", text)
    for number, part in enumerate(parts):
        if not line or width((line + part).rstrip(), size) <= room:
            line += part
        elif len(done) + 1 < lines:
            done.append(shortened(line.rstrip(), room, size))
            line = part
        else:
            line += "".join(parts[number:])
            break
    return "\n".join([*done, shortened(line.rstrip(), room, size)])
