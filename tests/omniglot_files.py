"""Small files in the formats of OMNIGLOT's published ones."""

import io
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat

SIDE = 28
SIZES = {"data": 60, "testdata": 20}
BACKGROUND = {"Latin": 2, "Alphabet_of_the_Magi": 3}  # alphabet -> number of its characters
EVALUATION = {"Tibetan": 2, "Angelic": 1}
DRAWINGS = 4  # of each character


def arrays(**changes):
    """The arrays of chardata.mat as MATLAB writes them: one image per column."""
    random = np.random.default_rng(0)
    contents = {}
    for name, size in SIZES.items():
        prefix = name.removesuffix("data")
        alphabets = np.arange(size) % 50
        contents[name] = random.integers(0, 256, (SIDE * SIDE, size)) / 255
        contents[f"{prefix}target"] = np.eye(50)[alphabets].T
        contents[f"{prefix}targetchar"] = np.ones((1, size))
    return contents | changes


def chardata(**changes):
    """The content of a chardata.mat; `changes` replace or, if None, remove arrays."""
    file = io.BytesIO()
    savemat(file, {k: v for k, v in arrays(**changes).items() if v is not None}, do_compression=True)
    return b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:]  # instead of a header with the time


def drawing(number):
    """An original image: 105x105, black strokes on white, as 1-bit pixels."""
    random = np.random.default_rng(number)
    ink = np.zeros((105, 105), bool)
    for row, column in random.integers(0, 90, (3, 2)):
        ink[row : row + 3, column : column + 15] = True
    return ~ink


def archive(folder, alphabets):
    """The content of images_background.zip or images_evaluation.zip, and the drawings by their paths."""
    drawings = {}
    for alphabet, characters in alphabets.items():
        for character in range(1, characters + 1):
            for number in range(1, DRAWINGS + 1):
                path = f"{folder}/{alphabet}/character{character:02}/{len(drawings):04}_{number:02}.png"
                drawings[path] = drawing(len(drawings))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for parent in (f"{folder}/", *(f"{folder}/{alphabet}/" for alphabet in alphabets)):
            zipped.writestr(zipfile.ZipInfo(parent), "")
        for path, pixels in reversed(drawings.items()):  # out of order
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            zipped.writestr(zipfile.ZipInfo(path), content.getvalue())
    return file.getvalue(), drawings


def archives():
    """The two published zip files, by name."""
    return {
        f"images_{part}.zip": archive(f"images_{part}", alphabets)[0]
        for part, alphabets in (("background", BACKGROUND), ("evaluation", EVALUATION))
    }
