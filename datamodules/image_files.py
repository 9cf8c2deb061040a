"""Find the image files in a folder, with their splits and classes."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datamodules.download import DataError
from datamodules.labels import list_names

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = "PNG, JPEG, BMP, GIF, WebP or TIFF"
SPLITS = ("train", "val", "test")
# Names in lower case that people give to folders of splits. The classes of a data set are not called like this.
NAMES_OF_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
# Files and folders that operating systems create; hidden ones are ignored anyway
SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin"}


class ImageFile(NamedTuple):
    """One image file. Its class is None if it is in no class folder."""

    path: str  # relative to the root, with / between folders
    split: str | None  # "train", "val" or "test", None if the root has no such sub-folders
    class_name: str | None
    num_bytes: int
    modified_ns: int


@dataclass
class Scan:
    """Image files of a folder in sorted order, and what else it holds."""

    files: list[ImageFile] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)  # those of SPLITS that are sub-folders of the root
    empty_folders: list[str] = field(default_factory=list)  # class folders without images
    other_files: Counter = field(default_factory=Counter)  # number of files of other types by suffix
    loops: list[str] = field(default_factory=list)  # links to a folder that contains them


def scan(root: Path) -> Scan:
    """Return the image files below `root`, sorted by path.

    Sub-folders named train, val and test hold the splits. Within them, or else within the root, each sub-folder is a
    class, and images that are in none have no class. Deeper sub-folders belong to the class that contains them.

    Raises:
        DataError: If the folder is missing, unreadable, or mixes splits and classes.
    """
    try:
        is_file, is_folder = root.is_file(), root.is_dir()
    except OSError as error:  # such as a folder without permission above it
        raise DataError(f"{root} cannot be read: {error.strerror}.") from error
    if is_file:
        raise DataError(f"{root} is a file, but ImageFolder reads a folder of images; --data NPZ reads .npz files.")
    if not is_folder:
        raise DataError(f"{root} was not found: root must be the folder that holds your images.")
    found = Scan()
    folders, files = list_folder(root)
    found.splits = [name for name in SPLITS if name in folders]
    if not found.splits:
        check_class_folders(root, sorted(folders))
        scan_split(root, "", None, found)
    else:
        check_split_folders(root, found.splits, folders, files)
        for name in found.splits:
            scan_split(root, name, name, found)
        count_other_files(files.values(), found)
    found.files.sort(key=lambda file: (readable(file.path), file.path))  # the same order on all operating systems
    return found


def check_class_folders(root: Path, folders: list[str]) -> None:
    """Raise DataError if the class folders have names of splits, such as Train and Test, or training and testing."""
    if folders and all(name.lower() in NAMES_OF_SPLITS for name in folders):
        present = list_names([f"{name}/" for name in folders])
        raise DataError(
            f"{root} has {present}: rename them to train/, val/ and test/ if they are splits. Give them other names if "
            "they are classes."
        )


def check_split_folders(root: Path, splits: list[str], folders: dict, files: dict) -> None:
    """Raise DataError if a folder with splits has no training images, or images that belong to no split."""
    present = list_names([f"{name}/" for name in splits])
    if "train" not in splits:
        raise DataError(
            f"{root} has {present} but no train/: put the training images into train/, or rename the folders if they "
            "are classes."
        )
    others = [f"{name}/" for name in sorted(set(folders) - set(splits))]
    if others:
        raise DataError(
            f"{root} has {present} and also {list_names(others)}: next to train/, only val/ and test/ may hold images. "
            "Move the others away, or rename train/ if it is a class."
        )
    images = [name for name in sorted(files) if is_image(name)]
    if images:
        raise DataError(
            f"{root} has {present} and also images outside of them, such as {images[0]}: move them into one of these "
            "folders."
        )


def scan_split(root: Path, folder: str, split: str | None, found: Scan) -> None:
    """Add the images of one split, which are in `folder` and in its class folders, to `found`."""
    identity = folder_identity(root / folder)
    folders, files = list_folder(root / folder)
    add_files(folder, files, split, None, found)
    for name in sorted(folders):
        class_folder = f"{folder}/{name}" if folder else name
        before = len(found.files), len(found.loops)
        # A set of visited folders: each is read once per class, even if several links lead to it
        visited = {folder_identity(root), identity}
        for path, files_of_path in walk(root, class_folder, visited, found):
            add_files(path, files_of_path, split, readable(name), found)
        if (len(found.files), len(found.loops)) == before:
            found.empty_folders.append(class_folder)


def walk(root: Path, folder: str, visited: set, found: Scan) -> Iterator[tuple[str, dict]]:
    """Yield `folder` and all folders below it, with their files. A folder that was visited before is left out."""
    identity = folder_identity(root / folder)
    if identity in visited:
        found.loops.append(folder)
        return
    visited.add(identity)
    folders, files = list_folder(root / folder)
    yield folder, files
    for name in sorted(folders):
        yield from walk(root, f"{folder}/{name}", visited, found)


def folder_identity(path: Path) -> tuple[int, int] | str:
    """Return what is equal for two paths to the same folder."""
    status = path.stat()
    return (status.st_dev, status.st_ino) if status.st_ino else str(path.resolve())


def list_folder(path: Path) -> tuple[dict[str, os.DirEntry], dict[str, os.DirEntry]]:
    """Return the sub-folders and the files of a folder by name, without hidden ones and those of operating systems.

    Raises:
        DataError: If the folder cannot be read.
    """
    folders, files = {}, {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                    continue
                if entry.is_symlink() and not os.path.exists(entry.path):
                    files[entry.name] = entry  # the target is missing, or the link itself: reported as a broken file
                elif entry.is_dir():
                    folders[entry.name] = entry
                elif entry.is_file():
                    files[entry.name] = entry
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return folders, files


def is_image(name: str) -> bool:
    """Return whether a file has the name of an image."""
    return name.lower().endswith(SUFFIXES)


def add_files(folder: str, files: dict[str, os.DirEntry], split: str | None, class_name: str | None, found: Scan):
    """Add the images among the files of a folder to `found`, and count the others."""
    for name, entry in files.items():
        if is_image(name):
            try:
                status = entry.stat()
                num_bytes, modified_ns = status.st_size, status.st_mtime_ns
            except OSError:  # the target of a link is missing; decoding names the reason
                num_bytes, modified_ns = -1, -1
            path = f"{folder}/{name}" if folder else name
            found.files.append(ImageFile(path, split, class_name, num_bytes, modified_ns))
    count_other_files(files.values(), found)


def count_other_files(entries, found: Scan) -> None:
    """Count the files that are not images by suffix."""
    for entry in entries:
        if not is_image(entry.name):
            found.other_files[readable(Path(entry.name).suffix.lower()) or "no suffix"] += 1


def readable(name: str) -> str:
    """Return a file name as text that can be stored and printed, the same on all operating systems.

    Bytes that are not UTF-8 are written as \\xNN, so that different names remain different. macOS stores letters and
    their accents separately; here, each is one letter.
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
