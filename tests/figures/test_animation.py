import pytest
import torch

from figures import grids
from figures.animation import FASTEST, PAUSE, SLOWEST, Animation, durations


def test_frames_are_drawn_one_at_a_time_in_order():
    drawn = []
    animation = Animation(lambda i: drawn.append(i) or grids.samples(torch.zeros(1, 1, 8, 8), f"{i}"), [100] * 3)
    frames = animation.frames()
    assert not drawn
    next(frames)
    assert drawn == [0]
    assert [frame.axes[0].texts[0].get_text() for frame in frames] == ["1", "2"]


@pytest.mark.parametrize(("frames", "each"), [(1, SLOWEST), (4, SLOWEST), (16, 250), (64, 62), (200, FASTEST)])
def test_the_last_frame_is_shown_longer(frames, each):
    assert durations(frames) == [each] * (frames - 1) + [each + PAUSE]
