import pytest
import torch
from torch import nn

from models.base import evaluating
from models.distributions import standard_normal
from models.layer_samples import redrawn_layers


def test_only_the_layers_up_to_the_entry_are_redrawn():
    sizes, noise = [3, 2, 4], redrawn_layers(standard_normal(9, torch.zeros(1)), [3, 2, 4], n=5, rows=6)
    assert noise.shape == (3, 6, 5, 9)
    for entry in range(3):
        redrawn, fixed = noise[entry].split([sum(sizes[: entry + 1]), sum(sizes[entry + 1 :])], -1)
        assert (fixed == fixed[:, :1]).all()
        assert torch.equal(fixed, noise[0][..., sum(sizes[: entry + 1]) :])  # the same in all entries
        assert len(redrawn.unique()) == redrawn.numel()
        if fixed.shape[-1]:
            assert len(fixed[:, 0].unique()) == fixed[:, 0].numel()


@pytest.mark.parametrize(("name", "options"), [
    ("LadderVAE", {}), ("LadderVAE", {"encoder": "conv", "z_dim": [2, 2, 3], "layers_per_scale": [2, 1]}),
    ("HierarchicalVAE", {}), ("HierarchicalVAE", {"prior": "mixture"}), ("LadderVAE", {"z_dim": [4]}),
])  # fmt: skip
def test_samples_of_layers_are_samples_of_the_model(make, name, options):
    model = make(name, (1, 4, 4), **options)
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.2 if "encoder" in options else 0.4)
    with evaluating(model, seed=2):
        images = model.sample_layers(5, rows=400)
        expected = model.sample(2000)
    layers = len(model.latent_sizes)
    assert images.shape == (layers, 400, 5, 1, 4, 4)
    for entry in images:
        assert (entry[:, 0] != entry[:, 1]).flatten(1).any(1).all()
        torch.testing.assert_close(entry.flatten(0, 1).mean(0), expected.mean(0), atol=0.04, rtol=0)
    if layers > 1:  # images of a row have the layers above in common
        within = images.var(2).mean((1, 2, 3, 4))
        assert (within.diff() > 0).all()
    with pytest.raises(ValueError, match="rows must be"):
        model.sample_layers(5, rows=0)
