"""Tests of README.md and docs/: commands are accepted by the option parsers, Python compiles, links lead somewhere."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from cli.evaluate_options import build_evaluation_parser
from cli.train_options import build_parser, split_component_flags
from sweep.__main__ import build_parser as build_sweep_parser
from sweep.__main__ import check_arguments
from sweep.grid import read_sweep
from sweep.runs import make_runs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED_PAGES = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md", "results/README.md")),
]
MAX_README_LINES = 250
# Shell variables of loops in the examples, and a value for each. Placeholders for paths, such as DIR, RUN and
# my_images.npz, need no value: parsing an option does not open the file that it names.
SHELL_VARIABLES = {"beta": "0.5", "draw": "0"}
# What starts a program in the examples, and the program whose options follow
PROGRAMS = {
    r"python train\.py": "train",
    r"torchrun .*?\btrain\.py": "train",
    r"sbatch .*?\bslurm/train\.sbatch": "train",
    r"python evaluate\.py": "evaluate",
    r"python -m sweep": "sweep",
}


def blocks(text, language):
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(block):
    """Return `(program, arguments)` of each command of train.py and evaluate.py in a bash block.

    Continuation lines are joined, comments are dropped, indentation in loops is ignored, shell variables get the values
    of `SHELL_VARIABLES`, and parts joined by `&&` are commands of their own. Other commands are skipped.
    """
    found = []
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        for part in line.split("&&"):
            for pattern, program in PROGRAMS.items():
                if match := re.match(rf"\s*{pattern}(?=\s|$)", part):
                    arguments = re.sub(r"\$(\w+)", lambda name: SHELL_VARIABLES[name[1]], part[match.end() :])
                    found.append((program, shlex.split(arguments, comments=True)))
    return found


def parse(program, arguments):
    """Parse the arguments as the program does. Raises an error if the program would refuse them."""
    if program == "evaluate":
        build_evaluation_parser().parse_args(arguments)
        return
    if program == "sweep":
        args, more = build_sweep_parser().parse_known_args(arguments)
        check_arguments(args)
        for run in make_runs(read_sweep(ROOT / args.file), args.sweep_dir, more):
            parse("train", run.options)
        return
    names, flags = split_component_flags(arguments)
    build_parser(names).parse_args(flags)


def slugs(text):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text):
    """Return the targets of all links and images outside of code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def broken_links(page):
    """Return the relative links of a page that lead to no file, or to no heading of a page."""
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in slugs(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


COMMANDS = [
    pytest.param(program, arguments, id=f"{page.name}: {program} {' '.join(arguments)}")
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"), "bash")
    for program, arguments in commands(block)
]
PYTHON = [
    pytest.param(block, id=f"{page.name}: {block.splitlines()[0]}")
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"), "python")
]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_there_are_commands_and_python_to_check():
    assert len(COMMANDS) >= 20
    assert {parameters.values[0] for parameters in COMMANDS} == {"train", "evaluate", "sweep"}
    assert len(PYTHON) >= 2


@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_commands_are_accepted(program, arguments, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # recipes are relative to the repository
    help_wanted = pytest.raises(SystemExit, match=r"^0$") if "--help" in arguments else contextlib.nullcontext()
    with help_wanted:
        parse(program, arguments)


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_compile(block):
    compile(block, "a documentation page", "exec")


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: page.name)
def test_relative_links_and_images_lead_to_files(page):
    assert broken_links(page) == []


def test_all_pages_are_in_the_index_of_the_readme():
    linked = links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {f"docs/{page.name}" for page in PAGES[1:]} <= {link.partition("#")[0] for link in linked}


def test_blocks_that_ci_runs_are_marked_so_that_it_finds_them():
    """.ci/run takes a line `<!-- ci -->` without indentation and the block that follows it."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    marked = [number for number, line in enumerate(lines) if "<!-- ci -->" in line]
    assert len(marked) >= 2
    for number in marked:
        assert (lines[number], lines[number + 1]) == ("<!-- ci -->", "```bash")


@pytest.mark.parametrize(("block", "expected"), [
    ("python train.py --seed 1  # a comment\n", [("train", ["--seed", "1"])]),
    ("python evaluate.py 'runs/**/best.ckpt'\n", [("evaluate", ["runs/**/best.ckpt"])]),
    ("pip install -e . && python train.py\n", [("train", [])]),
    ("for beta in 1 2; do\n  python train.py --model.beta $beta \\\n    --seed 0\ndone\n",
     [("train", ["--model.beta", "0.5", "--seed", "0"])]),
    ("torchrun --nproc_per_node 2 train.py --run_dir a\n", [("train", ["--run_dir", "a"])]),
    ("sbatch --array=0-4 slurm/train.sbatch --seed 1\n", [("train", ["--seed", "1"])]),
    ("pytest tests/test_train.py\n", []),
])  # fmt: skip
def test_commands_are_found_in_blocks(block, expected):
    assert commands(block) == expected


@pytest.mark.parametrize(("program", "arguments"), [
    ("train", ["--model.z_dims", "3"]),
    ("train", ["--model", "VEA"]),
    ("evaluate", ["a.ckpt", "--samples", "3"]),
])  # fmt: skip
def test_wrong_commands_are_refused(program, arguments):
    with pytest.raises(Exception, match=r"z_dims|VEA|samples"):
        parse(program, arguments)


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#b) [c](page.md) ![d](none.png) [e](https://example.org)\n")
    assert broken_links(page) == ["#b", "none.png"]
