import pytest
import torch

from callbacks.selection import one_of_each, spread


@pytest.mark.parametrize(("y", "n", "expected"), [
    ([2, 2, 0, 1, 0], 3, [2, 3, 0]),
    ([2, 2, 0, 1, 0], 9, [2, 3, 0, 4, 1]),
    ([1, 1, 0, 1], 3, [2, 0, 1]),
    ([-1, -1, -1], 2, [0, 1]),
])  # fmt: skip
def test_one_image_of_each_class_then_another(y, n, expected):
    assert one_of_each(torch.tensor(y), n).tolist() == expected


@pytest.mark.parametrize(("total", "n", "expected"), [
    (10, 5, [0, 2, 4, 6, 8]),
    (7, 3, [0, 2, 4]),
    (3, 9, [0, 1, 2]),
])  # fmt: skip
def test_spread_over_all_images(total, n, expected):
    assert spread(total, n).tolist() == expected
