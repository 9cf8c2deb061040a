import gzip
import hashlib
import io
import shutil
import urllib.request

import numpy as np
import pytest
import torch

from datamodules import binary_mnist
from datamodules.binary_mnist import BinaryMNIST
from datamodules.download import DataError

NAMES = tuple(BinaryMNIST.md5)
PUBLISHED = dict(BinaryMNIST.md5)


def bits(name):
    size = {"binarized_mnist_train.amat": 50, "binarized_mnist_valid.amat": 11, "binarized_mnist_test.amat": 12}[name]
    return np.random.default_rng(size).integers(0, 2, (size, 5, 5), np.uint8)


def amat(array):
    return "".join(" ".join(map(str, row)) + "\n" for row in array.reshape(len(array), -1)).encode()


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """The little files of these tests are the published ones."""
    monkeypatch.setattr(BinaryMNIST, "md5", {name: hashlib.md5(amat(bits(name))).hexdigest() for name in NAMES})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "BinaryMNIST"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(amat(bits(name)))
    yield folder
    folder.chmod(0o755)


def ready(folder):
    data = BinaryMNIST(str(folder.parent))
    data.prepare_data()
    data.setup()
    return data


def right(data):
    for split, name in zip((data.train, data.val, data.test), NAMES, strict=True):
        assert split.x.dtype == torch.uint8
        published = bits(name) * 255
        assert not np.array_equal(split.x[:, 0], published)
        assert sorted(map(np.ndarray.tobytes, split.x[:, 0].numpy())) == sorted(map(np.ndarray.tobytes, published))
        assert split.y.dtype == torch.int64
        assert split.y.tolist() == [-1] * len(split.x)
    return True


def no_parsing(monkeypatch):
    def parse(path, content):
        raise AssertionError("it was parsed again")

    monkeypatch.setattr(binary_mnist, "parse_amat", parse)


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_gzipped_files_are_read(folder, packed):
    if packed:
        for name in NAMES:
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    data = ready(folder)
    assert right(data)
    assert data.protocol == "larochelle"
    assert data.num_classes == 0
    assert data.image_shape == (1, 5, 5)
    assert data.labels_hash is None
    assert len(data.label_indices) == 0


def test_batches_are_the_published_pixels(folder):
    data = ready(folder)
    x = torch.cat([x for x, _ in data.test_dataloader()])
    assert x.unique().tolist() == [0, 1]
    assert torch.equal(x, data.images("test")[0])
    seen = torch.cat([x for x, _ in data.train_dataloader()])
    assert torch.equal(seen.sum(0), torch.from_numpy(bits(NAMES[0])).float().sum(0, keepdim=True))


def test_it_has_no_options_of_grayscale_data():
    assert dict(BinaryMNIST("here", batch_size=3).hparams) == {"root": "here", "batch_size": 3}
    for option in ("binarization", "num_labels", "val_size", "seed"):
        with pytest.raises(TypeError, match=option):
            BinaryMNIST(**{option: 1})


def test_the_second_start_reads_the_cache(folder, monkeypatch, capfd):
    ready(folder)
    messages = [f"Wrote {folder / name}.npz, a copy of {name} that loads faster." for name in NAMES]
    assert capfd.readouterr().err.splitlines() == messages
    assert {path.name for path in folder.iterdir()} == {*NAMES, *(f"{name}.npz" for name in NAMES)}
    no_parsing(monkeypatch)
    assert right(ready(folder))
    assert capfd.readouterr().err == ""


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(np.packbits(bits(NAMES[0])).tobytes()) + 5] ^= 1
    path.write_bytes(content)


def other_md5(path):
    with np.load(path) as copy:
        arrays = dict(copy)
    np.savez(path, **{**arrays, "bits": ~arrays["bits"], "md5": "0" * 32})


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        other_md5,
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an npz"),
        lambda path: np.savez(path, other=np.zeros(3)),
    ],
)
def test_a_damaged_cache_file_is_replaced(folder, damage, monkeypatch):
    ready(folder)
    damage(folder / f"{NAMES[0]}.npz")
    assert right(ready(folder))
    no_parsing(monkeypatch)
    assert right(ready(folder))


def test_no_cache_is_written_to_a_read_only_folder(folder):
    folder.chmod(0o555)
    assert right(ready(folder))
    assert {path.name for path in folder.iterdir()} == set(NAMES)


def test_data_are_read_if_the_cache_cannot_be_written(folder):
    for name in NAMES:
        (folder / f"{name}.npz").mkdir()
    assert right(ready(folder))
    assert not list(folder.glob(".cache-*"))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_another_checksum_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2])
    with pytest.raises(DataError, match=f"^{folder / name} does not have the published content"):
        ready(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not hold one square image per line"),
        (b"0 1 0 1", "does not hold one square image per line"),
        (b"0 1 0\n", "does not hold one square image per line"),
        (b"0 1 0 1\n0 1 0\n", "does not hold one square image per line"),
        (b"0 1 2 1\n", "holds pixels other than 0 and 1"),
        (b"0 1 . 1\n", "holds pixels other than 0 and 1"),
    ],
)
def test_files_of_another_format_are_refused(folder, content, message):
    with pytest.raises(
        DataError,
        match=f"^{folder} {message}: replace it by the published file, or move it away to download it again",
    ):
        binary_mnist.parse_amat(folder, content)


def test_missing_files_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def urlopen(url):
        asked.append(url)
        return io.BytesIO(amat(bits(url.split("/")[-1])))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert right(ready(tmp_path / "BinaryMNIST"))
    assert asked == [binary_mnist.ADDRESS + name for name in NAMES]


def test_a_wrong_download_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: io.BytesIO(b"<html>"))
    with pytest.raises(DataError, match=r"the download failed .*does not have the published content"):
        ready(tmp_path / "BinaryMNIST")
    assert list(tmp_path.iterdir()) == []


def test_without_network_the_error_names_files_and_folder(tmp_path):
    folder = tmp_path / "BinaryMNIST"
    with pytest.raises(DataError) as caught:
        ready(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder} lacks files and the download failed (")
    assert "\n" not in message
    assert message.endswith(f"put {', '.join(NAMES)} into {folder}, plain or as .gz.")
    assert list(tmp_path.iterdir()) == []


def test_the_published_files(elbo_data, tmp_path, monkeypatch):
    monkeypatch.setattr(BinaryMNIST, "md5", PUBLISHED)
    folder = tmp_path / "BinaryMNIST"  # the originals' folder is nobody's to write copies into
    folder.mkdir()
    for path in (elbo_data / "BinaryMNIST").glob("*.amat*"):
        shutil.copy(path, folder)
    data = ready(folder)
    assert [split.x.shape for split in (data.train, data.val, data.test)] == [
        (size, 1, 28, 28) for size in (50_000, 10_000, 10_000)
    ]
    assert ((data.train.x == 0) | (data.train.x == 255)).all()
    assert round(data.train_mean().mean().item(), 4) == 0.1306
    # In the published order the first thousand test images are zeros, with 0.170 of their pixels on.
    assert (data.images("test", 1000)[0].mean() - data.images("test")[0].mean()).abs() < 0.004
    no_parsing(monkeypatch)
    assert torch.equal(ready(folder).test.x, data.test.x)
