"""Animations as pure functions of tensors: figures that are drawn one at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

DURATION = 4000  # milliseconds that an animation takes, about
FASTEST, SLOWEST = 60, 400  # milliseconds that a frame may take
PAUSE = 1500  # milliseconds for which the last frame is shown longer


class Animation(NamedTuple):
    """A sequence of figures of the same size.

    Args:
        draw: Returns frame i, from 0. Frames are drawn one at a time, because all together may not fit into memory.
        milliseconds: For how long each frame is shown.
    """

    draw: Callable[[int], Figure]
    milliseconds: Sequence[int]

    def frames(self) -> Iterator[Figure]:
        """Draw the frames in their order."""
        return map(self.draw, range(len(self.milliseconds)))


Drawing = Figure | Animation  # what a callback may draw


def durations(frames: int) -> list[int]:
    """Return for how many milliseconds each of a number of frames is shown; the last one is shown longer."""
    each = min(max(DURATION // frames, FASTEST), SLOWEST)
    return [each] * (frames - 1) + [each + PAUSE]
