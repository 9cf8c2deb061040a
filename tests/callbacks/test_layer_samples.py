import pytest
import torch

from callbacks import CALLBACKS, LayerSamples, for_model
from figures import layer_samples
from models import VAE, evaluating


class Layers(VAE):
    """A VAE that pretends to have several layers of latents."""

    layers = 3

    def sample_layers(self, n, rows):
        noise = torch.rand(self.layers, rows, n, 1, 1, 1)
        return noise.expand(-1, -1, -1, *self.hparams.image_shape)


class Deep(Layers):
    layers = 12


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each figure."""
    calls, draw = [], layer_samples.layer_samples
    monkeypatch.setattr(layer_samples, "layer_samples", lambda *args: calls.append(args) or draw(*args))
    return calls


@pytest.mark.parametrize(("kind", "count"), [(Layers, ""), (Deep, " (6 of 12 layers)")])
def test_samples_of_each_layer(make_model, data, drawn, kind, count):
    model = make_model(kind=kind)
    with evaluating(model):
        assert list(LayerSamples(num_rows=4, num_images=3).draw(model, data)) == ["layer_samples"]
    [(images, title)] = drawn
    assert images.shape == (kind.layers, 4, 3, 1, 8, 8)
    assert title.startswith(f"Samples from the prior{count}: within a row, the named layers are redrawn")
    assert title.endswith(f"\n{kind.__name__} on Digits")


@pytest.mark.parametrize(("name", "layers"), [("HierarchicalVAE", 2), ("LadderVAE", 2)])
def test_hierarchies_have_samples_of_their_layers(make_model, data, drawn, name, layers):
    model = make_model(name)
    with evaluating(model):
        assert LayerSamples(num_rows=2, num_images=3).draw(model, data)
    assert drawn[0][0].shape == (layers, 2, 3, 1, 8, 8)


def test_it_needs_a_hierarchy(make_model):
    assert "layer_samples" in [callback.name for callback in for_model(make_model(kind=Layers))]
    reason = CALLBACKS["layer_samples"].unsupported_reason(make_model())
    assert reason.startswith("VAE has no layer samples: it defines no sample_layers(); leave layer_samples out, or")


def test_training_is_unchanged(fit, make_model, memory, tmp_path):
    results = []
    for callbacks in ([], [LayerSamples()]):
        log, model = memory(), make_model(kind=Layers)
        fit(model, callbacks, logger=log)
        results.append((log.of("val/bound"), [part.clone() for part in model.parameters()], torch.get_rng_state()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert torch.equal(results[0][2], results[1][2])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"layer_samples_epoch000{epoch}.png" for epoch in (1, 2)
    }
