"""Common properties of figure callbacks: figures by name, the same during training and from a checkpoint."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from callbacks import CALLBACKS, FigureCallback
from models import MODELS, ImplicitModel, evaluating
from runtime.figure_files import save_figure

CASES = [(name, {}) for name in MODELS] + [(name, {"z_dim": 2}) for name in ("AE", "VAE", "IWAE")]
DRAWINGS = [name for name, kind in CALLBACKS.items() if issubclass(kind, FigureCallback)]


def test_names_are_registry_keys():
    assert all(kind.name == name and kind.required_method for name, kind in CALLBACKS.items())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_supported_figure_is_drawn(make_model, data, name, options):
    model, drawn = make_model(name, **options), 0
    for callback in set(DRAWINGS) - {"latent_codes_tsne"}:
        if CALLBACKS[callback].unsupported_reason(model) is None:
            with evaluating(model):
                found = CALLBACKS[callback]().draw(model, data)
            assert any(key.startswith(callback) for key in found), callback
            drawn += len(found)
    assert drawn >= (3 if isinstance(model, ImplicitModel) else 5)  # which has no codes of images


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_models_of_other_precision(make_model, data, name, dtype):
    model = make_model(name, z_dim=2).to(dtype)
    for callback in ("latent_codes", "latent_plane", "traversals", "attributes"):
        if CALLBACKS[callback].unsupported_reason(model) is None:
            with evaluating(model):
                assert CALLBACKS[callback]().draw(model, data)


def test_a_checkpoint_gets_the_figures_of_training(fit, make_model, data, tmp_path):
    model = make_model()
    names = ["samples", "latent_codes", "traversals"]
    fit(model, [CALLBACKS[name]() for name in names], max_epochs=1)
    for name in names:
        with evaluating(model):
            [(found, figure)] = CALLBACKS[name]().draw(model, data).items()
        assert found == name
        save_figure(figure, tmp_path / "again.png")
        np.testing.assert_array_equal(
            imread(tmp_path / "again.png"), imread(tmp_path / f"figures/{name}_epoch0001.png")
        )


class Bare:
    """Data without labels: three test images."""

    def images(self, split, n=None, device="cpu", grey=False):
        return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))[:n], torch.full((3,), -1)[:n]


@pytest.mark.parametrize("name", ["AE", "VAE", "AffineVAE"])
def test_data_without_labels(make_model, name):
    model = make_model(name)
    for callback in ("latent_codes", "latent_codes_tsne", "traversals", "canonical", "attributes"):
        if CALLBACKS[callback].unsupported_reason(model) is None:
            with evaluating(model):
                assert bool(CALLBACKS[callback]().draw(model, Bare())) == (callback != "attributes")
