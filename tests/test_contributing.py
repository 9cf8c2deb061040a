"""CONTRIBUTING.md: its examples are added to a copy of the repository, and its commands are run there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import posteriors, priors

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NOT_COPIED = shutil.ignore_patterns(
    ".git", "runs", ".gpu", ".venv", "venv", "wandb", "data", "__pycache__", ".pytest_cache", ".ruff_cache"
)
CREATE = r"^Create `([^`]+)`:\n\n```python\n(.*?)^```$"
CHANGE = r"^Change `([^`]+)`:\n\n((?:```diff\n.*?^```\n*)+)"
FILES = dict(re.findall(CREATE, PAGE, re.DOTALL | re.MULTILINE))
CHANGES = {
    path: re.findall(r"```diff\n(.*?)^```", blocks, re.DOTALL | re.MULTILINE)
    for path, blocks in re.findall(CHANGE, PAGE, re.DOTALL | re.MULTILINE)
}


def apply(text, diff):
    """Apply a hunk whose old lines occur exactly once."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def commands():
    """The commands of the last section, one per line."""
    section = PAGE.split("\n## Try them\n")[1]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0].splitlines()


def test_there_is_one_file_and_one_registry_for_each_kind():
    packages = ["models/networks", "models", "datamodules", "callbacks"]
    assert [str(Path(path).parent) for path in FILES] == packages
    assert list(CHANGES) == [f"{package}/__init__.py" for package in packages]
    for hunks in CHANGES.values():  # an import, and an entry
        assert [line[0] for hunk in hunks for line in hunk.splitlines()].count("+") == 2
        assert not any(line.startswith("-") for hunk in hunks for line in hunk.splitlines())


def test_the_examples_can_be_added():
    for path, code in FILES.items():
        assert not (ROOT / path).exists()
        compile(code, path, "exec")
    for path, hunks in CHANGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        for hunk in hunks:
            text = apply(text, hunk)
        compile(text, path, "exec")


def example(module, name, registry):
    """Run the definition of the class `name` and the lines that add it to a registry, as a part of a module."""
    blocks = rf"^```python\n(class {name}.*?)^```$.*?^```python\n(.*?)^```$"
    definition, addition = re.search(blocks, PAGE, re.DOTALL | re.MULTILINE).groups()
    names = vars(module) | {registry: {}}
    exec(definition + addition, names)
    return names[registry]["laplace"]


def test_the_example_of_a_prior_works():
    prior = example(priors, "LaplacePrior", "PRIORS")(3, (1, 8, 8))
    p = prior(like=torch.zeros(()), encode=None)
    assert p.log_prob(p.expand((5,)).sample((2,))).shape == (2, 5)
    assert p.mean.shape == p.variance.shape == (3,)


def test_the_example_of_a_posterior_works():
    posterior = example(posteriors, "LaplacePosterior", "POSTERIORS")(3)
    outputs = torch.randn(5, posterior.num_outputs)
    posterior.start_narrow(outputs[0])
    q = posterior(outputs)
    assert q.log_prob(q.rsample((2,))).shape == (2, 5)
    torch.testing.assert_close(q.base_dist.scale[0], torch.full((3,), 0.1))


@pytest.mark.slow
def test_the_examples_work(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    for path, code in FILES.items():
        (copy / path).write_text(code, encoding="utf-8")
    for path, hunks in CHANGES.items():
        text = (copy / path).read_text(encoding="utf-8")
        for hunk in hunks:
            text = apply(text, hunk)
        (copy / path).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run_line(line):
        program, *arguments = shlex.split(line)
        module = [] if program == "python" else ["-m", program, "-p", "no:cacheprovider"]
        return run(sys.executable, *module, *arguments)

    # a package that is installed in editable mode must not hide the copy
    where = run(sys.executable, "-c", "import models; print(models.__file__, models.MODELS['MixtureVAE'].__module__)")
    assert where.split() == [str(copy / "models/__init__.py"), "models.mixture"]
    first, again, evaluated, tested = commands()
    folder = copy / "runs" / "mixture"
    run_line(first)
    assert (folder / "figures" / "mean_sample_epoch0001.png").is_file()
    run_line(again)
    assert (folder / "figures" / "mean_sample_epoch0002.png").is_file()
    run_line(evaluated)
    result = json.loads((folder / "evaluation.json").read_text())
    assert (result["model"], result["data"], result["num_samples"]) == ("MixtureVAE", "Discs", 50)
    assert result["ais_nll"] > 0
    assert result["ais_gap"] is not None
    assert (folder / "figures" / "mean_sample_test.png").is_file()
    tests = run_line(tested)
    assert int(re.search(r"(\d+) passed", tests)[1]) > 100
    assert "failed" not in tests
    if shutil.which("ruff"):
        run("ruff", "check", *FILES, *CHANGES)
        run("ruff", "format", "--check", *FILES, *CHANGES)
