"""ImageFolder: files of all kinds, splits and classes, broken files, the cache."""

import errno
import json
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_encoders import (
    TIFF_BLACK_IS_ZERO,
    TIFF_CMYK,
    TIFF_PALETTE,
    TIFF_RGB,
    bmp,
    exif,
    gif,
    jpeg,
    png,
    tiff,
    webp,
    with_exif,
)

import evaluate
import train
from datamodules import DATAMODULES, folder_decoding, image_cache, image_folder
from datamodules.download import DataError
from datamodules.folder_decoding import decode_files
from datamodules.image_decoding import Decoding
from datamodules.image_files import scan

ImageFolder = DATAMODULES["ImageFolder"]
CACHE = ".elbo-room-cache"
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (9, 13), np.uint8)
RGB = RANDOM.integers(0, 256, (9, 13, 3), np.uint8)
RGBA = RANDOM.integers(0, 256, (9, 13, 4), np.uint8)
GREY_16, RGB_16 = (RANDOM.integers(0, 2**16, shape, np.uint16) for shape in ((9, 13), (9, 13, 3)))
RGBA_16 = RANDOM.integers(0, 2**16, (9, 13, 4), np.uint16)
PALETTE = RANDOM.integers(0, 256, (256, 3), np.uint8)


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fill(folder, names, shape=(4, 5)):
    """Write one random grey PNG per name. Return the pixels by name."""
    images = {name: pixels(*shape, seed=i) for i, name in enumerate(names)}
    for name, image in images.items():
        save(folder / name, png(image, "grey"))
    return images


def names_in(folder, count, suffix=".png"):
    return [f"{folder}/{i:02d}{suffix}" for i in range(count)]


def ready(path, **options):
    data = ImageFolder(str(path), **options)
    data.prepare_data()
    data.setup()
    return data


def decoded(tmp_path, content, name="a.png", **options):
    """Return one image (C, H, W), decoded, and what was done to it."""
    save(tmp_path / name, content)
    result = decode_files(tmp_path, [name], Decoding(**options))
    assert result.broken == []
    return result.x[0], set(result.done)


def on_background(image, background=1.0):
    """Composite pixels (H, W, C), of which the last channel is alpha, in floating-point numbers."""
    white = np.iinfo(image.dtype).max
    alpha = image[..., -1:] / white
    return (alpha * image[..., :-1] / white + (1 - alpha) * background) * 255


# File types, written by code that shares nothing with the library that reads them


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.png", png(GREY, "grey"), GREY),
        ("a.PNG", png(GREY > 99, "grey", 1), (GREY > 99) * 255),
        ("a.png", png(GREY >> 6, "grey", 2), (GREY >> 6) * 85),
        ("a.png", png(GREY >> 4, "grey", 4), (GREY >> 4) * 17),
        ("a.png", png(RGB, "rgb"), RGB),
        ("a.png", png(GREY, "palette", before=[(b"PLTE", PALETTE.tobytes())]), PALETTE[GREY]),
        ("a.png", png(GREY >> 6, "palette", 2, before=[(b"PLTE", PALETTE[:4].tobytes())]), PALETTE[GREY >> 6]),
        ("a.bmp", bmp(GREY), GREY),
        ("a.bmp", bmp(RGB), RGB),
        ("a.gif", gif(GREY[None], PALETTE), PALETTE[GREY]),
        ("a.gif", gif(GREY[None], np.arange(256)[:, None].repeat(3, 1)), GREY),
        ("a.webp", webp(RGB), RGB),
        ("a.webp", webp(GREY[..., None].repeat(3, 2)), GREY),
        ("a.tif", tiff(GREY, TIFF_BLACK_IS_ZERO), GREY),
        ("a.TIFF", tiff(RGB, TIFF_RGB, ">", compressed=True), RGB),
        ("a.tif", tiff(GREY, TIFF_PALETTE, palette=PALETTE.astype(np.uint16) * 257), PALETTE[GREY]),
    ],
)
def test_lossless_files_are_read_to_the_exact_bytes(tmp_path, name, content, expected):
    x, done = decoded(tmp_path, content, name)
    expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    assert x.shape == expected.shape
    assert np.array_equal(x, expected)
    assert not done


def blocks(*shape):
    """Return random colours, and the image in which each fills 8 x 8 pixels."""
    colours = pixels(*shape)
    return colours, colours.repeat(8, 0).repeat(8, 1)


def test_jpeg(tmp_path):
    colours, image = blocks(3, 5)
    assert np.array_equal(decoded(tmp_path, jpeg(colours), "a.jpeg")[0], image[None])
    colours, image = blocks(3, 5, 3)
    y, cb, cr = np.moveaxis(image.astype(float), 2, 0)
    cb, cr = cb - 128, cr - 128
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]).clip(0, 255)
    x, _ = decoded(tmp_path, jpeg(colours), "a.JPG")
    assert np.abs(x - expected).max() <= 1
    colours, image = blocks(3, 5, 4)
    x, done = decoded(tmp_path, jpeg(colours), "a.jpg")
    assert np.abs(x - np.moveaxis(image[..., :3] / 255 * image[..., 3:], 2, 0)).max() <= 1
    assert done == {"CMYK"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.png", png(GREY_16, "grey", 16), GREY_16),
        ("a.png", png(RGB_16, "rgb", 16), RGB_16),
        ("a.tif", tiff(GREY_16, TIFF_BLACK_IS_ZERO), GREY_16),
        ("a.tif", tiff(GREY_16, TIFF_BLACK_IS_ZERO, ">", compressed=True), GREY_16),
        ("a.tif", tiff(GREY_16, 0), 65535 - GREY_16),  # 0 is white
        ("a.tif", tiff(RGB_16, TIFF_RGB), RGB_16),
        ("a.tif", tiff(RGB_16, TIFF_RGB, ">"), RGB_16),
        ("a.tif", tiff(RGB_16, TIFF_RGB, ">", compressed=True), RGB_16),
    ],
)
def test_16_bits_are_scaled_to_8_bits(tmp_path, name, content, expected):
    x, done = decoded(tmp_path, content, name)
    expected = np.rint(expected.astype(float) * 255 / 65535)
    assert np.array_equal(x, expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))
    assert done == {"16 bit"}


def test_8_bits_saved_as_16_bits_are_read_to_the_same_bytes(tmp_path):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(decoded(tmp_path, png(levels * 257, "grey", 16))[0][0], levels)


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize(
    ("name", "content", "image"),
    [
        ("a.png", png(RGBA, "rgba"), RGBA),
        ("a.png", png(RGBA[..., :2], "grey+alpha"), RGBA[..., :2]),
        ("a.webp", webp(RGBA), RGBA),
        ("a.tif", tiff(RGBA, TIFF_RGB), RGBA),
        ("a.png", png(RGBA_16, "rgba", 16), RGBA_16),
        ("a.png", png(RGBA_16[..., :2], "grey+alpha", 16), RGBA_16[..., :2]),
        ("a.tif", tiff(RGBA_16, TIFF_RGB, ">"), RGBA_16),
    ],
)
def test_transparent_images_are_composited(tmp_path, name, content, image, background):
    x, done = decoded(tmp_path, content, name, background=background)
    expected = on_background(image, 1.0 if background == "white" else 0.0).transpose(2, 0, 1)
    assert x.shape == expected.shape
    # 16 bits are rounded twice: to 16 bits and then to 8
    assert np.abs(x - expected).max() <= (0.5 if image.dtype == np.uint8 else 0.502)
    assert "transparent" in done


@pytest.mark.parametrize(
    ("kind", "image", "chunk"),
    [
        ("grey", GREY, GREY[0, :1].astype(">u2").tobytes()),
        ("rgb", RGB, RGB[0, 0].astype(">u2").tobytes()),
        ("palette", GREY, bytes([255] * GREY[0, 0] + [0])),
    ],
)
def test_a_transparent_colour(tmp_path, kind, image, chunk):
    before = [(b"PLTE", PALETTE.tobytes())] if kind == "palette" else []
    x, done = decoded(tmp_path, png(image, kind, before=[*before, (b"tRNS", chunk)]))
    colours = PALETTE[image] if kind == "palette" else image.reshape(9, 13, -1)
    is_clear = (image.reshape(9, 13, -1) == image[0, 0]).all(-1, keepdims=True)
    assert np.array_equal(x, np.where(is_clear, 255, colours).transpose(2, 0, 1))
    assert done == {"transparent"}


@pytest.mark.parametrize(("kind", "image"), [("grey", GREY_16), ("rgb", RGB_16)])
def test_a_transparent_colour_of_16_bits(tmp_path, kind, image):
    key = image.reshape(9, 13, -1)[0, 0]
    x, done = decoded(tmp_path, png(image, kind, 16, before=[(b"tRNS", key.astype(">u2").tobytes())]))
    levels = np.rint(image.reshape(9, 13, -1) * (255 / 65535))
    is_clear = (image.reshape(9, 13, -1) == key).all(-1, keepdims=True)
    assert np.array_equal(x, np.where(is_clear, 255, levels).transpose(2, 0, 1))
    assert "transparent" in done


def test_opaque_images_with_alpha_are_not_reported(tmp_path):
    image = RGBA.copy()
    image[..., 3] = 255
    x, done = decoded(tmp_path, png(image, "rgba"))
    assert np.array_equal(x, image[..., :3].transpose(2, 0, 1))
    assert not done


def test_cmyk(tmp_path):
    x, done = decoded(tmp_path, tiff(RGBA, TIFF_CMYK), "a.tif")
    cmyk = RGBA / 255
    expected = (1 - cmyk[..., :3]) * (1 - cmyk[..., 3:]) * 255
    assert np.abs(x - expected.transpose(2, 0, 1)).max() <= 1
    assert done == {"CMYK"}


def test_only_the_first_frame_of_an_animation_is_used(tmp_path):
    x, done = decoded(tmp_path, gif(np.stack([GREY, GREY[::-1]]), PALETTE), "a.gif")
    assert np.array_equal(x, PALETTE[GREY].transpose(2, 0, 1))
    assert done == {"frames"}


TURNED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.png", lambda o: png(GREY, "grey", before=[(b"eXIf", exif(o))])),
        ("a.png", lambda o: png(GREY_16, "grey", 16, before=[(b"eXIf", exif(o))])),
        ("a.tif", lambda o: tiff(GREY, TIFF_BLACK_IS_ZERO, orientation=o)),
        ("a.tif", lambda o: tiff(GREY, TIFF_BLACK_IS_ZERO, compressed=True, orientation=o)),
        ("a.tif", lambda o: tiff(GREY_16, TIFF_BLACK_IS_ZERO, orientation=o)),
    ],
)
def test_the_orientation_in_the_metadata_is_applied(tmp_path, name, encode, orientation):
    x, done = decoded(tmp_path, encode(orientation), name)
    levels = np.rint(GREY_16 * (255 / 65535)) if "16 bit" in done else GREY
    assert np.array_equal(x[0], TURNED[orientation](levels))
    assert ("orientation" in done) == (orientation != 1)


@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_of_jpeg_files(tmp_path, orientation):
    colours, image = blocks(2, 3)
    x, _ = decoded(tmp_path, with_exif(jpeg(colours), orientation), "a.jpg")
    assert np.array_equal(x[0], TURNED[orientation](image))


def test_an_orientation_after_the_pixels_of_a_png(tmp_path):
    x, _ = decoded(tmp_path, png(GREY, "grey", after=[(b"eXIf", exif(3))]))
    assert np.array_equal(x[0], GREY[::-1, ::-1])
    save(tmp_path / "b.png", png(GREY, "grey", after=[(b"eXIf", exif(6))]))
    result = decode_files(tmp_path, ["b.png"], Decoding())
    assert result.broken == [("b.png", "it is 13 x 9 pixels large, not 9 x 13")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(GREY.astype(np.float32), TIFF_BLACK_IS_ZERO), "its pixels are floating-point numbers; allowed are"),
        (tiff(GREY.astype(np.uint32), TIFF_BLACK_IS_ZERO), "its pixels are 32-bit or signed integers; allowed are"),
        (tiff(RGB_16, TIFF_RGB, tag_284=[2]), "its 16-bit pixels are stored in an unusual way"),
        (tiff(RGBA_16, TIFF_CMYK), "its 16-bit pixels are stored in an unusual way"),
    ],
)
def test_other_pixels_are_refused(tmp_path, content, reason):
    save(tmp_path / "a.tif", content)
    ((name, said),) = decode_files(tmp_path, ["a.tif"], Decoding()).broken
    assert name == "a.tif"
    assert said.startswith(reason)


# Channels and sizes


def test_grey_folders_have_one_channel_and_others_three(tmp_path):
    save(tmp_path / "a.png", png(GREY, "grey"))
    save(tmp_path / "b.png", png(GREY[..., None].repeat(3, 2), "rgb"))
    result = decode_files(tmp_path, ["a.png", "b.png"], Decoding())
    assert np.array_equal(result.x, np.stack([GREY[None]] * 2))
    assert result.x.flags.c_contiguous
    save(tmp_path / "c.png", png(RGB, "rgb"))
    x = decode_files(tmp_path, ["a.png", "b.png", "c.png"], Decoding()).x
    assert np.array_equal(x, [*[[GREY] * 3] * 2, RGB.transpose(2, 0, 1)])


def test_the_number_of_channels_can_be_chosen(tmp_path):
    save(tmp_path / "a.png", png(GREY, "grey"))
    save(tmp_path / "b.png", png(RGB, "rgb"))
    assert decode_files(tmp_path, ["a.png"], Decoding(channels=3)).x.shape == (1, 3, 9, 13)
    x = decode_files(tmp_path, ["a.png", "b.png"], Decoding(channels=1)).x
    assert x.shape == (2, 1, 9, 13)
    assert np.array_equal(x[0, 0], GREY)
    assert np.abs(x[1, 0] - RGB @ [0.299, 0.587, 0.114]).max() <= 1


def test_different_sizes_are_refused(tmp_path, monkeypatch):
    fill(tmp_path, names_in("a", 3), (4, 5))
    fill(tmp_path, names_in("b", 2), (7, 6))
    monkeypatch.setattr(folder_decoding, "decode", None)  # nothing is decoded
    with pytest.raises(DataError) as caught:
        ready(tmp_path)
    assert str(caught.value) == (
        f"The images in {tmp_path} have different sizes (height x width): 4 x 5 (3, such as a/00.png), 7 x 6 (2, such "
        "as b/00.png). Set --data.size, such as 4, to resize and crop all of them to squares."
    )


def test_size_resizes_the_shorter_side_and_crops_the_other(tmp_path):
    left, middle, right = np.full((20, 10), 0), np.full((20, 20), 100), np.full((20, 10), 255)
    wide = np.hstack([left, middle, right])
    save(tmp_path / "wide.png", png(wide, "grey"))
    save(tmp_path / "tall.png", png(wide.T, "grey"))
    save(tmp_path / "small.png", png(np.full((3, 2), 100), "grey"))
    x = decode_files(tmp_path, ["wide.png", "tall.png", "small.png"], Decoding(size=5)).x
    assert x.shape == (3, 1, 5, 5)
    assert (x == 100).all()


def test_an_image_of_the_right_size_is_cropped_without_interpolation(tmp_path):
    image = pixels(8, 13)
    assert np.array_equal(decoded(tmp_path, png(image, "grey"), size=8)[0][0], image[:, 2:10])


def test_resizing_is_antialiased(tmp_path):
    stripes = np.tile([0, 255], (64, 32))  # as fine as pixels can be
    x, _ = decoded(tmp_path, png(stripes, "grey"), size=8)
    assert np.abs(x.astype(int) - 127).max() <= 12


def test_size_and_channels_are_in_the_variant(tmp_path):
    assert ImageFolder("x").variant == ""
    assert ImageFolder("x", size=8, max_shift=1).variant == "resized and cropped to 8x8, shifted by up to 1 pixel"
    assert ImageFolder("x", channels=1).variant == "converted to grey"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"size must be at least 1, not 0\."),
        ({"channels": 2}, r"channels must be 1 or 3, not 2\."),
        ({"background": "red"}, r'background must be white or black, not "red"\.'),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ImageFolder("x", **options)


# Splits and classes


def by_class(data, split):
    """Return the images of a split by the name of their class, each as bytes."""
    part = {"train": data.fetch()[0], "test": data.fetch()[1]}[split]
    found = {}
    for x, y in zip(part.x, part.y.tolist(), strict=True):
        found.setdefault(data.class_names[y] if y >= 0 else None, set()).add(x.numpy().tobytes())
    return found


def test_sub_folders_are_classes_and_a_fixed_tenth_is_the_test_set(tmp_path):
    images = fill(tmp_path, [*names_in("zebra", 20), *names_in("ape/young", 10), *names_in("ape", 10)])
    one, other = ready(tmp_path), ready(tmp_path, seed=1)
    assert one.class_names == ["ape", "zebra"]
    assert one.num_classes == 2
    assert [len(split.y) for split in (one.train, one.val, one.test)] == [33, 3, 4]
    assert torch.equal(one.fetch()[1].x, other.fetch()[1].x)
    assert torch.equal(one.grey_pixels("test"), one.fetch()[1].x)
    assert not torch.equal(one.grey_pixels("val"), other.grey_pixels("val"))
    train_images, test_images = by_class(one, "train"), by_class(one, "test")
    for name in ("ape", "zebra"):
        expected = {image.tobytes() for path, image in images.items() if path.startswith(name)}
        assert train_images[name] | test_images.get(name, set()) == expected
    assert one.state_dict()["class_names"] == ["ape", "zebra"]
    assert len(one.state_dict()["images_hash"]) == 12


def test_classes_that_are_numbers_are_sorted_as_numbers(tmp_path):
    fill(tmp_path, [f"{label}/a.png" for label in (10, 9, 0)])
    assert ready(tmp_path).class_names == ["0", "9", "10"]


def test_a_folder_without_sub_folders_has_no_labels(tmp_path):
    fill(tmp_path, [f"{i}.png" for i in range(10)])
    data = ready(tmp_path)
    assert (data.num_classes, data.class_names) == (0, None)
    assert set(data.train.y.tolist()) == {-1}


def test_images_outside_of_class_folders_are_unlabelled(tmp_path):
    images = fill(tmp_path, [*names_in("a", 5), *names_in("b", 5), "x.png", "y.png", "z.png"])
    data = ready(tmp_path)
    everything = {**by_class(data, "train")}
    assert everything[None] | by_class(data, "test").get(None, set()) == {
        images[f"{name}.png"].tobytes() for name in "xyz"
    }


def test_folders_of_splits(tmp_path):
    names = [*names_in("train/a", 6), *names_in("train/b", 6), *names_in("val/b", 3), *names_in("test/a", 2)]
    images = fill(tmp_path, [*names, "test/b/x.png"])
    data = ready(tmp_path, binarization="threshold")
    assert data.class_names == ["a", "b"]
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [12, 3, 3]
    assert data.val.y.tolist() == [1, 1, 1]
    for split in ("train", "val", "test"):
        expected = {image.tobytes() for name, image in images.items() if name.startswith(split)}
        assert {x.numpy().tobytes() for x in data.grey_pixels(split)} == expected
    assert torch.equal(data.val.x, (data.grey_pixels("val") >= 128) * 255)
    # in an order that is not that of the classes
    assert data.train.y.tolist() != sorted(data.train.y.tolist())


def test_missing_validation_images_are_split_off_the_training_images(tmp_path):
    images = fill(tmp_path, [*names_in("train", 20), *names_in("test", 4)])
    data = ready(tmp_path, val_size=5)
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [15, 5, 4]
    assert {x.numpy().tobytes() for x in data.grey_pixels("test")} == {
        image.tobytes() for name, image in images.items() if name.startswith("test")
    }


def test_missing_test_images_are_split_off_the_training_images(tmp_path):
    images = fill(tmp_path, [*names_in("train", 20), *names_in("val", 4)])
    data = ready(tmp_path)
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [18, 4, 2]
    assert {x.numpy().tobytes() for x in data.grey_pixels("val")} == {
        image.tobytes() for name, image in images.items() if name.startswith("val")
    }


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, r" holds no images \(PNG, .*\): no files except hidden ones\."),
        (["a.txt", "b/c.csv", ".DS_Store"], {}, r" holds no images .*: only other files, \.csv \(1\), \.txt \(1\)\."),
        ([".a.png", "Thumbs.db"], {}, " holds no images .*: no files except hidden ones.*"),
        (["a.png"], {}, r" must hold at least 3 images \(to train, validate and test\), not 1\."),
        (["a.png", "b.png"], {}, r" must hold at least 3 images \(to train, validate and test\), not 2\."),
        (["train/a.png", "test/b.png"], {}, r"/train must hold at least 2 images \(to train and validate\), not 1\."),
        (["train/a.png", "val/b.png"], {}, r"/train must hold at least 2 images \(to train and test\), not 1\."),
        (["train/a.png", "val/b.txt"], {}, r"/val holds no images \(.*\): add some, or remove the folder\."),
        (["test/a.png", "val/b.png"], {}, " has val/, test/ but no train/: put the training images into train/, .*"),
        (["train/a.png", "valid/b.png"], {}, " has train/ and also valid/: next to train/, only val/ and test/ may .*"),
        (["train/a.png", "b.png"], {}, " has train/ and also images outside of them, such as b.png: move .*"),
        (["train/a.png", "val/b.png"], {"val_size": 2}, " has val/, .* validation images: leave val_size out.*"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, names, options, message):
    folder = tmp_path / "mine"
    folder.mkdir()
    fill(folder, names)
    with pytest.raises(DataError, match=f"^{folder}{message}$"):
        ready(folder, **options)


def test_the_smallest_folders(tmp_path):
    fill(tmp_path / "three", ["a.png", "b.png", "c.png"])
    data = ready(tmp_path / "three")
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [1, 1, 1]
    fill(tmp_path / "splits", ["train/a.png", "val/b.png", "test/c.png"])
    data = ready(tmp_path / "splits")
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [1, 1, 1]


def test_a_name_that_is_too_long_for_the_file_system(tmp_path):
    with pytest.raises(DataError, match=r"(cannot be read: File name too long\.|was not found: .*)$"):
        ready(tmp_path / ("x" * 1000))


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(DataError, match="was not found: root must be the folder that holds your images"):
        ready(tmp_path / "none")
    with pytest.raises(DataError, match="is a file, but ImageFolder reads a folder"):
        ready(save(tmp_path / "a.npz", b""))


def test_an_empty_class_folder_is_named(tmp_path, capfd):
    fill(tmp_path, [*names_in("a", 5), *names_in("b", 5), "c/notes.txt"])
    (tmp_path / "d").mkdir()
    assert ready(tmp_path).class_names == ["a", "b"]
    said = capfd.readouterr().err
    assert f"warning: no images in c, d of {tmp_path}: left out of the classes.\n" in said
    assert f"Ignored in {tmp_path}, by suffix: .txt (1). Images are PNG," in said


def test_files_of_operating_systems_are_ignored_silently(tmp_path, capfd):
    fill(tmp_path, [*names_in("a", 5), ".DS_Store", "a/Thumbs.db", "a/._00.png", "__MACOSX/a/x.png", ".git/b.png"])
    assert ready(tmp_path).class_names == ["a"]
    assert len(capfd.readouterr().err.splitlines()) == 1  # about the cache


def test_names_with_spaces_and_umlauts(tmp_path):
    images = fill(tmp_path, [*names_in("große Bären", 5), *names_in("e\u0301te\u0301", 5, " à 1.png"), "日本/猫.png"])
    data = ready(tmp_path)
    assert data.class_names == ["große Bären", "\u00e9t\u00e9", "日本"]  # é is one letter, as on other systems
    everything = by_class(data, "train"), by_class(data, "test")
    assert sum(len(images) for part in everything for images in part.values()) == len(images)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take Unicode only")
def test_names_that_are_not_utf8_remain_different_classes(tmp_path):
    fill(tmp_path, names_in("a", 5))
    for byte in (b"\xfe", b"\xff"):
        folder = os.fsencode(tmp_path / "a") + byte
        os.mkdir(folder)
        for i in range(5):
            with open(folder + b"/\xe4%d.png" % i, "wb") as file:
                file.write(png(pixels(4, 5, seed=i), "grey"))
    data = ready(tmp_path)
    assert data.class_names == ["a", r"a\xfe", r"a\xff"]
    assert json.dumps(data.class_names).encode()
    assert ready(tmp_path).images_hash == data.images_hash


@pytest.mark.parametrize("folders", [("Train", "Test"), ("training", "validation", "testing"), ("Training",)])
def test_classes_with_names_of_splits_are_refused(tmp_path, folders):
    for folder in folders:
        fill(tmp_path, names_in(folder, 5))
    present = ", ".join(f"{folder}/" for folder in sorted(folders))
    with pytest.raises(DataError, match=f"^{tmp_path} has {present}: rename them to train/, val/ and test/ if they"):
        ready(tmp_path)


def test_a_class_may_have_the_name_of_a_split_among_others(tmp_path):
    for folder in ("Train", "Car"):
        fill(tmp_path, names_in(folder, 5))
    assert ready(tmp_path).class_names == ["Car", "Train"]


def test_classes_that_differ_in_case_cause_a_warning(tmp_path, capfd):
    fill(tmp_path, names_in("cat", 5))
    if (tmp_path / "CAT").exists():
        pytest.skip("the file system ignores case")
    fill(tmp_path, names_in("Cat", 5))
    assert ready(tmp_path).class_names == ["Cat", "cat"]
    assert f"classes in {tmp_path} differ only in upper and lower case: Cat and cat.\n" in capfd.readouterr().err


def test_a_root_one_level_too_high_causes_a_warning(tmp_path, capfd):
    fill(tmp_path, [*names_in("faces/anna", 5), *names_in("faces/bob", 5)])
    assert ready(tmp_path).class_names == ["faces"]
    assert f"if these are the classes, use --data.root {tmp_path / 'faces'}." in capfd.readouterr().err
    ready(tmp_path / "faces")
    assert "--data.root" not in capfd.readouterr().err


def test_a_link_to_itself_is_a_broken_file(tmp_path):
    fill(tmp_path, names_in("a", 5))
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    with pytest.raises(DataError, match=r"^1 of 6 files in .* cannot be decoded: a/self.png \(Too many levels"):
        ready(tmp_path)


def test_links_to_pipes_are_ignored(tmp_path):
    fill(tmp_path, names_in("a", 5))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a" / "pipe.png").symlink_to("../pipe")  # opening it would wait forever
    assert sum(len(split.y) for split in splits_of(ready(tmp_path))) == 5


def splits_of(data):
    return data.train, data.val, data.test


def test_links_that_form_loops_are_followed_once(tmp_path, capfd):
    fill(tmp_path, [*names_in("a", 5), *names_in("b/c", 5)])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "c" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "self").symlink_to(tmp_path)
    data = ready(tmp_path)
    assert data.class_names == ["a", "b"]
    assert sum(len(part.y) for part in data.fetch()) == 10
    said = capfd.readouterr().err
    assert "lead to a folder that was read already, and are ignored: a/up, b/c/again, self." in said


def test_links_to_images_and_folders_elsewhere_are_followed(tmp_path):
    fill(tmp_path / "elsewhere", names_in("x", 5))
    fill(tmp_path / "mine", names_in("a", 4))
    (tmp_path / "mine" / "b").symlink_to(tmp_path / "elsewhere" / "x")
    (tmp_path / "mine" / "a" / "link.png").symlink_to(tmp_path / "elsewhere" / "x" / "00.png")
    found = scan(tmp_path / "mine")
    assert [file.class_name for file in found.files] == ["a"] * 5 + ["b"] * 5


def test_images_of_one_pixel(tmp_path):
    fill(tmp_path, names_in("a", 20), (1, 1))
    data = ready(tmp_path)
    assert data.image_shape == (1, 1, 1)
    assert next(iter(data.train_dataloader()))[0].shape == (17, 1, 1, 1)


# Broken files


@pytest.fixture
def broken(tmp_path):
    """A folder with good files and one of each kind of broken file."""
    folder = tmp_path / "mine"
    fill(folder, names_in("good", 12), (16, 24))
    whole = png(pixels(16, 24), "grey")
    save(folder / "bad" / "text.png", b"not an image")
    save(folder / "bad" / "empty.jpg", b"")
    save(folder / "bad" / "truncated.png", whole[:45])
    save(folder / "bad" / "huge.png", png(pixels(16, 24), "grey", size=(30_000, 30_000)))
    save(folder / "bad" / "large.png", png(pixels(16, 24), "grey", size=(10_000, 10_000)))
    save(folder / "bad" / "truncated.jpg", jpeg(pixels(2, 3))[:-5])
    save(folder / "bad" / "truncated.bmp", bmp(pixels(16, 24))[:-9])
    save(folder / "bad" / "truncated.gif", gif(pixels(1, 16, 24), PALETTE)[:-20])
    save(folder / "bad" / "truncated.webp", webp(pixels(16, 24, 3))[:-30])
    save(folder / "bad" / "truncated.tif", tiff(pixels(16, 24), TIFF_BLACK_IS_ZERO)[:-60])
    (folder / "bad" / "lost.png").symlink_to(folder / "nowhere")
    return folder


def test_all_broken_files_are_named(broken):
    with pytest.raises(DataError) as caught:
        ready(broken)
    said = str(caught.value)
    assert said.startswith(f"11 of 23 files in {broken} cannot be decoded: bad/empty.jpg (not an image); ")
    assert said.endswith("; and 1 more. Remove or replace them, or add --data.skip_broken true to leave them out.")
    listed = ["huge.png (more than 89,478,485 pixels)", "large.png (more than 89,478,485 pixels)", "text.png (not an"]
    for text in [*listed, "truncated.bmp", "truncated.gif", "truncated.jpg", "truncated.png", "truncated.tif", "lost"]:
        assert f"bad/{text}" in said
    assert not list((broken / CACHE).glob("*.npz")) or ready(broken, skip_broken=True)


def test_broken_files_can_be_left_out(broken, capfd):
    for _ in range(2):  # decoded, and from the cache
        data = ready(broken, skip_broken=True)
        assert data.class_names == ["good"]
        assert sum(len(part.y) for part in data.fetch()) == 12
        assert f"warning: left out 11 of 23 files in {broken} that cannot be decoded:" in capfd.readouterr().err
    with pytest.raises(DataError, match=r"^11 of 23 files"):
        ready(broken)


def test_a_folder_of_broken_files_only(tmp_path):
    fill(tmp_path, [])
    for i in range(3):
        save(tmp_path / f"{i}.png", b"text")
    with pytest.raises(DataError, match=r"^None of the 3 images in .* can be decoded: 0\.png \(not an image\); 1"):
        ready(tmp_path, skip_broken=True)


def test_decoding_prints_no_warnings(broken):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(broken, skip_broken=True)


def test_an_image_of_another_type_than_its_suffix(tmp_path):
    assert np.array_equal(decoded(tmp_path, png(GREY, "grey"), "a.jpg")[0][0], GREY)
    save(tmp_path / "b.png", b"P5 2 1 255 ab")  # a PGM file, which is none of the allowed types
    assert decode_files(tmp_path, ["b.png"], Decoding()).broken == [("b.png", "not an image")]


def test_too_little_memory(tmp_path, monkeypatch):
    fill(tmp_path, names_in("a", 10), (100, 100))
    monkeypatch.setattr(folder_decoding, "free_memory", lambda: 2 * 100_000)
    assert ready(tmp_path)
    monkeypatch.setattr(folder_decoding, "free_memory", lambda: 2 * 100_000 - 1)
    save(tmp_path / "a" / "00.png", png(pixels(100, 100), "grey"))
    monkeypatch.setattr(folder_decoding, "decode", None)  # nothing is decoded
    with pytest.raises(
        DataError, match=r"^The 10 images in .* \(100 x 100 pixels, 1 channel\) take 0\.0 GB, more than"
    ):
        ready(tmp_path)


def test_too_little_memory_for_the_cache(tmp_path, monkeypatch):
    fill(tmp_path, names_in("a", 10), (100, 100))
    ready(tmp_path)
    monkeypatch.setattr(folder_decoding, "free_memory", lambda: 2 * 100_000 - 1)
    with pytest.raises(DataError, match=r"^The 10 images in .* \(100 x 100 pixels, 1 channel\) take 0\.0 GB, more"):
        ready(tmp_path)


def test_too_few_images_are_refused_before_a_cache_is_written(tmp_path):
    fill(tmp_path, names_in("a", 2))
    with pytest.raises(DataError, match="must hold at least 3 images"):
        ready(tmp_path)
    assert not (tmp_path / CACHE).exists()


def test_results_say_how_images_were_read(tmp_path):
    fill(tmp_path, names_in("a", 5))
    assert ready(tmp_path).images_read_as == ""
    save(tmp_path / "a" / "wide.png", png(pixels(4, 5).astype(np.uint16) * 257, "grey", 16))
    save(tmp_path / "a" / "broken.png", b"hello")
    for _ in range(2):  # without and with a cache
        assert ready(tmp_path, skip_broken=True).images_read_as == (
            "left out 1 of 7 files that cannot be decoded; 1 of 6 images have 16 bits per channel: scaled to 8 bits "
            "(divided by 257 and rounded)"
        )


# The cache


@pytest.fixture
def decodings(monkeypatch):
    """The number of files of each call that decodes."""
    calls = []

    def counting(root, names, options):
        calls.append(len(names))
        return decode_files(root, names, options)

    monkeypatch.setattr(image_folder, "decode_files", counting)
    return calls


def test_a_second_start_reads_the_cache(tmp_path, decodings, capfd):
    fill(tmp_path, names_in("a", 10))
    first = ready(tmp_path)
    assert f"Wrote {tmp_path / CACHE}" in capfd.readouterr().err
    second = ready(tmp_path)
    assert decodings == [10]
    assert capfd.readouterr().err == ""
    assert first.images_hash == second.images_hash
    assert torch.equal(first.grey_pixels("test"), second.grey_pixels("test"))
    assert second.class_names == ["a"]
    ready(tmp_path, binarization="grey", seed=3, val_size=2, batch_size=3)  # options that do not concern decoding
    assert decodings == [10]


def test_other_options_have_caches_of_their_own(tmp_path, decodings):
    fill(tmp_path, names_in("a", 10))
    for _ in range(2):
        for options in ({}, {"size": 3}, {"channels": 3}, {"background": "black"}):
            ready(tmp_path, **options)
    assert decodings == [10] * 4


def rename_class(folder):
    (folder / "a").rename(folder / "b")


def change_content(folder):
    path = folder / "a" / "00.png"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"!", b"?"))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # a nanosecond later


@pytest.mark.parametrize(
    "change",
    [
        change_content,
        lambda folder: (folder / "a" / "00.png").rename(folder / "a" / "99.png"),
        lambda folder: (folder / "a" / "00.png").unlink(),
        lambda folder: fill(folder, ["a/new.png"]),
        rename_class,
    ],
)
def test_changed_files_are_decoded_again(tmp_path, decodings, change):
    fill(tmp_path, names_in("a", 10))
    save(tmp_path / "a" / "00.png", bmp(np.full((4, 5), ord("!"), np.uint8)))
    first = ready(tmp_path).images_hash
    change(tmp_path)
    data = ready(tmp_path)
    assert len(decodings) == 2
    found = {x.numpy().tobytes() for part in data.fetch() for x in part.x}
    names = [file.path for file in scan(tmp_path).files]
    assert found == {x.tobytes() for x in decode_files(tmp_path, names, Decoding()).x}
    assert first != data.images_hash or change is rename_class
    ready(tmp_path)
    assert len(decodings) == 2
    assert len(list((tmp_path / CACHE).glob("*.npz"))) == 1, "the cache of the earlier files is replaced"


def test_a_moved_folder_keeps_its_cache(tmp_path, decodings):
    fill(tmp_path / "a", names_in("x", 10))
    first = ready(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert ready(tmp_path / "b").images_hash == first.images_hash
    assert decodings == [10]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-50], lambda raw: raw[:300] + b"!" + raw[301:], lambda raw: b""])
def test_a_damaged_cache_is_replaced(tmp_path, decodings, damage):
    fill(tmp_path, names_in("a", 40))
    first = ready(tmp_path)
    (path,) = (tmp_path / CACHE).glob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    assert ready(tmp_path).images_hash == first.images_hash
    assert decodings == [40, 40]
    ready(tmp_path)
    assert decodings == [40, 40]


def test_an_unfinished_cache_is_removed(tmp_path, decodings):
    fill(tmp_path, names_in("a", 10))
    ready(tmp_path)
    (path,) = (tmp_path / CACHE).glob("*.npz")
    path.unlink()
    unfinished = tmp_path / CACHE / f".writing-{path.stem}-abc"  # of a process that was killed
    others = tmp_path / CACHE / ".writing-0123456789ab-abc"  # maybe of a process that still runs, with other options
    for folder in (unfinished, others):
        folder.mkdir()
        (folder / path.name).write_bytes(b"PK")
    ready(tmp_path)
    assert decodings == [10, 10]
    assert not unfinished.exists()
    assert others.exists()


def test_a_cache_folder_for_several_image_folders(tmp_path, decodings):
    fill(tmp_path / "a", names_in("x", 10))
    fill(tmp_path / "b", names_in("x", 11))
    cache = tmp_path / "new" / "cache"
    hashes = [ready(tmp_path / name, cache=str(cache)).images_hash for name in "abab"]
    assert decodings == [10, 11]
    assert hashes[:2] == hashes[2:]
    assert len(list(cache.glob("*.npz"))) == 2
    assert not (tmp_path / "a" / CACHE).exists()


def test_no_cache_is_written_to_a_read_only_folder(tmp_path, decodings, capfd):
    fill(tmp_path, names_in("a", 10))
    tmp_path.chmod(0o555)
    try:
        data = ready(tmp_path)
        data.grey_pixels("test")
        assert decodings == [10], "kept in memory instead"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        said = (
            f"No cache of the images is written to {tmp_path / CACHE} (the folder is read-only): set --data.cache DIR"
        )
        assert said in capfd.readouterr().err
        ready(tmp_path, cache=str(tmp_path / "a" / "cache"))
        assert ready(tmp_path, cache=str(tmp_path / "a" / "cache")).images_hash == data.images_hash
    finally:
        tmp_path.chmod(0o755)


def test_a_cache_folder_without_permission_costs_a_message(tmp_path, decodings, capfd, monkeypatch):
    fill(tmp_path / "images", names_in("a", 10))
    monkeypatch.setattr(Path, "exists", denied)  # as in a folder of another user, also for root
    ready(tmp_path / "images", cache=str(tmp_path / "private" / "cache"))
    assert decodings == [10]
    assert "(Permission denied): free space or change --data.cache." in capfd.readouterr().err


def denied(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_full_disk_costs_a_message(tmp_path, decodings, capfd, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    fill(tmp_path, names_in("a", 10))
    monkeypatch.setattr(image_cache.np, "savez", full)
    data = ready(tmp_path)
    data.grey_pixels("test")
    assert decodings == [10]
    assert "(No space left on device): set --data.cache DIR for faster starts." in capfd.readouterr().err
    assert not list((tmp_path / CACHE).glob("*.npz"))
    assert not list((tmp_path / CACHE).glob(".writing*"))


def start(root, log, barrier, results):
    """Load a folder as one of several processes that start at the same time."""
    decode = image_folder.decode_files

    def slow(*args):
        with open(log, "a") as file:
            file.write("decoded\n")
        time.sleep(1)  # longer than the other process takes to arrive
        return decode(*args)

    image_folder.decode_files = slow
    notes = []
    data = ImageFolder(str(root))
    data.note = notes.append
    barrier.wait()
    data.setup()
    results.put((data.images_hash, [note for note in notes if note.startswith("Waiting for another process")]))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, so that the processes need not import everything again")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_decode_once(tmp_path):
    fill(tmp_path / "mine", names_in("a", 10))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=start, args=(tmp_path / "mine", tmp_path / "log", barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    (first, one_waited), (second, other_waited) = results.get(), results.get()
    assert first == second
    assert (tmp_path / "log").read_text() == "decoded\n"
    assert len(one_waited) + len(other_waited) == 1


def test_many_images_are_read_in_order(tmp_path):
    images = fill(tmp_path, [f"{i:04d}.png" for i in range(300)])
    result = decode_files(tmp_path, list(images), Decoding())
    assert np.array_equal(result.x[:, 0], list(images.values()))


# Training and evaluation


QUICK = ["--model.hidden", "[8]", "--model.z_dim", "2", "--trainer.max_epochs", "1", "--num_samples", "5",
         "--callbacks", "[]", "--trainer.enable_progress_bar", "false"]  # fmt: skip


def test_evaluation_finds_the_images_again(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "my digits", [*names_in("a", 20), *names_in("ö", 20)], (6, 9))
    options = ["--data", "ImageFolder", "--data.root", "my digits", "--data.size", "5"]
    assert train.main([*QUICK, *options, "--run_dir", "run"]) == 0
    said = capfd.readouterr().out
    assert "VAE on ImageFolder resized and cropped to 5x5, protocol dynamic: " in said
    assert "ImageFolder my digits resized and cropped to 5x5, protocol dynamic: log p(x) of 4 test images" in said
    assert evaluate.main(["run", "--num_samples", "7"]) == 0
    then = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (tmp_path / "my digits").rename(tmp_path / "moved")
    assert evaluate.main(["run", "--num_samples", "7"]) == 2
    assert "my digits was not found: root must be the folder that holds your images." in capfd.readouterr().err
    assert evaluate.main(["run", "--num_samples", "7", "--data.root", "moved"]) == 0
    now = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (now["nll"], now["images_hash"]) == (then["nll"], then["images_hash"])
    assert now["num_samples"] == 7
    assert "warning" not in capfd.readouterr().err
    fill(tmp_path / "moved", ["a/new.png"], (6, 9))
    assert evaluate.main(["run", "--num_samples", "7", "--data.root", "moved"]) == 0
    assert "warning: the images in moved are not those that VAE was trained on: test" in capfd.readouterr().err


def test_help_and_a_missing_root(capfd):
    with pytest.raises(SystemExit):
        train.main(["--data", "ImageFolder", "--help"])
    said = " ".join(capfd.readouterr().out.split())
    for text in (
        "--data.size",
        "the shorter side is resized (bicubic, antialiased)",
        "--data.skip_broken",
        "--data.cache",
    ):
        assert text in said
    assert train.main(["--data", "ImageFolder"]) == 2
    assert "ImageFolder needs --data.root" in capfd.readouterr().err
