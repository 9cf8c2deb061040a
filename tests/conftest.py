"""What all tests share: slow and GPU tests, real data, and one thread, which small networks are fastest on."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

os.environ.pop("COLUMNS", None)  # of the terminal that the tests run in: tables would have its width
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, and of runs
torch.set_flush_denormal(True)
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        # Long files first: started last, one would keep one worker of pytest-xdist busy alone. Long are those with most
        # slow tests, and then those with most tests.
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (-slow[item.path], -tests[item.path], str(item.path)))
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: add --slow to run it"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with the real MNIST and BinaryMNIST files: the environment variable ELBO_DATA."""
    if "ELBO_DATA" not in os.environ:
        pytest.skip("needs the real MNIST files: set ELBO_DATA to the folder that holds MNIST/raw and BinaryMNIST")
    return Path(os.environ["ELBO_DATA"])
