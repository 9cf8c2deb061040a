"""evaluation/html_report.py: the comparison page of a report, as HTML and in a browser."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import EXECUTABLE, open_page

from evaluation import html_report, report
from evaluation.over_seeds import SeedMean, mean_tables
from evaluation.schema import ComparedEvaluation, Difference
from evaluation.tables import disentanglement_tables, tables_by_key
from runtime.figure_files import FigureStyle

VOID = {"meta", "img", "wbr"}
ODD = """<b>x</b>"' & <script>alert(1)</script>"""  # part of a path: its slash separates folders
NLLS = {"runs/a-10": 100.5, "runs/a-9": 95.25, f"runs/{ODD}": 1000.0, "runs/nan": None}
MEAN = SeedMean(
    about="log p(x)", data="Digits", protocol="dynamic", num_images=500, group="VAE, z_dim <2>", n=2,
    runs=["a", "b"], nll=90.0, nll_se=0.5, num_samples=[50], test_error=None, test_error_se=None,
)  # fmt: skip


class Element:
    """An element of a parsed page."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    def all(self, tag):
        """All elements with this tag inside this one."""
        inside = [child for child in self.children if isinstance(child, Element)]
        return [found for child in inside for found in ([child] if child.tag == tag else []) + child.all(tag)]

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """Parser that builds the tree of a page, and fails if an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.root = self.here = Element("", [], None)
        self.feed(text)
        self.close()
        assert self.here is self.root

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs, self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag):
        assert tag == self.here.tag
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def result(run, nll, **more):
    """A result of a run folder that exists."""
    checkpoint = Path(run, "checkpoints", "best.ckpt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.touch()
    values = {
        "model": "VAE", "data": "Digits", "protocol": "dynamic", "seed": 0, "quantity": "log p(x)", "num_samples": 50,
        "num_images": 500, "nll": nll, "nll_se": 1.25, "epochs": 3, "k_hat_above": 0.0, "seconds": 600.0,
        "active_units_per_layer": [3, 2], "options": {}, "all_options": {"z_dim": 2, "lr": 0.001},
    }  # fmt: skip
    return ComparedEvaluation(**values | more, checkpoint=str(checkpoint))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results of several kinds, with remarks below the tables."""
    monkeypatch.chdir(tmp_path)
    first, second, third, failed = [result(run, nll) for run, nll in NLLS.items()]
    differences = {"runs/a-10": Difference(-5.25, 0.1)}
    second = replace(second, versus=differences, k_hat_above=0.5, seconds=7200.0)
    options = {"num_samples": 5}
    third = replace(third, model="IWAE", all_options=third.all_options | options | {"z_dim": 3}, options=options)
    moved = {"disentanglement": {"angle_correlation": 0.5}, "moved": "rotated"}
    grey = {"protocol": "grey", "quantity": "log p(x), a density of grey values"}
    return [first, second, third, failed, result("runs/grey", -50.0, **grey), result("runs/moved", 99.0, **moved)]


def written(results, means=(), **style):
    """The parsed page of a report that is written to the folder `r`."""
    report.write_report(Path("r"), results, means, FigureStyle(**style))
    return Tree(Path("r/index.html").read_text(encoding="utf-8")).root


def tables_of(page):
    """All tables of a page by their titles, each as lines of cells; without the links of the table of runs."""
    found = {}
    for table in page.all("table"):
        lines = [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")]
        found[table.attributes["aria-label"]] = lines
    made = found["How the runs were made"]
    assert made[0][1] == "files"
    return found | {"How the runs were made": [[run, *cells] for run, _, *cells in made]}


def test_the_page_has_all_tables_with_all_cells(results):
    found = tables_of(written(results, [MEAN]))
    expected = [
        *tables_by_key(results),
        *disentanglement_tables(results),
        *mean_tables([MEAN]),
        *report.difference_tables(results),
        report.provenance_table(results),
    ]
    assert len(expected) == 6
    for table in expected:
        columns = [name or "run" for name in table.columns]
        assert found.pop(table.title) == [columns, *table.lines]
    assert sorted(found) == ["All options", "Options that differ between the runs"]


def test_numbers_are_those_of_the_json(results):
    found = tables_of(written(results))
    entries = json.loads(Path("r/results.json").read_text())
    lines = [dict(zip(table[0], line, strict=True)) for table in found.values() for line in table[1:]]
    cells = {line["run"]: line["NLL ± SE"] for line in lines if "NLL ± SE" in line}
    assert len(cells) == len(entries)
    for entry in entries:
        nll = entry["nll"]
        name = str(Path(entry["checkpoint"]).parent.parent)
        assert cells[name] == ("not finite" if nll is None else f"{nll:.2f} ± {entry['nll_se']:.2f}")


def test_remarks_are_below_the_tables(results):
    page = written(results)
    remarks = [part.text for part in page.all("p") if part.attributes.get("class") == "remark"]
    assert remarks == [remark for table in tables_by_key(results) for remark in table.remarks]
    assert "Pareto k-hat is above 0.7 for up to 50%" in remarks[0]


def test_names_are_text(results):
    page = written([*results, result("runs/c", 90.0, model="<i>M</i>", machine=['<CPU> & "GPU"'])])
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert not page.all("i")
    assert any(ODD in cell.text for cell in page.all("th"))


def test_the_page_loads_nothing(results):
    page = written(results)
    assert not {"link", "iframe", "object", "base"} & {part.tag for part in [*page.all("head"), *page.all("body")]}
    assert all("src" not in script.attributes for script in page.all("script"))
    assert all(image.attributes["src"].startswith("data:image/") for image in page.all("img"))
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", Path("r/index.html").read_text())
    (policy,) = [meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for part in (style.text, page.all("script")[0].text):
        assert html_report.source_hash(part) in policy


def test_links_lead_to_files(results):
    page = written(results)
    links = [link.attributes["href"] for link in page.all("a")]
    local = [Path("r", unquote(urlsplit(link).path)) for link in links if not link.startswith("#")]
    assert all(path.exists() for path in local)
    assert not any(urlsplit(link).scheme for link in links)
    checkpoints = {path.resolve() for path in local if path.suffix == ".ckpt"}
    assert checkpoints == {Path(run.checkpoint).resolve() for run in results}
    assert {Path("r/results.json"), Path("r/results.csv"), Path("r/results.md")} <= set(local)
    ids = {heading.attributes["id"] for heading in page.all("h2")}
    assert {link[1:] for link in links if link.startswith("#")} == ids


def test_a_link_leads_to_the_result_that_the_page_shows(results):
    file = html_report.setting_file(Path(results[0].checkpoint), results[0])
    file.parent.mkdir()
    file.touch()
    links = [link for link in written(results).all("a") if link.text == "evaluation"]
    assert [Path("r", link.attributes["href"]).resolve() for link in links] == [file.resolve()]


def test_files_that_are_gone_have_no_link(results):
    Path(results[0].checkpoint).unlink()
    page = written(results)
    assert sum(link.text == "checkpoint" for link in page.all("a")) == len(results) - 1


@pytest.mark.parametrize(("name", "kind"), [("png", "image/png"), ("svg", "image/svg+xml")])
def test_figures_are_in_the_page(results, name, kind):
    page = written(results, format=name)
    files = sorted(Path("r").glob(f"*.{name}"))
    images = page.all("img")
    assert [image.attributes["alt"] for image in images] == [
        "Negative log-likelihoods 1", "Negative log-likelihoods 2"
    ]  # fmt: skip
    for image, file in zip(images, files, strict=True):
        start, _, content = image.attributes["src"].partition(",")
        assert start == f"data:{kind};base64"
        assert base64.b64decode(content) == file.read_bytes()


def test_figures_that_others_have_written_for_the_report_are_in_the_page(results):
    Path("r").mkdir()
    for name in ("rate_distortion_10.svg", "rate_distortion_2.svg", "holiday.png", "results_of_mine.png"):
        Path("r", name).write_text("<svg/>")
    page = written(results)
    titles = [image.attributes["alt"] for image in page.all("img")]
    assert titles == [
        "Negative log-likelihoods 1", "Negative log-likelihoods 2", "Rate and distortion 2", "Rate and distortion 10"
    ]  # fmt: skip


def test_pdf_figures_are_links(results):
    page = written(results, format="pdf")
    assert not page.all("img")
    links = [link.attributes["href"] for link in page.all("a")]
    assert [link for link in links if link.endswith(".pdf")] == ["results_1.pdf", "results_2.pdf"]


def test_only_options_that_differ_are_in_the_first_table(results):
    found = tables_of(written(results))
    different, everything = found["Options that differ between the runs"], found["All options"]
    assert different[0] == ["run", "model", "protocol", "z_dim", "num_samples"]
    assert different[1] == ["runs/a-10", "VAE", "dynamic", "2", ""]
    assert different[3] == [f"runs/{ODD}", "IWAE", "dynamic", "3", "5"]
    assert everything[0] == ["run", "model", "data", "protocol", "seed", "epochs", "z_dim", "lr", "num_samples"]
    assert len(everything) == len(different) == 1 + len(results)


def test_an_option_of_some_models_counts_only_if_a_run_has_not_its_default(results):
    default = [replace(run, options={}) for run in results]
    assert "num_samples" not in tables_of(written(default))["Options that differ between the runs"][0]


def test_runs_with_the_same_options_have_no_table_of_differences(results):
    page = written(results[:2])
    assert "Options that differ between the runs" not in tables_of(page)
    assert "The runs have the same options." in [part.text for part in page.all("p")]


def test_one_run_has_a_page(results):
    page = written(results[:1])
    assert page.all("h1")[0].text == "Results of 1 run"
    assert [part.text for part in page.all("h2")] == ["Results", "Figures", "Options", "Runs"]


def test_the_same_results_give_the_same_page(results):
    written(results, [MEAN])
    before = Path("r/index.html").read_bytes()
    written(results, [MEAN])
    assert Path("r/index.html").read_bytes() == before


@pytest.mark.parametrize(("cell", "value"), [
    ("86.30 ± 0.44", 86.3), ("-1.20", -1.2), ("+0.05 ± 0.01", 0.05), ("2.70e+08", 2.7e8), ("3.50%", 3.5),
    ("86.76 [1]", 86.76), ("84.10 ± 2.00 (10)", 84.1), ("90 min", 90.0), ("1.5 h", 90.0), ("3+2", 5.0),
    ("4.5+-0.5", 4.0), ("98 in 12 layers", 98.0), ("0.1 to 4.3", 0.1),
    ("5 draws of 10 runs", 5.0), ("not finite", None), ("-", None), ("", None), ("[200, 200]", None),
    ("2x2", None), ("0123abc", None), ("1e-05", 1e-5), ("True", None),
])  # fmt: skip
def test_values_that_cells_are_sorted_by(cell, value):
    assert html_report.sort_value(cell) == value


@pytest.mark.parametrize(("name", "cells", "numeric"), [
    ("NLL ± SE", ("1.00 ± 0.10", "-", "not finite"), True), ("paper", ("86.76 [1]", "- [2]"), True),
    ("data.num_labels", ("None", "100"), True), ("hidden", ("[200]", "[3]"), False), ("K", ("-", "-"), False),
    ("run", ("1", "2"), False), ("batch_norm", ("True", "1"), False),
])  # fmt: skip
def test_columns_that_are_sorted_by_number(name, cells, numeric):
    assert html_report.is_numeric(name, cells) is numeric


# In a browser


@pytest.fixture
def browser(results, tmp_path):
    """A browser that shows the page of a report with several tables."""
    if EXECUTABLE is None:
        pytest.skip("needs chromium")
    report.write_report(Path("r"), results, [MEAN])
    with open_page(tmp_path / "profile") as page:
        page.resize(1280)
        page.load((tmp_path / "r" / "index.html").as_uri())
        yield page


def column(page, header):
    """The cells of a column of the first table, as they are shown."""
    return page.evaluate(f"""(() => {{
        const table = document.querySelector("table");
        const place = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === {json.dumps(header)});
        return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
    }})()""")


def click(page, header):
    """Select the header of a column of the first table, and return the values of aria-sort of all its headers."""
    return page.evaluate(f"""(() => {{
        const headers = [...document.querySelector("table").tHead.rows[0].cells];
        headers.find((cell) => cell.textContent === {json.dumps(header)}).querySelector("button").click();
        return headers.map((cell) => cell.getAttribute("aria-sort")).filter((value) => value !== null);
    }})()""")


def test_the_page_works_in_a_browser(browser, tmp_path):
    """It loads without messages and requests, sorts, and is never wider than the window."""
    page = browser
    assert page.requests() == [(tmp_path / "r" / "index.html").as_uri()]
    names = column(page, "run")
    assert names == ["runs/a-10", "runs/a-9", f"runs/{ODD}", "runs/nan", "runs/moved"]

    by_value = ["95.25 ± 1.25", "99.00 ± 1.25", "100.50 ± 1.25", "1000.00 ± 1.25", "not finite"]
    assert click(page, "NLL ± SE") == ["ascending"]
    assert column(page, "NLL ± SE") == by_value
    assert click(page, "NLL ± SE") == ["descending"]
    assert column(page, "NLL ± SE") == [*by_value[-2::-1], "not finite"]
    assert click(page, "to the first") == ["ascending"]
    assert column(page, "to the first") == ["-5.25 ± 0.10", "-", "-", "-", "-"]
    assert click(page, "run") == ["ascending"]
    assert column(page, "run").index("runs/a-9") < column(page, "run").index("runs/a-10")

    # By keyboard: the next header after that of the run is that of the model.
    page.evaluate("document.querySelector('th button').focus()")
    page.press("Tab", 9)
    page.press("Enter", 13, "\r")
    assert page.evaluate("document.querySelector('th[aria-sort]').textContent") == "model"
    assert column(page, "model") == ["IWAE", "VAE", "VAE", "VAE", "VAE"]

    for width in (1280, 390):
        page.resize(width)
        for element in ("documentElement", "body"):
            assert page.evaluate(f"document.{element}.scrollWidth") <= width
        assert page.evaluate("window.innerWidth") == width
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 300)")
    # At 390 pixels a wide table scrolls in its container; its first column stays in place, above the others.
    scrolled, moved, covered = page.evaluate("""(() => {
        const container = document.querySelector(".scroll");
        const [header, cell] = ["thead th", "tbody th"].map((selector) => container.querySelector(selector));
        const before = cell.getBoundingClientRect().left;
        const covered = [];
        for (let scrolled = 10; scrolled <= 100; scrolled += 10) {
            container.scrollLeft = scrolled;
            for (const first of [header, cell]) {
                const place = first.getBoundingClientRect();
                const shown = document.elementFromPoint(place.right - 5, (place.top + place.bottom) / 2);
                covered.push(!first.contains(shown));
            }
        }
        return [container.scrollLeft, cell.getBoundingClientRect().left - before, covered];
    })()""")
    assert (scrolled, moved, covered) == (100, 0, [False] * 20)
    assert page.problems() == []
    assert len(page.requests()) == 1


def test_colors_follow_the_preference(browser):
    color = "getComputedStyle(document.body).backgroundColor"
    browser.prefer("light")
    light = browser.evaluate(color)
    browser.prefer("dark")
    assert (light, browser.evaluate(color)) == ("rgb(255, 255, 255)", "rgb(21, 23, 26)")
