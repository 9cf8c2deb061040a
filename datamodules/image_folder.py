"""User images from a folder of image files."""

import hashlib
import os
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, get_args

import PIL
import torch
from torch import Tensor

from datamodules import image_decoding as decoding
from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.download import DataError
from datamodules.folder_decoding import DecodedImages, check_memory, decode_files
from datamodules.grayscale import GrayscaleData
from datamodules.image_cache import load_or_decode
from datamodules.image_decoding import Background, Decoding
from datamodules.image_files import FORMATS, ImageFile, Scan, scan
from datamodules.labels import list_names, sort_labels

CACHE_FOLDER = ".elbo-room-cache"  # within the folder of the images; hidden, so that it is not read as a class
CACHE_VERSION = 1  # to be raised if the same files are decoded differently
MAX_LISTED = 10  # broken files in a message
NOTES = {
    decoding.SCALED: "have 16 bits per channel: scaled to 8 bits (divided by 257 and rounded)",
    decoding.COMPOSITED: "are transparent: composited on {background}",
    decoding.CONVERTED: "are CMYK: converted to RGB without a colour profile",
    decoding.TURNED: "are turned or mirrored to upright, as their metadata say",
    decoding.FIRST_FRAME: "have several frames or pages: only the first one is used",
}


class ImageFolder(GrayscaleData):
    """Your own images: a folder of PNG, JPEG, BMP, GIF, WebP or TIFF files, whose sub-folders are the classes.

    If the folder has a sub-folder train, it holds the training images, and sub-folders val and test, if present, the
    validation and test images. Otherwise, or without test, a fixed random tenth of the images is the test set.
    Images in no class folder are unlabelled. Classes are numbered in the order of their sorted names.

    All images become uint8. If all are grey they have one channel, otherwise three. 16-bit levels are divided by 257
    and rounded, transparent images are composited on `background`, CMYK is converted to RGB, and images are turned as
    their metadata say. Only the first frame of an animation is used. Colour profiles are ignored.

    The decoded images are cached in one file, and decoded again if the name, size or time of a file changes.

    Args:
        root: The folder of the images.
        size: Make all images size x size pixels: the shorter side is resized (bicubic, antialiased), the longer one
            cropped at both ends. Without it, all images must have the same size.
        channels: 1 (colours are converted to grey levels) or 3; by default 1 if all images are grey, otherwise 3.
        background: Background of transparent images: white or black.
        skip_broken: Leave out files that cannot be decoded, instead of stopping.
        cache: Folder for the cache of decoded images; by default the hidden folder .elbo-room-cache in root. No cache
            is written to a read-only folder.
        val_size: Validation images, taken from the training images; a tenth of them by default. Not allowed if there is
            a sub-folder val.
    """

    reads_user_files = True

    def __init__(
        self,
        root: str,
        size: int | None = None,
        channels: Literal[1, 3] | None = None,
        background: Background = "white",
        skip_broken: bool = False,
        cache: str | None = None,
        val_size: int | None = None,
        **kwargs,
    ):
        super().__init__(val_size=val_size, **kwargs)
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, not {size}.")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, not {channels}.")
        if background not in get_args(Background):
            raise ValueError(f'background must be white or black, not "{background}".')
        self.path = Path(root).expanduser()
        self.decoding = Decoding(size, channels, background)
        self.skip_broken = skip_broken
        self.cache = cache
        self._scan: Scan | None = None
        self._uncached: DecodedImages | None = None  # kept only if there is no cache to read them from again
        self._num_train: int | None = None  # number of images in train/, if there is a val/

    @property
    def source(self) -> str:
        """The path of the folder."""
        return str(self.path)

    @property
    def variant(self) -> str:
        """Description of the resizing, the conversion of channels and the random transformations."""
        size, channels, _ = self.decoding
        parts = [
            f"resized and cropped to {size}x{size}" if size else "",
            {1: "converted to grey", 3: "as RGB"}.get(channels, ""),
            super().variant,
        ]
        return ", ".join(filter(None, parts))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores in addition to the options.

        The class names, a hash of the images, and `images_read_as` if images were converted or left out.
        """
        read_as = {"images_read_as": self.images_read_as} if self.images_read_as else {}
        return {**super().state_dict(), "images_hash": self.images_hash, **read_as}

    def fetch(self) -> tuple[Split, Split]:
        """Return the training images, followed by those of val/ if there is one, and the test images.

        Raises:
            DataError: If the folder or a file cannot be used.
        """
        if self._scan is None:
            found = self._find_files()
            self._check_counts(
                {name: [file for file in found.files if file.split == name] for name in found.splits}, len(found.files)
            )
            self._scan = found
        images = self._uncached or self._load()
        files = [file for file, kept in zip(self._scan.files, images.is_decoded, strict=True) if kept]
        everything = Split(torch.from_numpy(images.x), self._read_classes(files))
        index = {name: [i for i, file in enumerate(files) if file.split == name] for name in self._scan.splits}
        return self._split_off_test(
            everything, {name: torch.tensor(part, dtype=torch.int64) for name, part in index.items()}
        )

    def _find_files(self) -> Scan:
        """Return the files of the folder, and print what is unusual about them."""
        found = scan(self.path)
        others = [f"{suffix} ({count})" for suffix, count in sorted(found.other_files.items())]
        if not found.files:
            contents = f"only other files, {list_names(others)}" if others else "no files except hidden ones"
            raise DataError(f"{self.path} holds no images ({FORMATS}): {contents}.")
        if self.val_size is not None and "val" in found.splits:
            raise DataError(f"{self.path} has val/, which holds the validation images: leave val_size out.")
        if others:
            self.note(f"Ignored in {self.path}, by suffix: {list_names(others)}. Images are {FORMATS}.")
        if found.empty_folders:
            self.note(
                f"warning: no images in {list_names(found.empty_folders)} of {self.path}: left out of the classes."
            )
        if found.loops:
            self.note(
                f"warning: links in {self.path} lead to a folder that was read already, and are ignored: "
                f"{list_names(found.loops)}."
            )
        self._warn_of_unusual_classes(found)
        return found

    def _warn_of_unusual_classes(self, found: Scan) -> None:
        """Print warnings about classes that may be other folders than the user means."""
        spellings: dict[str, set[str]] = {}
        for file in found.files:
            if file.class_name is not None:
                spellings.setdefault(file.class_name.casefold(), set()).add(file.class_name)
        if similar := [" and ".join(sorted(names)) for names in spellings.values() if len(names) > 1]:
            self.note(f"warning: classes in {self.path} differ only in upper and lower case: {list_names(similar)}.")
        # Without splits, the path of an image that is directly in a class folder has two parts.
        parts = [file.path.split("/") for file in found.files]
        inner = sorted({path[1] for path in parts if len(path) > 2})
        if not found.splits and len(spellings) == 1 and len(inner) > 1 and all(len(path) > 2 for path in parts):
            folder = self.path / parts[0][0]
            self.note(
                f"warning: all images in {self.path} are in one class, {parts[0][0]}, whose sub-folders are "
                f"{list_names(inner)}: if these are the classes, use --data.root {folder}."
            )

    def _load(self) -> DecodedImages:
        """Return the decoded images, from the cache if it is current.

        Raises:
            DataError: If files are broken, sizes differ or the memory is too small.
        """
        folder = Path(self.cache).expanduser() if self.cache else self.path / CACHE_FOLDER
        path = folder / self._cache_name()
        waiting = f"Waiting for another process that decodes the images of {self.path}."
        result = load_or_decode(
            path,
            self._fingerprint(),
            self._decode,
            on_wait=lambda: self.note(waiting),
            check_size=lambda count, shape: check_memory(self.path, count, shape),
        )
        images = result.images
        self._report(images)
        if result.problem:
            remedy = "free space or change --data.cache" if self.cache else "set --data.cache DIR for faster starts"
            self.note(f"No cache of the images is written to {folder} ({result.problem}): {remedy}.")
        elif not result.was_read:
            self.note(f"Wrote {path}, from which later starts read the decoded images.")
        if not result.is_cached:
            self._uncached = images
        return images

    def _report(self, images: DecodedImages) -> None:
        """Print what was done to the images and which files are broken, and set `images_read_as`.

        Raises:
            DataError: If files are broken and may not be left out.
        """
        read_as = []
        if images.broken:
            count = len(images.broken)
            subject = f"{count:,} of {len(images.is_decoded):,} files"
            listed = "; ".join(f"{name} ({reason})" for name, reason in images.broken[:MAX_LISTED])
            more = f"; and {count - MAX_LISTED} more" if count > MAX_LISTED else ""
            if not self.skip_broken:
                raise DataError(
                    f"{subject} in {self.path} cannot be decoded: {listed}{more}. Remove or replace them, or add "
                    "--data.skip_broken true to leave them out."
                )
            if not len(images.x):
                raise DataError(f"None of the {count} images in {self.path} can be decoded: {listed}{more}.")
            self.note(f"warning: left out {subject} in {self.path} that cannot be decoded: {listed}{more}.")
            read_as.append(f"left out {subject} that cannot be decoded")
        for kind, text in NOTES.items():
            if number := images.done.get(kind):
                text = text.format(background=self.decoding.background)
                self.note(f"{number:,} of {len(images.x):,} images in {self.path} {text}.")
                read_as.append(f"{number:,} of {len(images.x):,} images {text}")
        self.images_read_as = "; ".join(read_as)

    def _cache_name(self) -> str:
        """Return the name of the cache file: one per choice of options and, in a common folder, per root."""
        key = [*self.decoding, str(self.path.resolve()) if self.cache else ""]
        return f"{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}.npz"

    def _fingerprint(self) -> str:
        """Return a hash of the options and of the names, sizes and times of all files."""
        digest = hashlib.sha256(repr([CACHE_VERSION, PIL.__version__, *self.decoding]).encode())
        for file in self._scan.files:
            digest.update(repr((os.fsencode(file.path), file.num_bytes, file.modified_ns)).encode())
        return digest.hexdigest()

    def _decode(self) -> DecodedImages:
        """Decode all files."""
        return decode_files(self.path, [file.path for file in self._scan.files], self.decoding)

    def _read_classes(self, files: Sequence[ImageFile]) -> Tensor:
        """Return the class of each file, -1 for unlabelled images, and set `class_names`."""
        names = sort_labels({file.class_name for file in files if file.class_name is not None})
        self.class_names = names or None
        index = {None: -1} | {name: i for i, name in enumerate(names)}
        return torch.tensor([index[file.class_name] for file in files])

    def _split_off_test(self, images: Split, folders: dict[str, Tensor]) -> tuple[Split, Split]:
        """Return training and test images, and set `_num_train` if there is a folder of validation images.

        Images are sorted by class and name on disk. Each split is shuffled with a fixed seed, so that its first images
        are a representative sample.

        Args:
            images: All images.
            folders: Indices of the images in each of the folders train, val and test that exist.

        Raises:
            DataError: If there are too few images.
        """
        self._check_counts(folders, len(images.y))
        train = shuffled(folders.get("train", torch.arange(len(images.y))), "training images")
        val = shuffled(folders.get("val", torch.tensor([], dtype=torch.int64)), "validation images")
        if "test" in folders:
            test = shuffled(folders["test"], "test images")
        else:
            test_size = max(1, len(train) // 10)
            train, test = train[test_size:], train[:test_size]
        self._num_train = len(train) if "val" in folders else None
        return images.subset(torch.cat([train, val])), images.subset(test)

    def _check_counts(self, folders: Mapping[str, Sized], num_images: int) -> None:
        """Raise DataError if there are too few images to fill all splits.

        Args:
            folders: The images in each of the folders train, val and test that exist.
            num_images: Number of all images.
        """
        for name, index in folders.items():
            if not len(index):
                raise DataError(f"{self.path / name} holds no images ({FORMATS}): add some, or remove the folder.")
        folder, size = (self.path / "train", len(folders["train"])) if folders else (self.path, num_images)
        purposes = ["train"] + ["validate"] * ("val" not in folders) + ["test"] * ("test" not in folders)
        if size < len(purposes):
            *others, last = purposes
            uses = f"{', '.join(others)} and {last}"
            raise DataError(f"{folder} must hold at least {len(purposes)} images (to {uses}), not {size}.")

    def _split(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the training and the validation images: those of the folder val if there is one."""
        if self._num_train is None:
            return super()._split(size)
        return torch.arange(self._num_train), torch.arange(self._num_train, size)


def shuffled(index: Tensor, name: str) -> Tensor:
    """Return indices in an order that only depends on their number and `name`."""
    return index[torch.randperm(len(index), generator=fixed_generator(f"{name} of an ImageFolder"))]
