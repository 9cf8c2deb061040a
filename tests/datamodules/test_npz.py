import contextlib
import io
import os
import zipfile

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only

from datamodules import DATAMODULES, npz
from datamodules.download import DataError

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


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (4, 5, 6), (2, 8, 8), (5, 9, 7), (12, 16, 16)]
)
def test_shapes_and_layouts(tmp_path, shape):
    x = pixels(100, *shape)
    layouts = [x, x.transpose(0, 2, 3, 1)] + ([x[:, 0]] if shape[0] == 1 else [])
    for layout in layouts:
        data = ready(save(tmp_path, x=layout, x_test=layout[:7]), binarization="threshold")
        assert data.image_shape == shape
        assert data.num_classes == 0
        assert data.class_names is None
        assert np.array_equal(data.test.x, (x[:7] >= 128) * 255)
        batch, y = next(iter(data.train_dataloader()))
        assert batch.shape[1:] == shape
        assert batch.is_contiguous()
        assert set(y.tolist()) == {-1}


@pytest.mark.parametrize("shape", [(3, 9, 4), (1, 5, 3), (2, 9, 2), (5, 5, 5)])
def test_channels_first_is_preferred_if_ambiguous(tmp_path, shape):
    assert ready(save(tmp_path, x=pixels(50, *shape))).image_shape == shape


@pytest.mark.parametrize(
    ("shape", "remark"),
    [
        ((3, 9, 4), "3 channels and 9 x 4"),
        ((4, 32, 4), "4 channels and 32 x 4"),
        ((1, 7, 1), "1 channel and 7 x 1"),
        ((2, 6, 7), "2 channels and 6 x 7"),
        ((1, 1, 1), ""),
        ((3, 9, 9), ""),
        ((9, 9, 3), ""),
        ((28, 28, 1), ""),
        ((1, 28, 28), ""),
    ],
)
def test_ambiguous_axes_are_reported(tmp_path, capfd, shape, remark):
    for x in (pixels(50, *shape), pixels(50, *shape) / 255):
        np.savez(path := tmp_path / "mine.npz", x=x)
        ready(path)
        remarks = [line for line in capfd.readouterr().err.splitlines() if " images of " in line]
        assert remarks == ([f"x in {path} is read as images of {remark} pixels."] if remark else [])


def test_an_unusual_number_of_channels_is_reported(tmp_path, capfd):
    ready(path := save(tmp_path, x=pixels(50, 2, 6, 7)))
    assert capfd.readouterr().err == f"x in {path} is read as images of 2 channels and 6 x 7 pixels.\n"


def test_a_warning_says_that_colours_are_binarized(tmp_path, capfd):
    colours, masks = pixels(50, 6, 7, 3), pixels(50, 6, 7, 3) // 128 * 255
    path = save(tmp_path, x=colours)
    for binarization in ("dynamic", "fixed", "threshold"):
        ready(path, binarization=binarization)
        assert capfd.readouterr().err == (
            f"warning: the colours of {path} are binarized, each channel to 0 or 1. To keep them, set "
            "--model.likelihood discretized_logistic or, for a model without this option, --data.binarization grey.\n"
        )
    for binarization in ("grey", "levels"):
        ready(path, binarization=binarization)
    for x in (masks, colours[..., :1]):
        ready(save(tmp_path, x=x))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "grey"])
def test_memory_layout_does_not_matter(tmp_path, binarization):
    x = pixels(60, 6, 7)
    arrays = {"x": x, "x_test": x[:20]}
    plain = ready(save(tmp_path, **arrays), binarization=binarization)
    other = ready(save(tmp_path, **{k: np.asfortranarray(v) for k, v in arrays.items()}), binarization=binarization)
    for split in ("train", "val", "test"):
        assert torch.equal(plain.images(split)[0], other.images(split)[0])
    batches = [torch.cat([x for x, _ in data.train_dataloader()]) for data in (plain, other)]
    assert torch.equal(*batches)
    assert plain.images_hash == other.images_hash


def test_the_images_hash_depends_on_content_only(tmp_path):
    x = pixels(60, 6, 7)
    hashes = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        hashes.append(ready(save(tmp_path / folder, x=x if folder != "c" else 255 - x)).images_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_fixed_tenth_of_the_images_is_the_test_set(tmp_path):
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


def test_user_test_arrays_and_unlabelled_images(tmp_path):
    y = np.array([0, 1, 2, -1] * 10, np.int8)
    data = ready(save(tmp_path, x=pixels(40, 6, 6), y=y, x_test=pixels(5, 6, 6), y_test=np.arange(5, dtype=np.uint16)))
    assert data.num_classes == 5
    assert data.test.y.tolist() == [0, 1, 2, 3, 4]
    assert len(data.train.y) == 36
    assert (data.train.y == -1).any()
    assert len(data.label_indices) == (data.train.y >= 0).sum()


NAMES = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "scikit-learn": ("X_train", "y_train", "X_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "no test set": ("X", "y"),
    "images": ("images", "labels"),
}


@pytest.mark.parametrize("program", NAMES)
def test_names_of_other_programs(tmp_path, capfd, program):
    x, y = pixels(60, 28, 28), np.arange(60) % 3
    values = [x, y[:, None], x[:9], y[:9, None]]  # labels of MedMNIST are (N, 1)
    with_test = len(NAMES[program]) == 4
    np.savez(tmp_path / "expected.npz", x=x, y=y, **({"x_test": x[:9], "y_test": y[:9]} if with_test else {}))
    expected = ready(tmp_path / "expected.npz")
    path = save(tmp_path, **dict(zip(NAMES[program], values, strict=False)))
    data = ready(path)
    assert data.images_hash == expected.images_hash
    assert data.fetch()[0].y.tolist() == expected.fetch()[0].y.tolist()
    assert data.test.y.tolist() == expected.test.y.tolist()
    pairs = zip(NAMES[program], ("x", "y", "x_test", "y_test"), strict=False)
    renamed = ", ".join(f"{name} is {array}" for name, array in pairs if name != array)
    assert capfd.readouterr().err == f"Arrays of {path}: {renamed}.\n"


def test_x_comes_before_other_names_and_takes_its_own_labels_only(tmp_path, capfd):
    x = pixels(60, 6, 6)
    data = ready(save(tmp_path, x=x, images=255 - x, labels=np.arange(60) % 2))
    assert (data.fetch()[0].x.numpy().reshape(-1, 1, 36) == x.reshape(1, -1, 36)).all(-1).any(1).all()
    assert data.num_classes == 0
    assert "read without labels. Not used: images, labels. Labels of x must be named y." in capfd.readouterr().err


def test_a_single_array_needs_no_name(tmp_path):
    x = pixels(60, 6, 6)
    np.savez(tmp_path / "unnamed.npz", x)
    assert ready(tmp_path / "unnamed.npz").images_hash == ready(save(tmp_path, x=x)).images_hash
    np.savez(tmp_path / "unnamed.npz", x, np.arange(60))
    with pytest.raises(DataError, match=r"has no array named x but arr_0, arr_1: name the images x when you save them"):
        ready(tmp_path / "unnamed.npz")


def test_validation_images_that_are_not_used_cause_a_warning(tmp_path, capfd):
    x = pixels(60, 6, 6)
    path = save(tmp_path, train_images=x, val_images=x[:9])
    ready(path)
    assert capfd.readouterr().err.splitlines() == [
        f"Arrays of {path}: train_images is x.",
        f"warning: val_images in {path} is not used: the validation images are taken from the training images.",
    ]


def test_hyper_parameters_are_the_constructors_arguments(tmp_path):
    assert dict(NPZ("mine.npz", val_size=3, seed=2).hparams) == {
        "root": "mine.npz",
        "batch_size": 100,
        "binarization": "dynamic",
        "num_labels": None,
        "labels_per_batch": None,
        "val_size": 3,
        "seed": 2,
        "max_rotation": 0.0,
        "max_shift": 0.0,
        "max_scaling": 0.0,
        "label_seed": None,
    }


GOOD = {"x": pixels(10, 6, 6), "y": np.arange(10), "x_test": pixels(4, 6, 6), "y_test": np.arange(4)}
DARK = pixels(10, 6, 6) // 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, r" has no array named x but y, x_test, y_test: name the images x when you save them\."),
        ({"x_test": None}, r" has y_test but no x_test: add x_test or leave y_test out\."),
        ({"x": pixels(10, 36)}, r": x must hold images, \(N, H, W\), .*, not an array \(10, 36\)\."),
        ({"x": pixels(10, 1, 1, 6, 6)}, r": x must hold images, .*, not an array \(10, 1, 1, 6, 6\)\."),
        ({"x": pixels(10, 0, 6, 6)}, r": x must hold images, .*, not an array \(10, 0, 6, 6\)\."),
        ({"x_test": pixels(0, 6, 6)}, r": x_test must hold images, .*, not an array \(0, 6, 6\)\."),
        ({"y": np.arange(9)}, r": y must be 10 labels, one per image, or one-hot rows, not an array \(9,\)\."),
        ({"y": np.arange(11)}, r": y must be 10 labels, one per image, or one-hot rows, not an array \(11,\)\."),
        ({"y": np.eye(9)}, r": y must be 10 labels, one per image, or one-hot rows, not an array \(9, 9\)\."),
        ({"y": np.eye(10).astype(str)}, r": y must be 10 labels, .*, not an array \(10, 10\)\."),
        ({"y": np.arange(10) / 2}, r": y must be 0, 1, ... or -1 or NaN for unknown, not 0\.5\."),
        ({"y": np.arange(10) - 2.0}, r": y must be 0, 1, ... or -1 or NaN for unknown, not -2\."),
        ({"y": np.full(10, np.inf)}, r": y must be 0, 1, ... or -1 or NaN for unknown, not inf\."),
        ({"y": np.full(10, 2.0**60)}, r": y must be 0, 1, ... or -1 or NaN for unknown, not 1\.15292e\+18\."),
        ({"y": np.array(["2020-01-01"] * 10, "M8")}, r": y must be numbers or text, not datetime64.*\."),
        ({"y": np.ones(10, complex)}, r": y must be numbers or text, not complex128\."),
        ({"y": np.eye(10) + np.eye(10, k=1)}, r": the rows of y \(10, 10\) must be one-hot, .*: save .* y\.argmax.*\."),
        ({"y": np.eye(10) * 0.9 + 0.01}, r": the rows of y \(10, 10\) must be one-hot, .*\."),
        ({"y": np.eye(10) * 2 - 1}, r": the rows of y \(10, 10\) must be one-hot, .*\."),
        ({"y": np.full((10, 2), np.nan)}, r": the rows of y \(10, 2\) must be one-hot, .*\."),
        ({"y_test": np.eye(4, 10)}, r": y \(10,\) and y_test \(4, 10\) must both be one label per image, or both .*\."),
        (
            {"y": np.eye(10), "y_test": np.eye(4)},
            r": y \(10, 10\) and y_test \(4, 4\) must both .* one-hot with the same columns\.",
        ),
        ({"y": np.arange(10) - 3}, r": y must be 0, 1, ... or -1 for unknown, not -3\."),
        ({"y_test": np.arange(4) - 2}, r": y_test must be 0, 1, ... or -1 for unknown, not -2\."),
        ({"y": np.array(list("abcdefghij"))}, r": y and y_test must both be integers or both be text\."),
        ({"y": np.array([b"\xff"] * 10)}, r": the text in y is not UTF-8: save it as .*\."),
        (
            {"x_test": pixels(4, 6, 7)},
            r": training and test images must have the same shape, not \(1, 6, 6\) and \(1, 6, 7\)\.",
        ),
        ({"x": np.array([None] * 10)}, r": x is an array of Python objects: save it as an array of numbers, .*\."),
        (dict.fromkeys(GOOD) | {"x": pixels(2, 6, 6)}, r" must hold at least 3 images \(to train, .*\), not 2\."),
        (
            {"x": pixels(1, 6, 6), "y": np.arange(1)},
            r": x must hold at least 2 images \(to train and validate\), not 1\.",
        ),
    ],
)
def test_invalid_arrays_are_refused_by_name(tmp_path, changes, message):
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
    with pytest.raises(DataError, match=rf"^{path}: {name} is an array of Python objects"):
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


def archive_of(name, content, **options):
    """Return a function that writes a zip file with one member."""

    def write(path):
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr(name, content)

    return write


def header(shape):
    """Return the beginning of an array in NumPy's format."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def damaged_lzma(path):
    content = io.BytesIO()
    np.save(content, pixels(50, 9, 9))
    archive_of("x.npy", content.getvalue(), compression=zipfile.ZIP_LZMA)(path)
    stored = bytearray(path.read_bytes())
    stored[60:90] = b"\xff" * 30
    path.write_bytes(stored)


def encrypted(path):
    np.savez(path, x=pixels(50, 9, 9))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        damaged_lzma,
        encrypted,
        archive_of("x.npy", b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((("),
        archive_of("x.npy", header("(9999999999999999999999999, 28, 28)")),
        archive_of("x.npy", header("(-5, 28, 28)")),
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_files_of_another_format_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "mine.npz"
    damage(path)
    with pytest.raises(
        DataError, match=rf"^{path} is not a complete \.npz file of plain arrays; numpy\.savez makes one\.$"
    ):
        ready(path)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    archive_of("x", b"hello")(path)
    with pytest.raises(DataError, match=rf"^{path}: x is not an array: save it with numpy\.savez"):
        ready(path)


def test_an_array_that_is_larger_than_the_memory_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    archive_of("x.npy", header("(1000000000000, 28, 28)"))(path)
    with pytest.raises(DataError, match=rf"^{path}: x does not fit into memory, or is damaged\.$"):
        ready(path)


def test_an_npy_file_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    write_npy(path)
    with pytest.raises(
        DataError, match=rf"^{path} is a \.npy file of one array, but NPZ reads an \.npz file: save it with"
    ):
        ready(path)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "nothing.npz"
    with pytest.raises(
        DataError, match=rf"^{path} was not found: root must be the \.npz file that holds your images\.$"
    ):
        ready(path)


def test_a_name_that_is_too_long_for_the_file_system(tmp_path):
    with pytest.raises(DataError, match=r"(cannot be read: File name too long\.|was not found: .*)$"):
        ready(tmp_path / ("x" * 1000))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"^{tmp_path} is a folder, but NPZ reads one \.npz file: save it with "):
        ready(tmp_path)


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, **GOOD)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(npz, "open", refuse, raising=False)
    with pytest.raises(DataError, match=rf"^{path} cannot be read: Permission denied\.$"):
        ready(path)


# Labels


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        ([0, 1, 2, 1, 0, -1], [0, 1, 2, 1, 0, -1], ["0", "1", "2"]),
        ([1, 2, 3, 2, 1, -1], [0, 1, 2, 1, 0, -1], ["1", "2", "3"]),
        ([7, 10**9, 7, 0, 7, 0], [1, 2, 1, 0, 1, 0], ["0", "7", "1000000000"]),
        (np.array([1, 2, 1, 2, 1, 2], ">i8"), [0, 1, 0, 1, 0, 1], ["1", "2"]),
        (np.array([0, 2**64 - 1] * 3, np.uint64), [0, 1] * 3, ["0", "18446744073709551615"]),
        (np.array([True, False] * 3), [1, 0] * 3, ["0", "1"]),
        (["shoe", "bag", "", "shoe", "bag", "bag"], [1, 0, -1, 1, 0, 0], ["bag", "shoe"]),
        ([b"shoe", b"bag", b"", b"shoe", b"bag", b"bag"], [1, 0, -1, 1, 0, 0], ["bag", "shoe"]),
        (["10", "9", "2", "2", "9", "10"], [2, 1, 0, 0, 1, 2], ["2", "9", "10"]),
    ],
)
def test_labels_are_mapped_to_classes(tmp_path, labels, classes, names):
    x, y = pixels(60, 6, 6), np.tile(np.array(labels), 10)
    data = ready(save(tmp_path, x=x, y=y, x_test=x[:6], y_test=y[:6]))
    assert data.fetch()[0].y.tolist() == classes * 10
    assert data.test.y.tolist() == classes
    assert data.class_names == names
    assert data.num_classes == len(names)
    assert data.state_dict() == {"class_names": names, "images_hash": data.images_hash}


def test_only_unknown_labels_give_no_classes(tmp_path):
    data = ready(save(tmp_path, x=pixels(60, 6, 6), y=np.full(60, -1)))
    assert data.num_classes == 0
    assert data.class_names is None
    assert data.classes_without_training_images == []


def said_of(capfd, tmp_path, **arrays):
    """What is printed about a file, and its path as {path}."""
    path = save(tmp_path, **arrays)
    data = ready(path)
    data.transformed_test_images(data.limits)  # reads the file again, and says nothing again
    return data, capfd.readouterr().err.replace(str(path), "{path}").splitlines()


X60 = pixels(60, 6, 6)


@pytest.mark.parametrize(
    ("arrays", "remarks"),
    [
        ({"y": np.arange(60) % 10}, []),
        ({"y": np.arange(60) % 10 + 1}, ["Labels in {path}: 10 classes, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."]),
        (
            {"y": np.arange(60) % 3, "x_test": X60[:3], "y_test": np.array([0, 3, 4])},
            ["warning: classes 3, 4 occur only in the test images of {path}."],
        ),
        (
            {"y": np.array([0] * 59 + [1]), "x_test": X60[:3]},
            ["warning: class 1 has a single training image in {path}."],
        ),
        (
            {"y": np.arange(60)},
            ["warning: the labels of {path} have 60 distinct values for 49 training images: are they classes?"],
        ),
        (
            {"y": np.where(np.arange(60) % 2, 1, -1)},
            [
                "y in {path}: 30 of 60 images are unlabelled (-1).",
                "Labels in {path}: 1 class, 1.",
                "warning: labels in {path} are -1 and 1, but -1 means unlabelled: save 0 and 1 for two classes.",
            ],
        ),
        (
            {"x": np.full((60, 6, 6), 200, np.uint8)},
            ["warning: all training images of {path} are the same: there is nothing to learn."],
        ),
    ],
)
def test_messages_about_the_data(tmp_path, capfd, arrays, remarks):
    assert said_of(capfd, tmp_path, **{"x": X60} | arrays)[1] == remarks


def test_only_rank_0_prints_messages(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert said_of(capfd, tmp_path, x=X60 // 255)[1] == []


def test_classes_without_training_images(tmp_path):
    y = np.where(np.arange(60) == 59, 5, np.arange(60) % 2)
    data = ready(save(tmp_path, x=X60, y=y, x_test=X60[:3], y_test=np.array([0, 9, 9])))
    assert data.class_names == ["0", "1", "5", "9"]
    assert set(data.classes_without_training_images) == {"9"} | ({"5"} if not (data.train.y == 2).any() else set())


# Values of pixels


def test_masks_become_black_and_white(tmp_path, capfd):
    mask = pixels(60, 6, 6) // 128
    data, messages = said_of(capfd, tmp_path, x=mask, x_test=mask[:5])
    assert messages == ["The images in {path} hold only 0 and 1: read as masks, 0 and 255."]
    assert np.array_equal(data.fetch()[0].x[:, 0], mask * 255)
    assert np.array_equal(data.test.x[:, 0], mask[:5] * 255)


@pytest.mark.parametrize("order", ["C", "F"])
def test_booleans_become_black_and_white(tmp_path, capfd, order):
    mask = pixels(60, 6, 6) > 100
    data, messages = said_of(capfd, tmp_path, x=np.array(mask, order=order))
    assert messages == []
    assert np.array_equal(torch.cat([split.x[:, 0] for split in data.fetch()]).sum(), mask.sum() * 255)


def test_dark_images_cause_a_warning(tmp_path, capfd):
    x = pixels(60, 6, 6) // 2
    assert said_of(capfd, tmp_path, x=x)[1] == [
        "warning: the largest value of x in {path} is 127 of 255: if it is meant to be white, multiply x by 2.008 and "
        "round."
    ]


def test_nearly_white_images_cause_a_warning(tmp_path, capfd):
    x = 255 - pixels(60, 6, 6) // 128  # an inverted mask of 0 and 1
    assert said_of(capfd, tmp_path, x=x)[1] == [
        "warning: the smallest value of x in {path} is 254 of 255, so that all images are nearly white: if 254 is "
        "meant to be black, map 254..255 to 0..255."
    ]


@pytest.mark.parametrize("x", [pixels(60, 6, 6), np.zeros((60, 6, 6), np.uint8), np.full((60, 6, 6), 255, np.uint8)])
def test_other_images_cause_no_warning(tmp_path, capfd, x):
    assert not [remark for remark in said_of(capfd, tmp_path, x=x, x_test=X60)[1] if "est value" in remark]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": DARK}, r": the largest value of x is 15, .* If 15 is white, save numpy\.round\(x \* \(255 / 15\)\).*"),
        ({"x": pixels(10, 6, 6) // 4}, r": the largest value of x is 63, .*"),
        ({"x": pixels(10, 6, 6), "x_test": DARK}, r": the largest value of x_test is 15, while x reaches 255, .*"),
        ({"x": DARK // 15, "x_test": pixels(4, 6, 6)}, r": the largest value of x is 1, while x_test .* \* 255\).*"),
        ({"x": DARK // 15, "x_test": DARK}, r": the largest value of x is 1, while x_test reaches 15, .*"),
        (
            {"x": X60 / 127.5 - 1},
            r": the images hold values from -1 to 1, .* negative: if -1 is .*, save \(x \+ 1\) / 2\.",
        ),
        ({"x": X60 / 130 - 1}, r": the images hold values from -1 to 0\.961538, .*: if -1 is black and 1 is white, .*"),
        ({"x": X60 / 255 - 0.5}, r": .* from -0\.5 to 0\.5, .* if -0\.5 is black .*, save \(x \+ 0\.5\) / 1\."),
        ({"x": X60 / 255 - 3}, r": the images hold values from -3 to -2, .*, save \(x \+ 3\) / 1\."),
        ({"x": X60.astype(int) - 128}, r": .* from -128 to 127, .*, save \(x\.astype\(float\) \+ 128\) / 255\."),
        ({"x": X60 / 255, "x_test": X60 / 255 - 0.5}, r": the images hold values from -0\.5 to 1, .* negative: .*"),
        ({"x": np.where(X60, X60, np.nan)}, r": x holds NaN or infinite values; replace them first\."),
        ({"x": np.where(X60, X60, np.inf)}, r": x holds NaN or infinite values; replace them first\."),
        ({"x": X60 / 255, "x_test": np.full((2, 6, 6), -np.inf)}, r": x_test holds NaN or infinite values; .*"),
        ({"x": X60.astype(str)}, r": x must be numbers, not <U3\."),
        ({"x": X60.astype(complex)}, r": x must be numbers, not complex128\."),
        ({"x": DARK.astype(int)}, r": the largest value of x is 15, .* If 15 is white, .*"),
        ({"x": DARK / 255}, r": the largest value of x is 0\.0588235, .*round\(x \* \(255 / 0\.0588235.*"),
        ({"x": DARK.astype("f4")}, r": the largest value of x is 15, .* If 15 is white, .*"),
        ({"x": X60 / 255 * 1.5}, r": the largest value of x is 1\.5, .* If 1\.5 is white, .*"),
        ({"x": X60 * 257.0}, r": the largest value of x is 65535, .* in 16-bit integers, 65535\. If 65535 .*"),
        ({"x": X60.astype(np.uint16) * 16}, r": the largest value of x is 4080, .* in 16-bit .* If 4095 is white, .*"),
        ({"x": X60.astype(int) * 4}, r": the largest value of x is 1020, .* If 1023 is white, .*"),
        ({"x": X60.astype(np.int16) * 128}, r": the largest value of x is 32640, .* If 32767 is white, .*"),
        ({"x": X60.astype(int) * 258}, r": the largest value of x is 65790, .* If 65790 is white, .*"),
        ({"x": X60.astype("f4") * 257}, r": the largest value of x is 65535, .* If 65535 is white, .*"),
        ({"x": X60, "x_test": X60 / 255}, r": the largest value of x_test is 1, while x reaches 255, .* \* 255\).*"),
        ({"x": X60 / 255, "x_test": X60}, r": the largest value of x is 1, while x_test reaches 255, .* \* 255\).*"),
        (
            {"x": X60.astype(np.uint16) * 257, "x_test": X60},
            r": the largest value of x_test is 255, while x reaches 65535, .*\(65535 / 255\)\)\.astype\(.*uint16\)\.",
        ),
    ],
)
def test_other_values_are_refused(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(DataError, match=f"^{path}{message}$"):
        ready(path)


# Sizes


def test_images_of_one_pixel_and_more_images_to_a_batch_than_there_are(tmp_path):
    data = ready(save(tmp_path, x=pixels(30, 1, 1)), batch_size=10**9)
    assert [len(y) for _, y in data.train_dataloader()] == [25]


@pytest.mark.parametrize("val_size", [27, 10**9])
def test_too_many_validation_images(tmp_path, val_size):
    with pytest.raises(ValueError, match=rf"^val_size must be less than the 27 training images, not {val_size}\.$"):
        ready(save(tmp_path, x=pixels(30, 4, 4)), val_size=val_size)
