"""Notebooks load, draw and explain: nothing is defined in them, and no outputs are kept. CI executes them (nbmake)."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try)
MAX_CELL = 20  # lines

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def sources(notebook, kind):
    """The text of all cells of a kind: code or markdown."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def python(source):
    """A cell without the lines that are for Jupyter."""
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))


def objections(notebook):
    """What is wrong with the contents of a notebook."""
    found = [
        f"cell {i} has outputs or a count"
        for i, cell in enumerate(notebook["cells"])
        if cell.get("outputs") or cell.get("execution_count")
    ]
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append("asks for a kernel other than python3")
    text = sources(notebook, "markdown")
    first = notebook["cells"][0]
    if first["cell_type"] != "markdown" or not text[0].startswith("# "):
        found.append("does not start with a title")
    if "https://arxiv.org/abs/" not in text[0]:
        found.append("names no paper at its head")
    for source in sources(notebook, "code"):
        nodes = list(ast.walk(ast.parse(python(source))))
        found += [f"has logic: {type(node).__name__}" for node in nodes if isinstance(node, LOGIC)]
        found += [
            "ignores the exit status of main"
            for node in nodes
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "attr", "") == "main"
        ]
        found += [f"has a cell of {n} lines" for n in [len(source.splitlines())] if n > MAX_CELL]
    return found


@notebooks
def test_notebook_keeps_to_the_rules(path):
    assert objections(json.loads(path.read_text())) == []


@notebooks
def test_links_lead_somewhere_in_the_repository(path):
    text = "\n".join(sources(json.loads(path.read_text()), "markdown"))
    recipes = {word.strip("`.,;:)(") for word in text.split() if "recipes/" in word}
    others = {part.split(")")[0] for part in text.split("](")[1:] if not part.startswith("http")}
    assert {name for name in recipes if not (ROOT / name).is_file()} == set()
    assert {name for name in others if not (path.parent / name).is_file()} == set()


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


HEAD = {"cell_type": "markdown", "source": ["# Title\n", "\n", "[paper](https://arxiv.org/abs/1312.6114)"]}


def notebook_of(*cells, kernel="python3"):
    """A notebook with these cells below a title."""
    return {"cells": [HEAD, *cells], "metadata": {"kernelspec": {"name": kernel}}}


def code(source, **others):
    """A code cell."""
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": [], **others}


@pytest.mark.parametrize(("notebook", "expected"), [
    (notebook_of(code("%matplotlib inline\nx = [i for i in range(3)]\nassert train.main([]) == 0")), []),
    (notebook_of(code("1", outputs=[{}])), ["cell 1 has outputs or a count"]),
    (notebook_of(code("1", execution_count=3)), ["cell 1 has outputs or a count"]),
    (notebook_of(kernel="mine"), ["asks for a kernel other than python3"]),
    (notebook_of(code("def f():\n    return 1")), ["has logic: FunctionDef"]),
    (notebook_of(code("for i in x:\n    f = lambda: i")), ["has logic: For", "has logic: Lambda"]),
    (notebook_of(code("if x:\n    train.main([])")), ["ignores the exit status of main"]),
    (notebook_of(code("x\n" * (MAX_CELL + 1))), ["has a cell of 21 lines"]),
    ({"cells": [{"cell_type": "markdown", "source": ["text"]}], "metadata": {"kernelspec": {"name": "python3"}}},
     ["does not start with a title", "names no paper at its head"]),
])  # fmt: skip
def test_the_checks_themselves(notebook, expected):
    assert objections(notebook) == expected
