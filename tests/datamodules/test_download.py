import gzip
import os
import socket
from http.client import IncompleteRead
from pathlib import Path

import pytest

from datamodules.download import DataError, check_md5, download_missing, find_file, read_file

NAMES = ("a", "b")


def write(folder):
    for name in NAMES:
        (folder / name).write_text(name)


def forbidden(folder):
    raise AssertionError("it was downloaded")


def test_files_are_found_plain_or_gzipped(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello"))
    assert read_file(tmp_path, "a") == (tmp_path / "a.gz", b"hello")
    (tmp_path / "a").write_bytes(b"plain")
    assert read_file(tmp_path, "a") == (tmp_path / "a", b"plain")
    assert find_file(tmp_path, "b") is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"^a was not found in {tmp_path}: put a into {tmp_path}, plain or as .gz"):
        read_file(tmp_path, "a")


def test_gzip_is_detected_from_the_content(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(b"hello"))
    (tmp_path / "b.gz").write_bytes(b"hello")
    assert read_file(tmp_path, "a") == (tmp_path / "a", b"hello")
    assert read_file(tmp_path, "b") == (tmp_path / "b.gz", b"hello")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_file_names_of_other_decompressors(tmp_path, suffix):
    path = tmp_path / f"t10k-labels.idx1-ubyte{suffix}"
    path.write_bytes(b"hello")
    assert find_file(tmp_path, "t10k-labels-idx1-ubyte") == path


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"hello")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=rf"^{tmp_path / 'a'} cannot be read: Permission denied\.$"):
        read_file(tmp_path, "a")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[:12] + b"??" + raw[14:]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(99))))
    with pytest.raises(DataError, match=rf"^{path} is truncated or damaged: replace it by the published file, or move"):
        read_file(tmp_path, "a")


def test_md5(tmp_path):
    check_md5(tmp_path, b"hello", "5d41402abc4b2a76b9719d911017c592")
    with pytest.raises(
        DataError, match=rf"^{tmp_path} does not have the published content \(md5 5d41.*: replace it by"
    ):
        check_md5(tmp_path, b"hello", "0" * 32)


def test_a_download_moves_complete_files_into_place(tmp_path):
    folder = tmp_path / "new" / "raw"
    download_missing(folder, NAMES, write)
    assert (folder / "a").read_text() == "a"
    assert (folder / "b").read_text() == "b"
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_existing_files_are_not_downloaded(tmp_path):
    write(tmp_path)
    (tmp_path / "a").rename(tmp_path / "a.gz")
    download_missing(tmp_path, NAMES, forbidden)
    assert len(list(tmp_path.iterdir())) == 2, "a folder that is complete needs no lock"


def test_only_the_first_of_many_processes_downloads(tmp_path, monkeypatch):
    from datamodules import download

    class Taken:
        """A lock that another process held until its download was done."""

        def __init__(self, path):
            assert path.parent == tmp_path

        def __enter__(self):
            write(tmp_path)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(download, "FileLock", Taken)
    download_missing(tmp_path, NAMES, forbidden)


@pytest.mark.parametrize(
    "error", [OSError("unreachable"), RuntimeError("Tried a:\nunreachable\n"), IncompleteRead(b""), DataError("bad")]
)
def test_an_interrupted_download_leaves_no_files(tmp_path, error):
    def breaks(folder):
        (folder / "a").write_text("half")
        raise error

    folder = tmp_path / "new" / "raw"
    with pytest.raises(DataError) as caught:
        download_missing(folder, NAMES, breaks)
    reason = str(error).strip().splitlines()[-1]
    assert str(caught.value) == (
        f"{folder} lacks files and the download failed ({reason}): put a, b into {folder}, plain or as .gz."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_keeps_existing_files(tmp_path):
    (tmp_path / "a").write_text("a")

    def breaks(folder):
        raise OSError("unreachable")

    with pytest.raises(DataError, match="unreachable"):
        download_missing(tmp_path, NAMES, breaks)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_socket_timeout_applies_only_to_downloads(tmp_path):
    seen = []

    def fetch(folder):
        seen.append(socket.getdefaulttimeout())
        write(folder)

    before = socket.getdefaulttimeout()
    download_missing(tmp_path, NAMES, fetch)
    assert seen[0]
    assert seen[0] <= 30
    assert socket.getdefaulttimeout() == before
