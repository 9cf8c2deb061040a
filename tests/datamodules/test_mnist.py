import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import DATAMODULES
from datamodules.files import DataError
from datamodules.mnist import FILES, MNIST, parse_idx

NAMES = ["MNIST", "FashionMNIST", "KMNIST"]
IMAGES, LABELS = FILES[:2]


def idx(array):
    return struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays():
    random = np.random.default_rng(0)
    sizes = {"train": 60, "t10k": 20}
    return {
        name: random.integers(0, 256, (sizes[name.split("-")[0]], 28, 28), np.uint8)
        if "images" in name
        else (np.arange(sizes[name.split("-")[0]]) % 10).astype(np.uint8)
        for name in FILES
    }


def write(root, name, pack=lambda content: content, suffix=""):
    folder = Path(root, name, "raw")
    folder.mkdir(parents=True)
    for file, array in arrays().items():
        (folder / f"{file}{suffix}").write_bytes(pack(idx(array)))
    return folder


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """The little files of these tests are the published ones."""
    import torchvision.datasets

    monkeypatch.setattr(MNIST, "md5", {name: hashlib.md5(idx(a)).hexdigest() for name, a in arrays().items()})
    gzipped = [(f"{name}.gz", hashlib.md5(gzip.compress(idx(a), mtime=0)).hexdigest()) for name, a in arrays().items()]
    for name in NAMES:
        monkeypatch.setattr(getattr(torchvision.datasets, name), "resources", gzipped)


def ready(name, root, **options):
    data = DATAMODULES[name](str(root), val_size=10, **options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (lambda content: gzip.compress(content, mtime=0), ".gz")])
def test_plain_and_gzipped_files_are_read(tmp_path, name, pack, suffix):
    write(tmp_path, name, pack, suffix)
    data = ready(name, tmp_path)
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [50, 10, 20]
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    train, test = data.fetch()
    for split, part in ((train, "train"), (test, "t10k")):
        assert np.array_equal(split.x[:, 0], arrays()[f"{part}-images-idx3-ubyte"])
        assert np.array_equal(split.y, arrays()[f"{part}-labels-idx1-ubyte"])


def test_hyper_parameters_are_the_constructors_arguments():
    data = DATAMODULES["KMNIST"]("somewhere", batch_size=7, binarization="fixed", num_labels=10, seed=3)
    assert dict(data.hparams) == {
        "root": "somewhere", "batch_size": 7, "binarization": "fixed", "num_labels": 10,
        "labels_per_batch": None, "val_size": 5000, "seed": 3,
        "max_rotation": 0.0, "max_shift": 0.0, "max_scaling": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_without_network_a_sentence_says_what_to_put_where(tmp_path, capfd, name):
    folder = tmp_path / name / "raw"
    with pytest.raises(DataError) as caught:
        ready(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{folder} lacks files and the download failed (")
    assert "Name or service not known" in message
    assert "\n" not in message
    assert message.endswith(f"put {', '.join(FILES)} into {folder}, as they are or as .gz.")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_downloads_what_is_missing(tmp_path, monkeypatch, capfd, name):
    from torchvision.datasets import mnist

    def fetch(url, download_root, filename, md5):
        print("Extracting")
        Path(download_root, filename.removesuffix(".gz")).write_bytes(idx(arrays()[filename.removesuffix(".gz")]))

    monkeypatch.setattr(mnist, "download_and_extract_archive", fetch)
    data = ready(name, tmp_path)
    assert len(data.test.y) == 20
    assert capfd.readouterr().out == ""
    assert {path.name for path in data.folder.iterdir()} - {".lock"} == set(FILES)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_setup_alone_downloads_nothing(tmp_path):
    with pytest.raises(DataError, match=f"^{IMAGES} was not found in {tmp_path}/MNIST/raw: put"):
        DATAMODULES["MNIST"](str(tmp_path)).setup()


def test_another_file_of_the_right_form_is_refused(tmp_path):
    folder = write(tmp_path, "MNIST")
    content = bytearray((folder / IMAGES).read_bytes())
    content[-1] ^= 1
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=f"^{folder / IMAGES} is not the published file"):
        ready("MNIST", tmp_path)


def test_another_gzipped_file_is_refused(tmp_path):
    folder = write(tmp_path, "KMNIST", gzip.compress, ".gz")
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="is not the published file"):
        ready("KMNIST", tmp_path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"0", lambda raw: raw[:6], lambda raw: b""])
def test_a_file_of_the_wrong_size_is_named(tmp_path, file, damage):
    path = write(tmp_path, "FashionMNIST") / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"^{path} is .*: delete it to have it downloaded again\.$"):
        ready("FashionMNIST", tmp_path)


def test_an_idx_file_of_another_kind_is_refused():
    floats = struct.pack(">4Bi", 0, 0, 13, 1, 1) + bytes(4)
    for content, dims in ((idx(np.zeros((2, 3), np.uint8)), 1), (floats, 1), (b"\x1f\x8b" * 20, 3)):
        with pytest.raises(DataError, match=f"^here is not an IDX file of bytes in {dims} dimensions: "):
            parse_idx(Path("here"), content, dims)


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path):
    folder = write(tmp_path, "KMNIST")
    (folder / LABELS).write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(ValueError, match=rf"^{folder}: there are 60 training images but 59 labels\.$"):
        ready("KMNIST", tmp_path)


def test_the_published_files(elbo_data, monkeypatch):
    monkeypatch.undo()  # the true checksums
    data = DATAMODULES["MNIST"](str(elbo_data), num_labels=100)
    data.prepare_data()
    data.setup()
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    train, test = data.fetch()
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(train.x.sum().item() / train.x.numel() / 255, 4) == 0.1307
    assert data.labels_hash == "b69d9ed33b7e"
    assert torch.equal(data.train.y[data.train.y >= 0].bincount(), torch.full((10,), 10))
