"""Printing on any terminal, into pipes that nobody reads, and with streams that are closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.streams import transliterate

SAY = """
import sys
from cli import streams
streams.prepare_streams()
print("NLL \\xb1 SE, R\\xb2, 3\\xb0, caf\\xe9, \\u2014 \\u4e2d", flush=True)
print("and \\xb1", file=sys.stderr)
for _ in range(20_000):
    print("more than a pipe holds")
open("done", "w").close()
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_an_ascii_terminal_gets_ascii(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == b"NLL +- SE, R^2, 3deg, cafe, - ?"
    assert done.stderr == b"and +-\n"


@pytest.mark.parametrize(("encoding", "text"), [
    ("utf-8", "± °² \u2013 é \u4e2d"), ("cp1252", "± °² \u2013 é ?"), ("latin-1", "± °² - é ?"),
    ("ascii", "+- deg^2 - e ?"),
])  # fmt: skip
def test_unencodable_characters_are_transliterated(encoding, text):
    assert transliterate("± °² \u2013 é \u4e2d", encoding) == text


@pytest.mark.parametrize("redirection", [" | head -1", " >&-", " 2>&- | head -1", " <&- | head -1", " | true"])
def test_a_closed_pipe_or_stream_does_not_stop_the_program(tmp_path, redirection):
    if os.name == "nt":
        pytest.skip("needs a POSIX shell")
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1"{redirection}', sys.executable, SAY],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "done").exists()
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_undecodable_bytes_of_file_names_are_printed_unchanged(tmp_path):
    say = "from cli import streams; streams.prepare_streams(); print('a\\udce9b')"
    done = subprocess.run(
        [sys.executable, "-c", say],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a\xe9b\n"
