"""Standard output and error that print on any terminal, and whose reader may have gone."""

import codecs
import errno
import io
import os
import sys
import unicodedata

ASCII = "elbo-room-ascii"  # the error handler's name for codecs
# What is printed in place of characters that an encoding lacks; letters lose their accents, all others become ?
SPELLED = {
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
# What writing gives once nobody reads: of a pipe, a terminal that was closed, a closed file, and of Windows
GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.EINVAL)


def spell(text: str, encoding: str = "ascii") -> str:
    """A text in the characters that an encoding has: signs that it lacks are spelled out, `±` as `+-`."""
    return "".join(sign if is_encodable(sign, encoding) else in_ascii(sign) for sign in text)


def is_encodable(text: str, encoding: str) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def in_ascii(sign: str) -> str:
    """A character in ASCII."""
    return SPELLED.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs` that prints characters which a terminal does not have as ASCII.

    Bytes of file names that are no text are printed as they are.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start]
    if "\udc80" <= found <= "\udcff":
        return bytes([ord(found) - 0xDC00]), error.start + 1
    return spell(found), error.start + 1


class Tolerant(io.TextIOWrapper):
    """A text stream that is silent once nobody reads it, as after `| head -1`: a run does not end for that."""

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
        """Sends all further output nowhere, if that is what the error means."""
        if error.errno not in GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def open_closed_descriptors() -> None:
    """Gives descriptors 0, 1 and 2 that are closed to the null device, lest a checkpoint gets one and what is printed.

    `python train.py >&-` closes one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


def prepare_streams() -> None:
    """Lets `print` work on any terminal or pipe; to be called once, before anything is printed."""
    codecs.register_error(ASCII, replace_unencodable)
    open_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, Tolerant(stream.buffer, encoding=stream.encoding, errors=ASCII, **options))
