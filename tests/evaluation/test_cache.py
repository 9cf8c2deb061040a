"""evaluation/cache.py: what is taken from an earlier start, and what never is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import cache
from evaluation.cache import cache_path, cached, load_if_current, source_hash

CONTENTS = {"model": "VAE", "hyper_parameters": {"z_dim": 2, "hidden": (8,)}, "state_dict": {"w": torch.ones(3)}}
OPTIONS = {"K": 5, "images": "abc"}
ARRAYS = {"log_px": np.arange(4.0), "ess": np.array([1.5, np.nan, np.inf, 2.0])}


class Compute:
    """Gives the arrays, and counts how often."""

    times = 0

    def __call__(self):
        self.times += 1
        return dict(ARRAYS)


@pytest.fixture
def compute():
    return Compute()


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.setattr(cache, "source_hash", lambda: "abc")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "per_image" / "best_likelihoods.npz"


def assert_right(found):
    assert sorted(found) == sorted(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_the_same_again_is_not_computed_again(path, compute):
    for _ in range(3):
        assert_right(cached(path, CONTENTS, OPTIONS, compute))
    assert compute.times == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


OTHERS = {
    "K": (CONTENTS, OPTIONS | {"K": 6}),
    "images": (CONTENTS, OPTIONS | {"images": "abd"}),
    "one option more": (CONTENTS, OPTIONS | {"precision": "bf16"}),
    "weights": (CONTENTS | {"state_dict": {"w": torch.tensor([1.0, 1.0, 1.0 + 2**-23])}}, OPTIONS),
    "their type": (CONTENTS | {"state_dict": {"w": torch.ones(3, dtype=torch.bfloat16)}}, OPTIONS),
    "their shape": (CONTENTS | {"state_dict": {"w": torch.ones(3, 1)}}, OPTIONS),
    "their names": (CONTENTS | {"state_dict": {"v": torch.ones(3)}}, OPTIONS),
    "hyperparameters": (CONTENTS | {"hyper_parameters": {"z_dim": 3, "hidden": (8,)}}, OPTIONS),
    "model": (CONTENTS | {"model": "IWAE"}, OPTIONS),
}


@pytest.mark.parametrize("other", OTHERS)
def test_anything_else_is_computed_anew_and_takes_its_place(path, compute, other):
    cached(path, CONTENTS, OPTIONS, compute)
    for times in (2, 2):
        cached(path, *OTHERS[other], compute)
        assert compute.times == times
    cached(path, CONTENTS, OPTIONS, compute)
    assert compute.times == 3


def test_what_results_do_not_depend_on_does_not_matter(path, compute):
    cached(path, CONTENTS, OPTIONS, compute)
    cached(path, CONTENTS | {"optimizer_states": [1], "epoch": 7}, dict(reversed(OPTIONS.items())), compute)
    assert compute.times == 1


def test_results_of_other_code_are_not_taken(path, compute, monkeypatch):
    cached(path, CONTENTS, OPTIONS, compute)
    monkeypatch.setattr(cache, "source_hash", lambda: "abd")
    cached(path, CONTENTS, OPTIONS, compute)
    assert compute.times == 2


def test_the_code_is_all_that_results_depend_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "evaluation" / "cache.py"))
    hashes = []
    for name, text in (
        ("models/iwae.py", "1"),
        ("models/iwae.py", "2"),
        ("models/estimators/ais.py", "2"),
        ("models/networks/deeper/conv.py", "1"),
        ("datamodules/npz.py", "1"),
        ("runtime/collectives.py", "1"),
        ("evaluation/metrics.py", "1"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        hashes.append(source_hash.__wrapped__())
    assert len(set(hashes)) == 7
    (tmp_path / "evaluation" / "tables.py").write_text("how numbers are shown")
    assert source_hash.__wrapped__() == hashes[-1]
    monkeypatch.setattr(torch, "__version__", "99")
    assert source_hash.__wrapped__() != hashes[-1]


def test_of_a_damaged_file_nothing_is_taken_but_what_is_right(path, compute):
    """Every byte changed in two ways, and every length: what is read is right, or nothing."""
    cached(path, CONTENTS, OPTIONS, compute)
    content, taken = path.read_bytes(), 0
    with np.load(path) as file:
        about = str(file["about"])
    assert_right(load_if_current(path, about))
    spoilt = [content[:n] for n in range(len(content))]
    spoilt += [
        content[:n] + bytes([content[n] ^ bits]) + content[n + 1 :] for n in range(len(content)) for bits in (1, 32)
    ]
    for damaged in spoilt:
        path.write_bytes(damaged)
        if (found := load_if_current(path, about)) is not None:
            assert_right(found)
            taken += 1
    assert taken < len(spoilt) / 3  # bits of the time in the archive mean nothing to the arrays


@pytest.mark.parametrize("content", [b"", b"no archive", b"half"])
def test_a_damaged_file_is_replaced(path, compute, content):
    cached(path, CONTENTS, OPTIONS, compute)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == b"half" else content)
    for _ in range(2):
        assert_right(cached(path, CONTENTS, OPTIONS, compute))
    assert compute.times == 2


def test_another_kind_of_file_is_nothing(path, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    assert load_if_current(tmp_path / "a.npy", "") is None
    assert load_if_current(tmp_path, "") is None
    assert load_if_current(tmp_path / "nowhere.npz", "") is None


def test_each_checkpoint_of_a_run_has_files_of_its_own():
    folder = Path("runs/a")
    paths = [
        cache_path(folder / "checkpoints" / name, what)
        for name in ("best.ckpt", "last.ckpt", "epoch=1.5.ckpt")
        for what in ("likelihoods", "ais")
    ]
    assert len(set(paths)) == 6
    assert {path.parent for path in paths} == {folder / "per_image"}
    assert cache_path(folder / "best.ckpt", "ais") == folder / "per_image" / "best_ais.npz"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_no_file(path, error):
    def fail():
        raise error

    with pytest.raises(error):
        cached(path, CONTENTS, OPTIONS, fail)
    assert not path.parent.exists() or not list(path.parent.iterdir())


def test_a_failure_leaves_what_was_there(path, compute):
    def fail():
        raise ValueError

    cached(path, CONTENTS, OPTIONS, compute)
    with pytest.raises(ValueError, match=r"^$"):
        cached(path, CONTENTS, OPTIONS | {"K": 6}, fail)
    cached(path, CONTENTS, OPTIONS, compute)
    assert compute.times == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from evaluation import cache
from test_cache import ARRAYS, CONTENTS, OPTIONS
path, when = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
cache.source_hash = lambda: "abc"
if when == "replacing":
    os.replace = die
cache.cached(Path(path), CONTENTS, OPTIONS, die if when == "computing" else lambda: dict(ARRAYS))
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["computing", "replacing"])
def test_a_process_that_is_killed_leaves_nothing_that_is_taken(path, compute, when):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"}
    done = subprocess.run([sys.executable, "-c", KILLED, path, when], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    assert_right(cached(path, CONTENTS, OPTIONS, compute))
    assert compute.times == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]
