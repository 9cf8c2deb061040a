"""OMNIGLOT: characters of 50 alphabets, as Burda et al. (2015) prepared them and as resized from the originals.

The two data sets show characters of the same alphabets, but their images are made and split differently. Published
likelihoods of OMNIGLOT at 28x28 are of the version of Burda et al.
"""

import contextlib
import io
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.cache import load_or_cache
from datamodules.download import DAMAGED, DataError, check_md5, download_missing, read_file
from datamodules.grayscale import GrayscaleData

SIDE = 28
NUM_ALPHABETS = 50
FILE = "chardata.mat"
ADDRESS = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
# Array of images in the file -> the number of images in it, and the array of their alphabets
ARRAYS = {"data": (24_345, "target"), "testdata": (8_070, "testtarget")}
SPLIT_SEED = 123  # of NumPy's generator, in the code of Burda et al.
MAX_FLOAT_ERROR = 1e-3  # grey levels k/255 in float32 are nearer to k than this
CHUNK = 1000  # images per step of a conversion, which limits the memory for it


class OMNIGLOT(GrayscaleData):
    """OMNIGLOT of Burda et al. (2015), 1x28x28: 24,345 training and 8,070 test images, downloaded if missing.

    The classes are the 50 alphabets, which the file does not name. The validation images are those of the authors'
    code. The test images are shuffled with a fixed seed, so that the first of them are a representative sample.

    Args:
        root: Folder that contains `OMNIGLOT` with the published file chardata.mat, plain or gzipped.
        val_size: Validation images, taken from the training images.
        seed: Seed for choosing kept labels. The validation images do not depend on it.
    """

    version = "Burda et al. 2015"
    md5: ClassVar[str] = "21ecaf34373511aa7691cf2e0802aa3d"  # as public code that downloads the file verifies it

    def __init__(self, root: str = "data", val_size: int = 1345, seed: int = 0, **kwargs):
        super().__init__(val_size=val_size, seed=seed, **kwargs)
        self.folder = Path(root).expanduser() / "OMNIGLOT"

    @property
    def source(self) -> str:
        """The folder of the file."""
        return str(self.folder)

    def prepare_data(self) -> None:
        """Download the file if it is missing."""
        download_missing(self.folder, [FILE], self._download, origin=ADDRESS)

    def fetch(self) -> tuple[Split, Split]:
        """Return the training and test images of the file.

        Raises:
            DataError: If the file is missing or is not the published one.
        """
        path, content = read_file(self.folder, FILE)
        check_md5(path, content, self.md5)
        (train, train_error), (test, test_error) = read_chardata(path, content)
        error = max(train_error, test_error)
        if error > MAX_FLOAT_ERROR:
            self.note(f"The grey values in {path} are rounded to 256 levels, by up to {error / 255:.2g} of white.")
        order = torch.randperm(len(test.y), generator=fixed_generator("order of the test images of OMNIGLOT"))
        return train, test.subset(order)

    def _download(self, folder: Path) -> None:
        with urllib.request.urlopen(ADDRESS) as response, open(folder / FILE, "wb") as file:
            shutil.copyfileobj(response, file)
        check_md5(folder / FILE, (folder / FILE).read_bytes(), self.md5)

    def _split(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the training and the validation images, as the code of Burda et al. chooses them."""
        _, val = super()._split(size)  # validates val_size
        order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(size))
        return order[: -len(val)], order[-len(val) :]


def read_chardata(path: Path, content: bytes) -> list[tuple[Split, float]]:
    """Return the training and test images in the MATLAB file of Burda et al.

    The file holds one image per column, of grey values between 0 and 1 that are stored column by column, and the
    alphabet of each image as a one-hot column.

    Args:
        path: Path of the file, for messages.
        content: Its content.

    Returns:
        For training and test images: the images and their alphabets, and the largest rounding error of a pixel, in
        grey levels.

    Raises:
        DataError: If the content has another format.
    """
    from scipy.io import loadmat

    names = [name for images, (_, labels) in ARRAYS.items() for name in (images, labels)]
    try:
        arrays = loadmat(io.BytesIO(content), variable_names=names)  # runs no code, whatever the content
    except Exception as error:  # scipy raises many types; each means that the file is not a valid one
        raise DataError(f"{path} is not a MATLAB file: {DAMAGED}") from error
    if missing := [name for name in names if name not in arrays]:
        raise DataError(f"{path} lacks the arrays {', '.join(missing)}: {DAMAGED}")
    parts: list[tuple[Split, float]] = []
    for images, (size, labels) in ARRAYS.items():
        check_array(path, images, arrays[images], (SIDE * SIDE, size))
        check_array(path, labels, arrays[labels], (NUM_ALPHABETS, size))
        levels, rounding_error = to_levels(arrays[images])
        x = levels.reshape(size, SIDE, SIDE).swapaxes(1, 2)  # stored column by column
        alphabets = from_one_hot(arrays[labels])
        split = Split(torch.from_numpy(np.ascontiguousarray(x[:, None])), torch.from_numpy(alphabets))
        parts.append((split, rounding_error))
    return parts


def check_array(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise DataError unless an array holds numbers between 0 and 1 in the published shape."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} is not an array of real numbers: {DAMAGED}")
    if array.shape != shape:
        raise DataError(f"{path}: {name} is an array {array.shape}, the published one is {shape}: {DAMAGED}")
    if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
        raise DataError(f"{path}: {name} holds values outside 0 to 1: {DAMAGED}")


def from_one_hot(target: np.ndarray) -> np.ndarray:
    """Return the row of the single 1 in each column (classes, N), int64 (N,); -1 for a column that is not one-hot."""
    is_one_hot = ((target == 1).sum(0) == 1) & ((target != 0).sum(0) == 1)
    return np.where(is_one_hot, target.argmax(0), -1)


def to_levels(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return grey values between 0 and 1, one image per column, as the nearest levels 0 to 255, one image per row.

    Args:
        x: Grey values, (pixels, N).

    Returns:
        Levels, uint8 (N, pixels), and the largest rounding error in levels; 0 for values k/255, up to float precision.
    """
    levels = np.empty(x.shape[::-1], np.uint8)
    error = 0.0
    for start in range(0, x.shape[1], CHUNK):
        exact = x[:, start : start + CHUNK].T * np.float64(255)
        rounded = np.rint(exact)
        error = max(error, np.abs(exact - rounded).max().item())
        levels[start : start + CHUNK] = rounded
    return levels, error


class Omniglot28(GrayscaleData):
    """The original images of OMNIGLOT, inverted and resized to 1x28x28; not the version of published likelihoods.

    19,280 background images of 30 alphabets train and validate, 13,180 evaluation images of 20 other alphabets test.
    The originals have 105x105 pixels, black on white. They are inverted and resized by bilinear interpolation with
    antialiasing. The alphabets are the classes. Training and test images are those of torchvision's `Omniglot`,
    downloaded if missing. The first start writes the resized images to images_28x28.npz next to the files, and later
    starts read it. It is not written to a read-only folder.

    Args:
        root: Folder that contains `omniglot-py` with images_background.zip and images_evaluation.zip.
        val_size: Validation images, taken from the background images.
    """

    version = "resized from 105x105"

    def __init__(self, root: str = "data", val_size: int = 1280, **kwargs):
        super().__init__(val_size=val_size, **kwargs)
        self.folder = Path(root).expanduser() / "omniglot-py"

    @property
    def source(self) -> str:
        """The folder of the files."""
        return str(self.folder)

    def prepare_data(self) -> None:
        """Download missing files with torchvision."""
        origin = "https://github.com/brendenlake/omniglot/tree/master/python"
        download_missing(self.folder, list(zip_files()), self._download, origin=origin)

    def fetch(self) -> tuple[Split, Split]:
        """Return the background images to train on and the evaluation images as test images, resized.

        Raises:
            DataError: If a file is missing or is not the published one.
        """
        path = self.folder / f"images_{SIDE}x{SIDE}.npz"
        key = " ".join((*zip_files().values(), "bilinear"))
        arrays, was_written = load_or_cache(path, key, self._resize_all, pack=as_dict, unpack=as_dict)
        if was_written:
            self.note(f"Wrote {path}, the resized images, for faster starts.")
        self.class_names = arrays["alphabets"].tolist()
        train, test = (
            Split(torch.from_numpy(arrays[f"x_{part}"])[:, None], torch.from_numpy(arrays[f"y_{part}"]))
            for part in ("background", "evaluation")
        )
        order = torch.randperm(len(test.y), generator=fixed_generator("order of the test images of Omniglot28"))
        return train, test.subset(order)

    def _download(self, folder: Path) -> None:
        from torchvision.datasets import Omniglot
        from torchvision.datasets.utils import download_url

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for name, md5 in zip_files().items():
                download_url(f"{Omniglot.download_url_prefix}/{name}", folder, name, md5)

    def _resize_all(self) -> dict[str, np.ndarray]:
        """Return the resized images `x_background` and `x_evaluation`, their labels `y_...`, and `alphabets`."""
        arrays: dict[str, np.ndarray] = {}
        alphabets: list[str] = []
        for name, md5 in zip_files().items():
            path, content = read_file(self.folder, name)
            check_md5(path, content, md5)
            try:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    x, labels = read_archive(archive)
            except Exception as error:  # zipfile and Pillow raise many types; each means that the file is not valid
                raise DataError(f"{path} is not a zip file of images of one size: {DAMAGED}") from error
            alphabets += sorted(set(labels))  # no alphabet is in both files
            part = name.removeprefix("images_").removesuffix(".zip")
            arrays[f"x_{part}"] = x
            arrays[f"y_{part}"] = np.array([alphabets.index(label) for label in labels])
        return arrays | {"alphabets": np.array(alphabets)}


def as_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in a dictionary; those of an .npz file are read."""
    return dict(arrays)


def zip_files() -> dict[str, str]:
    """Return the names of the published files of the background and the evaluation images, and their MD5 checksums."""
    from torchvision.datasets import Omniglot

    return {f"{name}.zip": md5 for name, md5 in Omniglot.zips_md5.items()}


def read_archive(archive: zipfile.ZipFile) -> tuple[np.ndarray, list[str]]:
    """Return the images in an archive of OMNIGLOT, inverted and resized, uint8 (N, H, W), and the alphabet of each.

    An image has the path FOLDER/ALPHABET/CHARACTER/NAME.png. The images are sorted by their paths.
    """
    paths = sorted(path for path in archive.namelist() if path.endswith(".png") and path.count("/") == 3)
    resized = [resize(255 - images) for images in read_chunks(archive, paths)]
    return np.concatenate(resized), [path.split("/")[1] for path in paths]


def read_chunks(archive: zipfile.ZipFile, paths: list[str]) -> Iterator[np.ndarray]:
    """Yield the images of these paths in chunks, uint8 (n, H, W)."""
    from PIL import Image

    for start in range(0, len(paths), CHUNK):
        chunk = paths[start : start + CHUNK]
        yield np.stack([np.asarray(Image.open(io.BytesIO(archive.read(path))).convert("L")) for path in chunk])


def resize(images: np.ndarray) -> np.ndarray:
    """Return images resized to 28x28 by bilinear interpolation with antialiasing, uint8 (n, 28, 28)."""
    x = torch.from_numpy(images)[:, None].float()
    x = interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8)[:, 0].numpy()
