"""The KL of each layer of latents."""

import pytest
import torch

from models import MODELS, evaluating

CASES = {
    "VAE": ("VAE", {"z_dim": 3}),
    "VAE with a mixture": ("VAE", {"z_dim": 3, "prior": "mixture"}),
    "HierarchicalVAE": ("HierarchicalVAE", {"z_dim": [3, 2, 4], "inner_hidden": [8]}),
    "LadderVAE": ("LadderVAE", {"z_dim": [4, 3, 2], "hidden": [8]}),
    "LadderVAE with a mixture": ("LadderVAE", {"z_dim": [4, 3], "hidden": [8], "prior": "mixture"}),
    "LadderVAE, conv": (
        "LadderVAE",
        {"z_dim": [2, 1, 1], "hidden": [4], "encoder": "conv", "layers_per_scale": [2, 1]},
    ),
    "DRAW": ("DRAW", {"z_dim": 3, "steps": 4, "rnn_size": 8}),
    "DRAW, free bits of dimensions": (
        "DRAW",
        {"z_dim": 3, "steps": 4, "rnn_size": 8, "free_bits": 0.1, "free_bits_per": "dimension"},
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def model(request):
    name, options = request.param
    torch.manual_seed(0)
    return MODELS[name](image_shape=(1, 8, 8), **options)


def test_it_has_an_entry_for_each_layer_and_sums_to_the_rate(model, binary):
    x, _ = binary(5)
    with evaluating(model, seed=3):
        layers = model.rate_of_layers(x, 7)
    with evaluating(model, seed=3):
        rate, _ = model.rate_distortion(x, 7)
    assert layers.shape == (5, len(model.latent_sizes))
    torch.testing.assert_close(layers.sum(1), rate)
    assert rate.min() > 0


def test_it_takes_a_posterior_that_is_known(model, binary):
    x, _ = binary(5)
    with evaluating(model):
        expected = model.rate_of_layers(x, 3)
    with evaluating(model):
        torch.testing.assert_close(model.rate_of_layers(x, 3, posterior=model.posterior(x)), expected)
