import torch

from models.estimators.active_units import active_units


def test_active_units_are_those_whose_mean_varies():
    # standard deviations 0.09 (variance 0.0081), 0.11 (0.0121), 1; a mean far from 0 does not count
    means = torch.tensor([0.0, 100.0, 0.0, 5.0]) + torch.tensor([0.09, 0.11, 1.0, 0.0]) * torch.randn(20_000, 4)
    assert active_units(means) == 2
    assert active_units(means, threshold=0.5) == 1
    assert active_units(means.half().float() * 0) == 0
