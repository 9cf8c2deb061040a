import pytest
import torch

from figures.subsets import evenly_spaced, round_robin_by_class


@pytest.mark.parametrize(("y", "n", "expected"), [
    ([2, 2, 0, 1, 0], 3, [2, 3, 0]),
    ([2, 2, 0, 1, 0], 9, [2, 3, 0, 4, 1]),
    ([1, 1, 0, 1], 3, [2, 0, 1]),
    ([-1, -1, -1], 2, [0, 1]),
])  # fmt: skip
def test_round_robin_by_class(y, n, expected):
    assert round_robin_by_class(torch.tensor(y), n).tolist() == expected


@pytest.mark.parametrize(("total", "n", "expected"), [
    (10, 5, [0, 2, 4, 6, 8]),
    (7, 3, [0, 2, 4]),
    (3, 9, [0, 1, 2]),
])  # fmt: skip
def test_evenly_spaced(total, n, expected):
    assert evenly_spaced(total, n).tolist() == expected


def test_time_and_memory_do_not_depend_on_the_number_of_classes():
    # as many as there are images: a table of images by classes would take 80 GB
    y = torch.arange(100_000).flip(0)
    assert round_robin_by_class(y, 3).tolist() == [99_999, 99_998, 99_997]
    assert round_robin_by_class(y * 10**12, 1).tolist() == [99_999]
