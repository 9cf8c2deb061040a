"""Two processes that need the same files at the same time, and a local server that stands for the mirror."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import omniglot_files
import pytest

from datamodules.binary_mnist import BinaryMNIST
from datamodules.mnist import FILES
from datamodules.omniglot import FILE

# Both find that the files are missing before either is given any; prints what the data are
PROCESS = """
import hashlib, json, os, sys
from pathlib import Path
import torchvision.datasets
from torchvision.datasets import utils
from datamodules import DATAMODULES, binary_mnist, download, omniglot
name, address, packed, plain = json.loads(sys.argv[1])
utils.USER_AGENT = str(os.getpid())
if name == "BinaryMNIST":
    binary_mnist.ADDRESS = address
    binary_mnist.BinaryMNIST.md5 = plain
elif name == "OMNIGLOT":
    omniglot.ADDRESS, (omniglot.OMNIGLOT.md5,) = address + omniglot.FILE, plain.values()
    omniglot.ARRAYS = {"data": (60, "target"), "testdata": (20, "testtarget")}
elif name == "Omniglot28":
    torchvision.datasets.Omniglot.download_url_prefix = address.rstrip("/")
    torchvision.datasets.Omniglot.zips_md5 = {file.removesuffix(".zip"): md5 for file, md5 in plain.items()}
else:
    published = getattr(torchvision.datasets, name)
    published.mirrors, published.resources = [address], list(packed.items())
    DATAMODULES[name].md5 = plain
missing_files = download.missing_files
def looked(*args):
    names = missing_files(*args)
    Path(f"looked-{os.getpid()}").touch()
    return names
download.missing_files = looked
data = DATAMODULES[name]("data", **({} if name == "BinaryMNIST" else {"val_size": 10}))
data.prepare_data()
data.setup()
print(hashlib.sha256(data.train.x.numpy().tobytes() + data.test.x.numpy().tobytes()).hexdigest())
"""


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def published(name):
    """Little files as a mirror has them, and unpacked."""
    if name in ("OMNIGLOT", "Omniglot28"):
        plain = {FILE: omniglot_files.chardata()} if name == "OMNIGLOT" else omniglot_files.archives()
        return plain, plain
    random = np.random.default_rng(0)
    if name == "BinaryMNIST":
        plain = {
            file: "".join(" ".join(row) + "\n" for row in random.integers(0, 2, (30, 16)).astype(str)).encode()
            for file in BinaryMNIST.md5
        }
        return plain, plain
    arrays = [
        random.integers(0, 10 if "labels" in file else 256, (60,) if "labels" in file else (60, 6, 6), np.uint8)
        for file in FILES
    ]
    plain = {file: idx(array) for file, array in zip(FILES, arrays, strict=True)}
    return {f"{file}.gz": gzip.compress(content) for file, content in plain.items()}, plain


@pytest.fixture
def mirror(tmp_path):
    """A server of files that it is given, which notes every request; the first waits until all processes look."""
    servers = []

    def start(contents, processes):
        class Mirror(BaseHTTPRequestHandler):
            def do_GET(self):
                end = time.monotonic() + 120
                while len(list(tmp_path.glob("looked-*"))) < processes and time.monotonic() < end:
                    time.sleep(0.01)
                name = self.path.rpartition("/")[2]
                requests.append((name, self.headers["User-Agent"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(contents[name])))
                self.end_headers()
                self.wfile.write(contents[name])

            def log_message(self, *message):
                pass

        requests = []
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Mirror))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetched(tmp_path, mirror, name, processes):
    """What the processes print, and the requests of all."""
    packed, plain = published(name)
    address, requests = mirror(packed, processes)
    sums = [{file: hashlib.md5(content).hexdigest() for file, content in files.items()} for files in (packed, plain)]
    command = [sys.executable, "-c", PROCESS, json.dumps([name, address, *sums])]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * processes, outputs
    return [out.strip() for out, _ in outputs], requests


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MNIST", "KMNIST", "BinaryMNIST", "OMNIGLOT", "Omniglot28"])
def test_two_processes_download_each_file_once(tmp_path, mirror, name):
    data, requests = fetched(tmp_path, mirror, name, processes=2)
    assert len(data) == 2
    assert data[0] == data[1] != ""
    # torchvision asks for each file twice: where it is, and for its content
    times = 1 if name in ("BinaryMNIST", "OMNIGLOT") else 2
    packed, plain = published(name)
    assert Counter(file for file, _ in requests) == dict.fromkeys(packed, times)
    assert len({process for _, process in requests}) == 1
    folder = next((tmp_path / "data").glob("*/raw" if name in ("MNIST", "KMNIST") else "*"))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in plain} == plain
    assert not [path for path in folder.iterdir() if path.name.startswith((".download-", ".cache-"))]
