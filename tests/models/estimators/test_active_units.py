import torch

from models.estimators.active_units import is_active


def test_active_units_are_those_whose_mean_varies():
    # Variances 0.0081, 0.0121, 1 and 0; the threshold is 0.01. Means far from 0 make no difference.
    means = torch.tensor([0.0, 100.0, 0.0, 5.0]) + torch.tensor([0.09, 0.11, 1.0, 0.0]) * torch.randn(20_000, 4)
    assert is_active(means).tolist() == [False, True, True, False]
    assert not is_active(means[:1]).any()


def test_the_threshold_is_relative_to_the_variance_of_the_prior():
    means = torch.tensor([[1.0, 5.0, 0.0], [-1.0, 5.0, 0.05], [1.0, 5.0, -0.05]])
    assert is_active(means).tolist() == [True, False, False]
    assert is_active(means, torch.tensor([200.0, 1.0, 0.1])).tolist() == [False, False, True]
