"""Import rules between packages, and rules for loading files safely."""

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The rooms, from the top: a package imports only from those below it. Packages on one level do not know each other.
ROOMS = (
    ("results", "benchmarks"),
    ("sweep",),
    ("train", "evaluate"),
    ("evaluation",),
    ("cli",),
    ("callbacks",),
    ("runtime",),
    ("models", "figures", "datamodules"),
    ("remote",),
)
LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names}
PACKAGES = [name for names in ROOMS for name in names if name not in ("train", "evaluate")]
INSTALLED = [name for name in PACKAGES if name not in ("results", "benchmarks")]
FILES = sorted([*(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")), *ROOT.glob("*.py")])
# Libraries that a room does without
FORBIDDEN = {"models": {"matplotlib", "wandb"}, "datamodules": {"matplotlib", "wandb"}, "figures": {"wandb"}}
# The distribution that a library is installed from, where its name is not that of the import
DISTRIBUTIONS = {
    "PIL": "pillow",
    "arviz_stats": "arviz-stats",
    "lightning_fabric": "pytorch-lightning",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
DATA_LIBRARIES = {
    "torch",
    "numpy",
    "torchvision",
    "sklearn",
    "scipy",
    "mlxtend",
    "PIL",
    "pytorch_lightning",
    "filelock",
    "tqdm",
}

files = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(source):
    """The top-level names of everything that a file imports, wherever it does so."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:  # a relative import stays in its own package
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def numbers(source):
    """Every number that is written in a file."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    }


def executions(source):
    """Calls and imports that may execute what is written in a file of somebody else."""
    found = [f"imports {name}" for name in sorted(imports(source) & {"pickle", "joblib", "dill", "shelve", "marshal"})]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "torch.jit.load", "torch.package.PackageImporter"):
            found.append(f"calls {name}")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("calls torch.load without weights_only=True")
        if name.endswith((".load_from_checkpoint", "add_safe_globals")):
            found.append(f"calls {name.rpartition('.')[2]}")
        # positional arguments beyond the path are refused: the third is allow_pickle
        if name in ("np.load", "numpy.load") and (
            len(node.args) > 1 or options.get("allow_pickle", "False") != "False"
        ):
            found.append(f"calls {name} that allows pickle")
        if name.endswith(".fit") and "ckpt_path" in options and options.get("weights_only") != "True":
            found.append("resumes without weights_only=True")
    return found


def objections(package, source):
    """What is wrong with a file of `package`, or with a script where that is none."""
    known, room = imports(source), package.removesuffix(".py")
    above = {name for name, level in LEVELS.items() if level <= LEVELS[room] and name != room}
    found = [f"imports {name}" for name in sorted(known & (above | FORBIDDEN.get(room, set())))]
    if package == "datamodules":
        allowed = DATA_LIBRARIES | {"datamodules"} | set(sys.stdlib_module_names)
        found += [f"imports {name}" for name in sorted(known - allowed - above - FORBIDDEN[package])]
    found += executions(source)
    if room not in ("results", "benchmarks"):  # these are about MNIST
        found += [f"has {number} written in it" for number in sorted(numbers(source) & {28, 784})]
    return found


@files
def test_imports_and_loading_follow_the_rules(path):
    name = path.relative_to(ROOT)
    of_28_pixels = (Path("datamodules/mnist.py"), Path("datamodules/omniglot.py"))  # the size of published images
    published = ["has 28 written in it"] if name in of_28_pixels else []
    assert objections(name.parts[0], path.read_text()) == published
    assert "utils" not in path.relative_to(ROOT).with_suffix("").parts


def test_there_is_something_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {*PACKAGES, "train.py", "evaluate.py"}


@pytest.mark.parametrize(("package", "source", "expected"), [
    ("models", "import torch\nfrom models.base import Model\nimport sklearn", []),
    ("models", "import wandb", ["imports wandb"]),
    ("models", "from remote import wandb_artifacts", []),
    ("remote", "import wandb\nimport models", ["imports models"]),
    ("models", "def f():\n    import matplotlib.pyplot as plt", ["imports matplotlib"]),
    ("models", "from callbacks.x import y\nimport datamodules", ["imports callbacks", "imports datamodules"]),
    ("callbacks", "import models\nimport wandb\nfrom datamodules import MNIST", []),
    ("callbacks", "def f():\n    from evaluation import tables", ["imports evaluation"]),
    ("figures", "import matplotlib\nimport models", ["imports models"]),
    ("runtime", "from callbacks.base import FigureCallback", ["imports callbacks"]),
    ("evaluation", "import evaluate\nfrom cli import terminal", ["imports evaluate"]),
    ("results", "import evaluate, evaluation.tables\nimport benchmarks", ["imports benchmarks"]),
    ("datamodules", "import gzip\nimport torchvision.datasets\nfrom datamodules.base import Data", []),
    ("datamodules", "import models", ["imports models"]),
    ("datamodules", "import pandas", ["imports pandas"]),
    ("datamodules", "from . import base\nfrom .batches import Batches", []),
    ("train.py", "import models, datamodules, callbacks", []),
    ("models", "torch.load(path, map_location='cpu', weights_only=True)\nnp.load(file)", []),
    ("models", "torch.load(path)", ["calls torch.load without weights_only=True"]),
    ("models", "torch.load(path, weights_only=False)", ["calls torch.load without weights_only=True"]),
    ("datamodules", "np.load(path, allow_pickle=True)", ["calls np.load that allows pickle"]),
    ("datamodules", "np.load(path, None, True)", ["calls np.load that allows pickle"]),
    ("train.py", "trainer.fit(model, ckpt_path=path)", ["resumes without weights_only=True"]),
    ("train.py", "VAE.load_from_checkpoint(path)", ["calls load_from_checkpoint"]),
    ("models", "import pickle\nyaml.load(file)", ["imports pickle", "calls yaml.load"]),
    ("models", "x = nn.Linear(784, 10)\ny = [1, 28, 28]\n'28x28'", ["has 28 written in it", "has 784 written in it"]),
])  # fmt: skip
def test_the_checks_themselves(package, source, expected):
    assert objections(package, source) == expected


def read_setup():
    """Return setup.cfg as a parser."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup


def distribution_names(requirements):
    """Return the names in a list of requirements, one per line, without extras and versions."""
    return {re.match(r"[\w.-]+", line)[0] for line in requirements.strip().splitlines()}


def required_distributions(sources):
    """Return the distributions that files of installed packages need: those of all imports outside this project."""
    libraries = set().union(*map(imports, sources)) - set(sys.stdlib_module_names) - {"__future__"} - set(LEVELS)
    return {DISTRIBUTIONS.get(name, name) for name in libraries}


def test_requirements_are_what_installed_files_import():
    installed = [path for path in FILES if path.relative_to(ROOT).parts[0] in {*INSTALLED, "train.py", "evaluate.py"}]
    declared = distribution_names(read_setup()["options"]["install_requires"])
    assert required_distributions(path.read_text(encoding="utf-8") for path in installed) == declared


def test_requirements_are_found_in_files():
    sources = ["import os\nimport models.vae\nfrom PIL import Image", "def f():\n    import scipy.stats"]
    assert required_distributions(sources) == {"pillow", "scipy"}
    assert distribution_names("\ntorch >= 2.10\njsonargparse[signatures] >= 4.40\narviz-stats\n") == {
        "torch",
        "jsonargparse",
        "arviz-stats",
    }


def test_all_scripts_are_installed():
    """One to a line: with several lines setuptools splits at their ends, and takes commas for parts of a name."""
    setup = read_setup()
    modules = setup["options"]["py_modules"].strip().split("\n")
    assert modules == sorted(path.stem for path in ROOT.glob("*.py"))
    packages = setup["options"]["packages"].strip().split("\n")
    folders = (path.parent.relative_to(ROOT) for name in INSTALLED for path in (ROOT / name).rglob("__init__.py"))
    assert packages == sorted(".".join(folder.parts) for folder in folders)
