import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import DATAMODULES, mnist
from datamodules.download import DAMAGED, DataError
from datamodules.mnist import FILES, MNIST, FashionMNIST, parse_idx

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
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in arrays().items():
        (folder / f"{file}{suffix}").write_bytes(pack(idx(array)))
    return folder


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """The little files of these tests are the published ones."""
    import torchvision.datasets

    for kind in (MNIST, FashionMNIST):
        monkeypatch.setattr(kind, "md5", {name: hashlib.md5(idx(a)).hexdigest() for name, a in arrays().items()})
    monkeypatch.setattr(mnist, "SIZES", {"train": 60, "test": 20})
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
        "root": "somewhere",
        "batch_size": 7,
        "binarization": "fixed",
        "num_labels": 10,
        "labels_per_batch": None,
        "val_size": 5000,
        "seed": 3,
        "max_rotation": 0.0,
        "max_shift": 0.0,
        "max_scaling": 0.0,
        "label_seed": None,
    }


@pytest.mark.parametrize("name", NAMES)
def test_without_network_the_error_names_files_and_folder(tmp_path, capfd, name):
    folder = tmp_path / name / "raw"
    with pytest.raises(DataError) as caught:
        ready(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{folder} lacks files and the download failed (")
    assert "Name or service not known" in message
    assert "\n" not in message
    assert message.endswith(f"put {', '.join(FILES)} into {folder}, plain or as .gz.")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_downloads_what_is_missing(tmp_path, monkeypatch, capfd, name):
    from torchvision.datasets import mnist as torchvision_mnist

    def fetch(url, download_root, filename, md5):
        print("Extracting")
        content = idx(arrays()[filename.removesuffix(".gz")])
        Path(download_root, filename.removesuffix(".gz")).write_bytes(content)
        Path(download_root, filename).write_bytes(gzip.compress(content, mtime=0))

    monkeypatch.setattr(torchvision_mnist, "download_and_extract_archive", fetch)
    data = ready(name, tmp_path)
    assert len(data.test.y) == 20
    output = capfd.readouterr()
    assert output.out == output.err == ""
    kept = {f"{file}.gz" for file in FILES} if name == "KMNIST" else set()  # whose checksums are those of .gz files
    assert {path.name for path in data.folder.iterdir()} - {".lock"} == set(FILES) | kept
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_setup_alone_downloads_nothing(tmp_path):
    with pytest.raises(DataError, match=f"^{IMAGES} was not found in {tmp_path}/MNIST/raw: put"):
        DATAMODULES["MNIST"](str(tmp_path)).setup()


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("packed", [False, True])
def test_contents_are_verified_plain_and_gzipped(tmp_path, capfd, name, packed):
    pack = (lambda content: gzip.compress(content, 1, mtime=5)) if packed else bytes  # by somebody else
    folder = write(tmp_path, name, pack, ".gz" if packed else "")
    data = ready(name, tmp_path)
    assert capfd.readouterr().err == ""
    assert len(data.class_names) == 10
    path = folder / (IMAGES + ".gz" * packed)
    content = bytearray(idx(arrays()[IMAGES]))
    content[-1] ^= 1
    path.write_bytes(pack(bytes(content)))
    with pytest.raises(DataError, match=rf"^{path} does not have the published content \(md5 .*move it away"):
        ready(name, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_cannot_be_verified_causes_a_warning(tmp_path, capfd, packed):
    pack = (lambda content: gzip.compress(content, 1, mtime=5)) if packed else bytes
    write(tmp_path, "KMNIST", pack, ".gz" if packed else "")
    ready("KMNIST", tmp_path)
    assert f"warning: the contents of {IMAGES}" in (stderr := capfd.readouterr().err)
    assert "cannot be verified" in stderr
    assert stderr.count("\n") == 1


def test_the_published_gz_file_verifies_the_decompressed_file(tmp_path, capfd):
    write(tmp_path, "KMNIST", lambda content: gzip.compress(content, mtime=0), ".gz")
    folder = write(tmp_path, "KMNIST")
    ready("KMNIST", tmp_path)
    assert capfd.readouterr().err == ""
    content = bytearray((folder / IMAGES).read_bytes())
    content[-1] ^= 1
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{folder / IMAGES} differs from the content of .*: move {IMAGES} away\.$"):
        ready("KMNIST", tmp_path)


@pytest.mark.parametrize(("file", "array", "message"), [
    (LABELS, np.full(60, 3, np.uint8), "does not hold 6 labels of each class 0 to 9"),
    (LABELS, np.repeat(np.arange(12, dtype=np.uint8), 5), "does not hold 6 labels of each class 0 to 9"),
    (IMAGES, np.zeros((60, 27, 28), np.uint8), r"holds an array \(60, 27, 28\), the published one is \(60, 28, 28\)"),
])  # fmt: skip
def test_files_of_another_format_are_refused_without_a_checksum(tmp_path, file, array, message):
    path = write(tmp_path, "KMNIST") / file
    path.write_bytes(idx(array))
    with pytest.raises(DataError, match=f"^{path} {message}"):
        ready("KMNIST", tmp_path)


def test_no_message_advises_to_delete_files():
    assert "delete" not in DAMAGED


def test_another_file_of_the_same_format_is_refused(tmp_path):
    folder = write(tmp_path, "MNIST")
    content = bytearray((folder / IMAGES).read_bytes())
    content[-1] ^= 1
    (folder / IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=f"^{folder / IMAGES} does not have the published content"):
        ready("MNIST", tmp_path)


def test_another_gzipped_file_is_refused(tmp_path):
    folder = write(tmp_path, "KMNIST", gzip.compress, ".gz")
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match="is not an IDX file of bytes in 1 dimensions"):
        ready("KMNIST", tmp_path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"0", lambda raw: raw[:6], lambda raw: b""])
def test_a_file_of_the_wrong_size_is_named(tmp_path, file, damage):
    path = write(tmp_path, "KMNIST") / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        DataError, match=rf"^{path} is .*: replace it by the published file, or move it away to download it again\.$"
    ):
        ready("KMNIST", tmp_path)


def test_an_idx_file_of_another_type_is_refused():
    floats = struct.pack(">4Bi", 0, 0, 13, 1, 1) + bytes(4)
    for content, dims in ((idx(np.zeros((2, 3), np.uint8)), 1), (floats, 1), (b"\x1f\x8b" * 20, 3)):
        with pytest.raises(DataError, match=f"^here is not an IDX file of bytes in {dims} dimensions: "):
            parse_idx(Path("here"), content, dims)


def test_different_numbers_of_images_and_labels_are_refused(tmp_path):
    folder = write(tmp_path, "KMNIST")
    (folder / LABELS).write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(ValueError, match=rf"^{folder / LABELS} holds an array \(59,\), the published one is \(60,\)"):
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
