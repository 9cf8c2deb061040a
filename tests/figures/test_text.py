import pytest

from figures.text import has_glyphs, printable, shortened, width, wrapped


def test_text_that_fits_stays_as_it_is():
    assert shortened("Coat", 100, 9) == wrapped("Coat", 100, 9) == "Coat"


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("text", ["Old Church Slavonic (Cyrillic)", "T-shirt/top", "W" * 60, "a b " * 40, ""])
def test_no_line_is_wider_than_its_room(text, lines):
    found = wrapped(text, 50, 7.5, lines).split("\n")
    assert len(found) <= lines
    assert all(width(line, 7.5) <= 50 for line in found)


def test_lines_break_after_spaces_and_slashes():
    room = width("T-shirt/", 9) + 1
    assert wrapped("T-shirt/top", room, 9, 2) == "T-shirt/\ntop"
    assert wrapped("Ankle boot", width("Ankle", 9) + 1, 9, 2) == "Ankle\nboot"


def test_missing_glyphs_and_line_breaks_are_replaced():
    assert has_glyphs("ß ű")
    assert not has_glyphs("\u4e00")
    assert printable("a\tb\n\u4e00") == "a b ?"
