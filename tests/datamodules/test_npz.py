import contextlib
import os

import numpy as np
import pytest
import torch

from datamodules import DATAMODULES
from datamodules.files import DataError

NPZ = DATAMODULES["NPZ"]


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def save(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def ready(path, **options):
    data = NPZ(str(path), **options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (4, 5, 6)])
def test_shapes_and_layouts(tmp_path, shape):
    x = pixels(100, *shape)
    layouts = [x, x.transpose(0, 2, 3, 1)] + ([x[:, 0]] if shape[0] == 1 else [])
    for layout in layouts:
        data = ready(save(tmp_path, x=layout, x_test=layout[:7]), binarization="threshold")
        assert data.image_shape == shape
        assert data.num_classes == 0
        assert np.array_equal(data.test.x, (x[:7] >= 128) * 255)
        batch, y = next(iter(data.train_dataloader()))
        assert batch.shape[1:] == shape
        assert batch.is_contiguous()
        assert set(y.tolist()) == {-1}


def test_channels_second_is_meant_where_both_are_possible(tmp_path):
    assert ready(save(tmp_path, x=pixels(50, 3, 9, 4))).image_shape == (3, 9, 4)


def test_a_fixed_tenth_is_put_aside_for_the_test(tmp_path):
    x, y = pixels(100, 6, 6), np.arange(100)
    path = save(tmp_path, x=x, y=y)
    one, other = ready(path), ready(path, seed=1)
    assert [len(split.y) for split in (one.train, one.val, one.test)] == [81, 9, 10]
    assert torch.equal(one.test.y, other.test.y)
    assert not torch.equal(one.val.y, other.val.y)
    assert sorted(torch.cat([one.train.y, one.val.y, one.test.y]).tolist()) == list(range(100))
    train, test = one.fetch()
    assert np.array_equal(train.x[:, 0], x[train.y])
    assert np.array_equal(test.x[:, 0], x[test.y])
    assert test.y.tolist() == [25, 71, 78, 32, 36, 33, 59, 29, 93, 17]
    assert len(ready(path, val_size=30).val.y) == 30


def test_own_test_arrays_and_unknown_labels(tmp_path):
    y = np.array([0, 1, 2, -1] * 10, np.int8)
    data = ready(save(tmp_path, x=pixels(40, 6, 6), y=y, x_test=pixels(5, 6, 6), y_test=np.arange(5, dtype=np.uint16)))
    assert data.num_classes == 5
    assert data.test.y.tolist() == [0, 1, 2, 3, 4]
    assert len(data.train.y) == 36
    assert (data.train.y == -1).any()
    assert len(data.label_indices) == (data.train.y >= 0).sum()


def test_hyper_parameters_are_the_constructors_arguments(tmp_path):
    assert dict(NPZ("mine.npz", val_size=3, seed=2).hparams) == {
        "root": "mine.npz", "batch_size": 100, "binarization": "dynamic", "num_labels": None,
        "labels_per_batch": None, "val_size": 3, "seed": 2, "max_rotation": 0.0, "max_shift": 0.0, "max_scaling": 0.0,
    }  # fmt: skip


GOOD = {"x": pixels(10, 6, 6), "y": np.arange(10), "x_test": pixels(4, 6, 6), "y_test": np.arange(4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, r" has no array named x: name the images x when you save them\."),
        ({"x_test": None}, r" has y_test but no x_test: add x_test or leave y_test out\."),
        ({"x": pixels(10, 6, 6) / 255}, r": x must be uint8 \(N, H, W\), .* with C one of 1, 3, 4, not float64 .*\."),
        ({"x": pixels(10, 36)}, r": x must be uint8 .*, not uint8 \(10, 36\)\."),
        ({"x": pixels(10, 2, 6, 6)}, r": x must be uint8 .*, not uint8 \(10, 2, 6, 6\)\."),
        ({"x_test": pixels(4, 6, 6).astype(int)}, r": x_test must be uint8 .*, not int64 \(4, 6, 6\)\."),
        ({"y": np.arange(9)}, r": y must be 10 whole numbers, not int64 \(9,\)\."),
        ({"y": np.arange(10) / 2}, r": y must be 10 whole numbers, not float64 \(10,\)\."),
        ({"y_test": np.eye(4, dtype=int)}, r": y_test must be 4 whole numbers, not int64 \(4, 4\)\."),
        ({"y": np.arange(10) - 3}, r": training labels must be 0, 1, ... or -1 for unknown, not -3\."),
        ({"y_test": np.arange(4) - 2}, r": test labels must be 0, 1, ... or -1 for unknown, not -2\."),
        (
            {"x_test": pixels(4, 6, 7)},
            r": training and test images must have one shape, not \(1, 6, 6\) and \(1, 6, 7\)\.",
        ),
        ({"x": np.array([None] * 10)}, r" is not a whole \.npz file of plain arrays; numpy\.savez makes one\."),
        (dict.fromkeys(GOOD) | {"x": pixels(2, 6, 6)}, r" must hold 3 images or more \(to train, .*\), not 2\."),
    ],
)
def test_unfit_arrays_are_refused_by_name(tmp_path, changes, message):
    path = save(tmp_path, **{name: array for name, array in (GOOD | changes).items() if array is not None})
    with pytest.raises(ValueError, match=f"^{path}{message}$"):
        ready(path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["x", "y", "x_test", "y_test"])
def test_pickled_objects_are_refused_and_not_executed(tmp_path, name):
    mark = tmp_path / "executed"
    path = save(tmp_path, **GOOD | {name: np.array([Bomb(mark)] * 10, dtype=object)})
    with pytest.raises(DataError, match=rf"^{path} is not a whole \.npz file of plain arrays"):
        ready(path)
    assert not mark.exists()
    with contextlib.suppress(FileExistsError), np.load(path, allow_pickle=True) as arrays:  # the control: it goes off
        arrays[name]
    assert mark.exists()


def write_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def cut(path):
    np.savez(path, x=pixels(50, 9, 9))
    path.write_bytes(path.read_bytes()[:-50])


def flip(path):
    np.savez(path, x=pixels(50, 9, 9))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [cut, flip, write_npy, lambda path: path.write_text("hello"), lambda path: path.write_bytes(b"")]
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "mine.npz"
    damage(path)
    with pytest.raises(
        DataError, match=rf"^{path} is not a whole \.npz file of plain arrays; numpy\.savez makes one\.$"
    ):
        ready(path)


@pytest.mark.parametrize("root", ["nothing.npz", "."])
def test_a_missing_file_is_named(tmp_path, root):
    path = tmp_path / root
    with pytest.raises(
        DataError, match=rf"^{path} was not found: root must be the \.npz file that holds your images\.$"
    ):
        ready(path)
