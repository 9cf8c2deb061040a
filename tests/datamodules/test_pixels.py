"""datamodules/pixels.py: the same images from files of every type and scale."""

import io
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from datamodules import DATAMODULES
from datamodules.download import DataError
from datamodules.pixels import as_uint8, scale_to_bytes


def random_bytes(*shape, seed=0):
    """Return images in which every grey level occurs."""
    x = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    x.flat[:256] = np.arange(256)
    return x


def evenly_spaced(high, dtype):
    """Return images of evenly spaced values from 0 to `high` in random order."""
    return np.random.default_rng(0).permutation(np.linspace(0, high, 4200, dtype=dtype)).reshape(100, 6, 7)


def ready(path, **options):
    data = DATAMODULES["NPZ"](str(path), **options)
    data.setup()
    return data


X = random_bytes(60, 3, 6, 7)
SAME = {
    "uint8": lambda x: x,
    "big endian": lambda x: x.astype(">i4"),
    "column major": lambda x: np.asfortranarray(x / 255),
    "channels last": lambda x: x.transpose(0, 2, 3, 1),
    "float channels last": lambda x: x.transpose(0, 2, 3, 1).astype(np.float32) / 255,
    "float32 / 255": lambda x: x.astype(np.float32) / np.float32(255),
    "float32 * (1 / 255)": lambda x: x.astype(np.float32) * np.float32(1 / 255),
    "float64 / 255": lambda x: x / 255,
    "float64 / 255 as float32": lambda x: (x / 255).astype(np.float32),
    "float64 * (1 / 255)": lambda x: x * (1 / 255),
    "float16 / 255": lambda x: x.astype(np.float16) / np.float16(255),
    "float16 * (1 / 255)": lambda x: x.astype(np.float16) * np.float16(1 / 255),
    "long double / 255": lambda x: x.astype(np.longdouble) / 255,
    "torchvision's ToTensor": lambda x: torch.from_numpy(x).to(torch.get_default_dtype()).div(255).numpy(),
    **{str(np.dtype(t)): lambda x, t=t: x.astype(t) for t in ("i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")},
    **{f"{np.dtype(t)} * 257": lambda x, t=t: x.astype(t) * t(257) for t in (np.uint16, np.int32, np.int64, np.uint64)},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("with_test", [True, False])
def test_the_same_images_on_every_scale(tmp_path, capfd, name, with_test):
    change = SAME[name]
    np.savez(tmp_path / "bytes.npz", x=X, **({"x_test": X[:20]} if with_test else {}))
    np.savez(tmp_path / "mine.npz", x=change(X), **({"x_test": change(X[:20])} if with_test else {}))
    # on `levels`, without the warning that colours are binarized
    expected, data = (ready(tmp_path / f"{each}.npz", binarization="levels") for each in ("bytes", "mine"))
    for original, split in zip(expected.fetch(), data.fetch(), strict=True):
        assert torch.equal(original.x, split.x)
    assert data.images_hash == expected.images_hash
    (message,) = capfd.readouterr().err.splitlines() or [""]
    if change(X).dtype == np.uint8:
        assert message == ""
        assert "images_read_as" not in data.state_dict()
    else:
        assert message == f"The images in {data.path} are read as {data.state_dict()['images_read_as']}."
        assert re.fullmatch(r"\S+ from 0 to (1|255|65535), exact in 256 levels", data.images_read_as)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i8", "f2", "f4", "f8"])
def test_masks_of_every_type(tmp_path, dtype):
    mask = X >= 100
    np.savez(tmp_path / "bytes.npz", x=mask * np.uint8(255))
    np.savez(tmp_path / "mine.npz", x=mask.astype(dtype))
    assert ready(tmp_path / "mine.npz").images_hash == ready(tmp_path / "bytes.npz").images_hash


def test_booleans_go_with_every_scale(tmp_path):
    mask = X >= 100
    for x in (X, X / 255, X.astype(np.uint16) * 257):
        np.savez(tmp_path / "mine.npz", x=x, x_test=mask)
        train, test = ready(tmp_path / "mine.npz").fetch()
        assert np.array_equal(train.x, X)
        assert np.array_equal(test.x, mask * 255)


@pytest.mark.parametrize(
    ("x", "read_as"),
    [
        (
            X.astype(np.uint16) * 257 + np.uint16(60) * (X < 200),
            "uint16 from 0 to 65535, rounded .*by at most 0.23 of .*",
        ),
        (
            evenly_spaced(1, np.float32),
            "float32 from 0 to 1, rounded .* 0.5 of a level.*",
        ),
        (evenly_spaced(1, np.float16), "float16 from 0 to 1, rounded .* 0.5 of a .*"),
        (evenly_spaced(255, np.float64), "float64 from 0 to 255, rounded to 256 levels .*"),
        ((X / 255).astype(np.float16).astype(np.float32), r"float32 from 0 to 1, rounded .* 0.062 of a level\)"),
        (X * (1 + 1e-5) / 255 - 1e-6, "float64 from 0 to 1, rounded .* 0.0023 of .*"),  # just outside, by interpolation
    ],
)
def test_other_values_are_rounded_to_the_nearest_level(tmp_path, x, read_as):
    np.savez(tmp_path / "mine.npz", x=x, x_test=x[:9])
    data = ready(tmp_path / "mine.npz")
    white = int(re.search(r"0 to (\d+),", data.images_read_as)[1])
    exact = x.astype(np.float64) * 255 / white
    assert re.fullmatch(read_as, data.images_read_as)
    assert np.array_equal(data.fetch()[0].x.numpy().reshape(x.shape), exact.round())
    assert np.abs(exact - exact.round()).max() <= 0.5


def test_types_may_differ_on_one_scale(tmp_path):
    np.savez(tmp_path / "mine.npz", x=(X / 255).astype(np.float32), x_test=X[:20] / 255)
    data = ready(tmp_path / "mine.npz")
    assert data.images_read_as == "float32 and float64 from 0 to 1, exact in 256 levels"
    assert np.array_equal(data.fetch()[1].x, X[:20])


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_a_dark_or_nearly_white_test_set_causes_a_warning(white):
    def on_scale(x):
        scaled = x.astype(np.float64) * white / 255
        return scaled if white == 1 else scaled.astype(np.uint16)

    _, _, (_, message) = as_uint8("f", {"x": on_scale(X), "x_test": on_scale(X // 2)})
    assert re.match(rf"warning: the largest value of x_test in f is [\d.]+ of {white}: if it is meant", message)
    _, _, (_, message) = as_uint8("f", {"x": on_scale(X), "x_test": on_scale(255 - X // 8)})
    assert re.match(r"warning: the smallest value of x_test in f is [\d.]+ of .*, so that all images are ne", message)


def dark(x):
    return x // 16


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": dark(X)},
        {"x": dark(X) / 255},
        {"x": dark(X).astype(np.float32)},
        {"x": X, "x_test": dark(X[:9])},
        {"x": X / 255, "x_test": dark(X[:9]) / 255},
        {"x": X.astype(np.uint16) * 16 + X // 16},
        {"x": X.astype(np.float32) * 4},
        {"x": X.astype(np.float32) * 257},
        {"x": X.astype(np.int64) * 1000},
        {"x": X.astype(np.uint16) * 257, "x_test": X[:9]},
        {"x": X / 255, "x_test": X[:9]},
        {"x": X, "x_test": X[:9] / 255},
        {"x": X / 127.5 - 1},
        {"x": X / 255 - 0.5},
        {"x": (X.astype(np.int16) - 128).astype(np.int8)},
        {"x": X / 127.5 - 1, "x_test": X[:9] / 127.5 - 1},
    ],
)
def test_the_suggested_conversion_is_accepted(tmp_path, arrays):
    arrays = dict(arrays)
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError) as refusal:
        ready(path)
    code = re.search(r"save (.*)\.$", str(refusal.value))[1]
    if "negative" in str(refusal.value):  # the same code for each array
        arrays = {name: eval(code, {"numpy": np, "x": x}) for name, x in arrays.items()}
    else:
        (name,) = re.findall(r"\b(x|x_test)\b", code)
        arrays[name] = eval(code, {"numpy": np} | arrays)
    np.savez(path, **arrays)
    train, test = ready(path).fetch()
    images = train.x if "x_test" in arrays else torch.cat([train.x, test.x])
    difference = np.sort(images.numpy(), axis=None).astype(int) - np.sort(X, axis=None)
    assert np.abs(difference).max() <= 17  # `dark` leaves 16 levels


def test_conversion_takes_little_memory():
    x = np.random.default_rng(0).random((2000, 64, 64))  # 65 MB
    tracemalloc.start()
    levels, _ = scale_to_bytes(x, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < levels.nbytes + 40e6
    assert np.array_equal(levels, np.rint(x * 255))


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_reading_takes_one_extra_copy(tmp_path, dtype):
    x = random_bytes(4000, 64, 64).astype(dtype)
    np.savez(tmp_path / "mine.npz", x=x, x_test=x[:100])
    data = DATAMODULES["NPZ"](str(tmp_path / "mine.npz"))
    tracemalloc.start()
    train, _ = data.fetch()
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes * 1.05 + len(x) * 64 * 64 + 40e6
    assert current < len(x) * 64 * 64 * 1.1
    assert np.array_equal(train.x[:, 0], x)


# Files that other programs write


def test_an_archive_written_by_hand(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {"x": X / 255, "x_test": X[:9] / 255}.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asfortranarray(array), version=(2, 0))
            archive.writestr(f"{name}.npy", content.getvalue())
    train, test = ready(tmp_path / "mine.npz").fetch()
    assert np.array_equal(train.x, X)
    assert np.array_equal(test.x, X[:9])


def test_arrays_of_other_libraries(tmp_path):
    scipy_io, pandas, image = (pytest.importorskip(name) for name in ("scipy.io", "pandas", "PIL.Image"))
    x = X[:, 0]
    scipy_io.savemat(tmp_path / "x.mat", {"x": x / 255})
    pandas.DataFrame(x.reshape(len(x), -1)).to_csv(tmp_path / "x.csv", index=False)
    decoded = []
    for index, pixels in enumerate(x):
        image.fromarray(pixels).save(tmp_path / f"{index}.png")
        decoded.append(np.asarray(image.open(tmp_path / f"{index}.png").convert("RGB")))
    arrays = {
        "matlab": scipy_io.loadmat(tmp_path / "x.mat")["x"],
        "csv": pandas.read_csv(tmp_path / "x.csv").to_numpy().reshape(x.shape),
        "torch": torch.from_numpy(x).half().div(255).numpy(),
        "pillow": np.stack(decoded),
    }
    for array in arrays.values():
        np.savez(tmp_path / "mine.npz", x=array, x_test=array[:9])
        train, test = ready(tmp_path / "mine.npz").fetch()
        assert (train.x.numpy() == x[:, None]).all()
        assert (test.x.numpy() == x[:9, None]).all()
