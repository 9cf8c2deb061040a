"""Standard output and error streams that handle any encoding, closed pipes and closed streams."""

import codecs
import errno
import io
import os
import sys
import unicodedata

ASCII_HANDLER = "elbo-room-ascii"  # name of the error handler in `codecs`
# Replacements of characters that an encoding lacks. Other letters lose their accents, other characters become ?.
TRANSLITERATIONS = {
    "\xb1": "+-",
    "\xb2": "^2",
    "\xb3": "^3",
    "\xb0": "deg",
    "\xd7": "x",
    "\xb7": "*",
    "\u2026": "...",
    "\u2013": "-",
    "\u2014": "-",
    "\u2212": "-",
    "\u2192": "->",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2248": "~",
    "\u221e": "inf",
    "\u03c3": "sigma",
    "\u03bc": "mu",
    "\u03b1": "alpha",
    "\u03b2": "beta",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
}
# Errors of writing to a closed pipe, a closed terminal, a closed file, and a closed pipe on Windows
CLOSED_STREAM_ERRORS = (errno.EPIPE, errno.EIO, errno.EBADF, errno.EINVAL)


def transliterate(text: str, encoding: str = "ascii") -> str:
    """Return the text with characters that the encoding lacks replaced by ASCII, such as `±` by `+-`."""
    return "".join(char if is_encodable(char, encoding) else to_ascii(char) for char in text)


def is_encodable(text: str, encoding: str) -> bool:
    """Return whether an encoding has all characters of a text."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def to_ascii(char: str) -> str:
    """Return the ASCII replacement of a character."""
    return TRANSLITERATIONS.get(char) or unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"


def replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler for `codecs` that replaces unencodable characters by ASCII.

    Undecodable bytes of file names (surrogate escapes) are printed unchanged.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    if "\udc80" <= char <= "\udcff":
        return bytes([ord(char) - 0xDC00]), error.start + 1
    return transliterate(char), error.start + 1


class ClosedPipeSafeStream(io.TextIOWrapper):
    """Text stream that discards output once its reader is closed, as by `| head -1`, so that the run continues."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Redirect all further output to the null device if the reader is closed; re-raise other errors."""
        if error.errno not in CLOSED_STREAM_ERRORS:
            raise error
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, self.fileno())
        os.close(null_device)


def open_closed_descriptors() -> None:
    """Open the null device for those of the descriptors 0, 1 and 2 that are closed, as by `python train.py >&-`.

    Otherwise a checkpoint could be opened on descriptor 1 or 2 and receive printed text.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor


def prepare_streams() -> None:
    """Make `print` work on any terminal or pipe. Call once, before anything is printed."""
    codecs.register_error(ASCII_HANDLER, replace_unencodable)
    open_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            safe_stream = ClosedPipeSafeStream(
                stream.buffer,
                encoding=stream.encoding,
                errors=ASCII_HANDLER,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, safe_stream)
