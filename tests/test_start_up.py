"""What a command does not wait for when it starts: libraries that it does not use, searches for garbage."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    {
        *ROOT.glob("*.py"),
        *ROOT.glob("models/*.py"),
        *ROOT.glob("callbacks/*.py"),
        *ROOT.glob("datamodules/*.py"),
        *ROOT.glob("remote/*.py"),
    }
)
LATE = {"sklearn", "torchvision", "wandb"}  # which most commands can do without

# Runs a script as a command line and prints which late libraries it has imported, and whether garbage is collected
PROBE = """
import gc, json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    seen = {"status": end.code, "late": [name for name in ("sklearn", "wandb") if name in sys.modules]}
    print(json.dumps(seen | {"collects": gc.isenabled()}))
"""


def early(source):
    """The late libraries that a file imports as soon as it is imported itself, and not in a function."""
    found, nodes = set(), [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return sorted(found & LATE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_slow_libraries_are_not_imported_at_module_level(path):
    assert early(path.read_text()) == []


@pytest.mark.parametrize(("source", "expected"), [
    ("import torch\nfrom models import VAE", []),
    ("import sklearn.svm, wandb", ["sklearn", "wandb"]),
    ("if True:\n    from torchvision import datasets", ["torchvision"]),
    ("class A:\n    import wandb", ["wandb"]),
    ("def f():\n    import wandb\n    from sklearn import svm", []),
    ("from . import wandb", []),
])  # fmt: skip
def test_the_check_itself(source, expected):
    assert early(source) == expected


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "train.py --help",
    "evaluate.py --help",
    "train.py --data NPZ --data.root images.npz --trainer.max_epochs 1 --num_samples 0 --callbacks [] "
    "--trainer.enable_progress_bar false",
])  # fmt: skip
def test_a_command_does_not_import_slow_libraries_that_it_does_not_use(command, tmp_path):
    # torchvision is not looked for: Lightning imports it, where it is installed
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images)
    script, *options = command.split()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, ROOT / script, *options],
        cwd=tmp_path,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # of libraries that report leaks in the end, too
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == {"status": 0, "late": [], "collects": True}
