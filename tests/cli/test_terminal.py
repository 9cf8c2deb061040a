"""cli/terminal.py: tables fit a terminal, whatever its width and its encoding."""

import io

import pytest

from cli.terminal import FILE, Screen, keep_end, lay_out, number, terminal, wrapped
from evaluation.schema import Evaluation
from evaluation.tables import tables

COLUMNS = ("run", "model", "NLL ± SE", "K", "ELBO", "equivariance (°)")
FIRST = ["runs/long-name-of-a-data-set/2026-11-21_09-56-18", "VAE", "22.32 ± 0.25", "1000", "-22.78", "3.5"]
SECOND = ["runs/long-name-of-a-data-set/2026-11-22_10-00-00", "IWAE", "21.30 ± 0.25", "1000", "-22.70", "3.4"]
IMPORTANCE = ("run", "NLL ± SE", "model", "K")


def test_without_a_width_a_row_is_one_line():
    table = lay_out(COLUMNS, [FIRST, SECOND], FILE, IMPORTANCE)
    assert len(table) == 3
    assert table[1].split("  ")[0] == FIRST[0]


def test_a_wide_table_of_one_run_is_transposed():
    table = lay_out(COLUMNS, [FIRST], Screen(60))
    assert [line.split(":")[0] for line in table] == list(COLUMNS)
    assert [line.split(":", 1)[1].strip() for line in table[1:]] == FIRST[1:]
    assert max(map(len, table)) <= 60


def test_a_transposed_table_shows_baselines_next_to_the_run():
    mlp = [FIRST[0], "MLP", "-", "-", "-", "-"]
    table = lay_out(COLUMNS, [FIRST, mlp], Screen(70))
    assert table[0].startswith("run: ")
    assert table[1].split() == ["model:", "VAE", "MLP"]
    assert table[2].split() == ["NLL", "±", "SE:", "22.32", "±", "0.25", "-"]


@pytest.mark.parametrize("width", range(30, 110, 7))
def test_no_line_exceeds_the_width_and_no_number_is_split(width):
    table = lay_out(COLUMNS, [FIRST, SECOND], Screen(width), IMPORTANCE)
    assert max(map(len, table)) <= width
    text = "\n".join(table)
    assert "22.32 ± 0.25" in text
    assert "21.30 ± 0.25" in text
    shown = [name for name in COLUMNS if name in table[0]]
    if len(shown) < len(COLUMNS) and table[0].startswith("run "):
        explanation = " ".join(text.split("Not shown")[1].split())
        assert all(name in explanation for name in COLUMNS if name not in shown)


def test_the_most_important_columns_are_shown():
    table = lay_out(COLUMNS, [FIRST, SECOND], Screen(45), IMPORTANCE)
    assert table[0].split("  ")[0] == "run"
    assert "NLL ± SE" in table[0]
    assert "equivariance" not in table[0]
    assert [line.split()[0] for line in table[1:3]] == ["2026-11-21_09-56-18", "2026-11-22_10-00-00"]


def test_shortened_names_are_unique():
    names = [f"{name}/a-rather-long-name-of-a-run-that-goes-on-and-on" for name in ("one", "two")]
    table = lay_out(("run", "K"), [[name, "5"] for name in names], Screen(40))
    assert [line[:10] for line in table[1:]] == ["one/a-rath", "two/a-rath"]
    assert all(line.split()[0].endswith("on-and-on") and len(line) <= 40 for line in table[1:])
    assert keep_end("abcdefgh", 6) == "...fgh"


def test_column_widths_fit_ascii_text():
    header, first, second = lay_out(COLUMNS, [FIRST, SECOND], Screen(None, "ascii"))
    assert "NLL +- SE" in header
    assert "equivariance (deg)" in header
    assert header.index("K") == first.index("1000") == second.index("1000")
    assert all(line.isascii() for line in (header, first, second))


@pytest.mark.parametrize(("value", "form", "text"), [
    (22.324, ".2f", "22.32"), (9.8e29, ".2f", "9.80e+29"), (-1.5e7, ".2f", "-1.50e+07"), (9e6, ".2f", "9000000.00"),
    (float("inf"), ".2f", "inf"), (float("nan"), ".2f", "nan"), (0.5, ".0%", "50%"), (1.0, "+.2f", "+1.00"),
])  # fmt: skip
def test_large_numbers_are_in_scientific_notation(value, form, text):
    assert number(value, form) == text


def test_a_non_finite_likelihood_is_reported():
    result = {"quantity": "log p(x)", "data": "Digits", "protocol": "dynamic", "num_images": 10, "num_samples": 5,
              "variant": "", "disentanglement": None, "checkpoint": "a/best.ckpt", "model": "VAE", "baselines": None,
              "test_error_images": None, "nll": None, "nll_se": None, "elbo": -9.8e29}  # fmt: skip
    text = tables([Evaluation(**result)])
    assert "not finite" in text
    assert "-9.80e+29" in text


def test_a_number_and_its_standard_error_stay_on_one_line():
    for width in range(20, 60):
        lines = wrapped("AIS lowers it by 12.34 ± 0.56 nats on the images that it was run on.", Screen(width))
        assert max(map(len, lines)) <= width
        assert any("12.34 ± 0.56" in line for line in lines)


def test_only_a_terminal_has_a_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal(io.StringIO()) == Screen(None, "utf-8")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert terminal(shown) == Screen(None, "ascii")
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    assert terminal(shown).width > 0
    monkeypatch.setenv("COLUMNS", "72")
    assert terminal(shown).width == terminal(io.StringIO()).width == 72
