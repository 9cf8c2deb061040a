"""datamodules/labels.py: labels of every form in .npz files."""

import numpy as np
import pytest
import torch

from datamodules import DATAMODULES

X = np.random.default_rng(0).integers(0, 256, (60, 6, 6), np.uint8)


def ready(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", x=X, x_test=X[:6], **arrays)
    data = DATAMODULES["NPZ"](str(tmp_path / "mine.npz"))
    data.setup()
    return data


def one_hot(y, columns, dtype=float):
    """Return one row per label, with zeros for -1."""
    return (np.asarray(y)[:, None] == np.arange(columns)).astype(dtype)


CLASSES = [0, 1, 2, 1, 0, 2]
SAME = {
    "int64": lambda y: y,
    "uint8": lambda y: y.astype(np.uint8),
    "big endian": lambda y: y.astype(">i2"),
    "column": lambda y: y[:, None],
    "float": lambda y: y.astype(float),
    "float16 column": lambda y: y.astype(np.float16)[:, None],
    "text": lambda y: y.astype(str),
    "bytes": lambda y: y.astype("S"),
    "text column": lambda y: y.astype(str)[:, None],
    "shuffled memory": lambda y: np.repeat(y, 2)[::2],
    **{f"one-hot {t}": lambda y, t=t: one_hot(y, 3, t) for t in ("f2", "f4", "f8", "?", "u1", "i8")},
    "column-major one-hot": lambda y: np.asfortranarray(one_hot(y, 3)),
    "one-hot with an empty column": lambda y: one_hot(y, 4),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_classes_from_labels_of_every_form(tmp_path, capfd, name):
    y = np.tile(CLASSES, 10)
    data = ready(tmp_path, y=SAME[name](y), y_test=SAME[name](y[:6]))
    assert data.fetch()[0].y.tolist() == CLASSES * 10
    assert data.test.y.tolist() == CLASSES
    assert data.test.y.dtype == torch.int64
    assert data.class_names == ["0", "1", "2"]
    assert capfd.readouterr().err == ""


UNLABELLED = {
    "int64": (lambda y: y, "-1"),
    "float": (lambda y: y.astype(float), "-1 or NaN"),
    "NaN": (lambda y: np.where(y < 0, np.nan, y), "-1 or NaN"),
    "text": (lambda y: np.where(y < 0, "", y.astype(str)), "an empty text"),
    "bytes": (lambda y: np.where(y < 0, "", y.astype(str)).astype("S"), "an empty text"),
    "one-hot": (lambda y: one_hot(y, 3), "a row of zeros"),
}


@pytest.mark.parametrize("name", UNLABELLED)
def test_unlabelled_images_are_counted(tmp_path, capfd, name):
    change, marker = UNLABELLED[name]
    y = np.tile([0, 1, 2, -1, -1], 12)
    data = ready(tmp_path, y=change(y), y_test=change(y[:6]))
    assert data.fetch()[0].y.tolist() == y.tolist()
    assert data.class_names == ["0", "1", "2"]
    assert capfd.readouterr().err.splitlines() == [
        f"y in {data.path}: 24 of 60 images are unlabelled ({marker}).",
        f"y_test in {data.path}: 2 of 6 images are unlabelled ({marker}).",
    ]


@pytest.mark.parametrize(
    "y", [np.full(60, -1), np.full(60, np.nan), np.zeros((60, 3)), np.full(60, ""), np.full((60, 1), -1.0)]
)
def test_data_without_any_label(tmp_path, y):
    data = ready(tmp_path, y=y)
    assert data.num_classes == 0
    assert data.class_names is None


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([5, 7, 9], ["5", "7", "9"]),
        ([1.0, 2.0, 30.0], ["1", "2", "30"]),
        (["9", "10", "11"], ["9", "10", "11"]),
        (["b", "ä", "B c"], ["B c", "b", "ä"]),
    ],
)
def test_classes_are_named_by_their_values(tmp_path, values, names):
    y = np.array(values)[np.arange(60) % 3]
    data = ready(tmp_path, y=y, y_test=y[:6])
    assert data.class_names == names
    assert [names[label] for label in data.test.y] == [f"{v:.0f}" if isinstance(v, float) else f"{v}" for v in y[:6]]


def test_columns_without_images_are_no_classes(tmp_path):
    y = np.array([1, 4, 6])[np.arange(60) % 3]
    assert ready(tmp_path, y=one_hot(y, 8), y_test=one_hot(y[:6], 8)).class_names == ["1", "4", "6"]


def test_labels_of_other_libraries(tmp_path):
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    text = np.array(["cat", "dog", ""])[np.arange(60) % 3]
    frame = pandas.DataFrame({"label": np.where(text == "", None, text), "number": [3, 5, None] * 20})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    read = pandas.read_csv(tmp_path / "labels.csv")
    one_hot_rows = torch.nn.functional.one_hot(torch.arange(60) % 2, 2).numpy()
    partly_labelled, labelled = [0, 1, -1] * 2, [0, 1] * 3
    for y, names, classes in (
        (read["number"].to_numpy(), ["3", "5"], partly_labelled),  # floats with NaN
        (read["label"].fillna("").to_numpy(dtype=str), ["cat", "dog"], partly_labelled),
        (pandas.get_dummies(read["label"]).to_numpy(), ["0", "1"], partly_labelled),
        (one_hot_rows, ["0", "1"], labelled),
        (sparse.csr_matrix(one_hot_rows).toarray(), ["0", "1"], labelled),
    ):
        data = ready(tmp_path, y=y, y_test=y[:6])
        assert data.class_names == names
        assert data.test.y.tolist() == classes
