"""Figures of the parts of a prior: pseudo-inputs, and the means of the components of a mixture."""

import re
from functools import partial

import pytest
import torch

from callbacks import CALLBACKS, PriorComponents, PseudoInputs, for_model
from callbacks.pseudo_inputs import number_with_mass, percent
from figures import grids
from models import evaluating
from models.posteriors import POSTERIORS
from models.priors import PRIORS


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each grid of images."""
    calls, draw = [], grids.image_grid
    monkeypatch.setattr(
        grids, "image_grid", lambda *args, **options: calls.append((args, options)) or draw(*args, **options)
    )
    return calls


@pytest.fixture
def make(make_model):
    """A small model without batch norm, which prior vamp refuses."""
    return partial(make_model, batch_norm=False)


def drawing(callback, model, data):
    with evaluating(model):
        return callback.draw(model, data)


@torch.no_grad()
def set_weights(model, weights):
    model.z_prior.weight_logits.copy_(torch.tensor(weights).log())


@pytest.mark.parametrize(("weight", "text"), [
    (1.0, "100%"), (0.123456, "12%"), (0.095, "10%"), (0.09, "9.0%"), (0.002, "0.20%"),
    (0.0000456, "0.0046%"), (1e-9, "< 0.001%"),
])  # fmt: skip
def test_weights_are_percentages(weight, text):
    assert percent(weight) == text


def test_number_of_components_with_a_share_of_the_weight():
    assert number_with_mass(torch.tensor([0.1, 0.6, 0.3])) == 3
    assert number_with_mass(torch.tensor([0.005, 0.995])) == 1
    assert number_with_mass(torch.full((500,), 1 / 500)) == 495
    assert number_with_mass(torch.ones(1)) == 1


def test_pseudo_inputs_are_sorted_by_weight(make, data, drawn):
    model = make(prior="vamp", prior_components=3)
    set_weights(model, [0.004, 0.746, 0.25])
    assert list(drawing(PseudoInputs(), model, data)) == ["pseudo_inputs"]
    [((rows,), options)] = drawn
    assert torch.equal(rows[0], model.z_prior.pseudo_inputs[[1, 2, 0]])
    assert options["captions"] == [["75%", "25%", "0.40%"]]
    assert options["title"] == "All 3 pseudo-inputs, largest weights first; 2 have 99% of the weight\nVAE on Digits"


def test_only_the_largest_weights_are_shown(make, data, drawn):
    model = make(prior="vamp", prior_components=25)
    drawing(PseudoInputs(num_images=12), model, data)
    [((rows,), options)] = drawn
    assert [len(row) for row in rows] == [len(row) for row in options["captions"]] == [10, 2]
    assert options["title"].startswith("12 of 25 pseudo-inputs, largest weights first; 25 have")


def test_pseudo_inputs_of_a_conditional_model_have_labels(make, data, drawn):
    model = make("CVAE", prior="vamp", prior_components=3)
    set_weights(model, [0.1, 0.6, 0.3])
    drawing(PseudoInputs(), model, data)
    labels = model.z_prior.labels.tolist()
    assert drawn[0][1]["captions"] == [[f"{labels[1]}: 60%", f"{labels[2]}: 30%", f"{labels[0]}: 10%"]]


@pytest.mark.parametrize("name", ["VAE", "IWAE", "HierarchicalVAE", "AffineVAE"])
def test_means_of_a_mixture_are_decoded(make, data, drawn, name):
    model = make(name, prior="mixture", prior_components=2).eval()
    set_weights(model, [0.25, 0.75])
    assert list(drawing(PriorComponents(), model, data)) == ["prior_components"]
    [((rows,), options)] = drawn
    assert rows[0].shape == (2, 1, 8, 8)
    assert options["captions"] == [["75%", "25%"]]
    assert "All 2 component means of the prior, largest weights first; 2 have 99% of the weight" in options["title"]
    if name == "VAE":
        torch.testing.assert_close(rows[0], model.decode(model.z_prior.means[[1, 0]].detach()))


def test_a_hierarchy_decodes_at_the_means_of_its_layers(make):
    model = make("HierarchicalVAE").eval()
    z2 = torch.randn(5, 3)
    expected = model.p_nets[0](z2).chunk(2, -1)[0]
    torch.testing.assert_close(model.first_layer_mean(z2), expected)


def test_a_conditional_model_decodes_each_mean_with_every_label(make, data, drawn):
    model = make("CVAE", prior="mixture", prior_components=12).eval()
    drawing(PriorComponents(), model, data)
    [((images, rows, columns, title), _)] = drawn
    assert images.shape == (10, 10, 1, 8, 8)
    assert len(rows) == len(columns) == 10
    order = model.z_prior.weight_logits.argsort(descending=True, stable=True)
    expected = model.decode(model.z_prior.means[order[2:3]].detach(), torch.tensor([4]))
    torch.testing.assert_close(images[2, 4], expected[0])
    assert title.startswith("10 of 12 component means of the prior, largest weights first")


@pytest.mark.parametrize(("prior", "name"), [("vamp", "pseudo_inputs"), ("mixture", "prior_components")])
def test_they_are_drawn_for_this_prior_only(make, prior, name):
    assert name in [callback.name for callback in for_model(make(prior=prior))]
    for other in {"standard", "vamp", "mixture"} - {prior}:
        assert name not in [callback.name for callback in for_model(make(prior=other))]
    reason = CALLBACKS[name].unsupported_reason(make("AE"))
    assert re.search(rf"belong to --model\.prior {prior}, which this AE does not have: leave {name} out, or", reason)


@pytest.mark.parametrize("prior", sorted(set(PRIORS) - {"standard"}))
def test_figures_with_every_prior(make, data, prior):
    model = make(prior=prior, z_dim=2, **({"prior_components": 5} if prior == "vamp" else {}))
    for callback in for_model(model):
        if hasattr(callback, "draw"):
            assert drawing(callback, model, data), callback.name


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ["VAE", "HierarchicalVAE", "AffineVAE"])
def test_kl_of_each_dimension_with_every_prior(make, data, name, prior):
    model = make(name, prior=prior, **({"prior_components": 5} if prior == "vamp" else {}))
    x = data.images("test", 100)[0]
    with evaluating(model):
        layers, again = model.latent_statistics(x), model.latent_statistics(x)
    assert [kl.shape[1] for _, kl in layers] == list(model.latent_sizes)
    assert all(kl.isfinite().all() and kl.mean() > -0.05 for _, kl in layers)
    if name != "HierarchicalVAE":  # whose samples are drawn anew
        assert torch.equal(layers[0][1], again[0][1])


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("name", ["VAE", "HierarchicalVAE"])
def test_kl_of_each_dimension_with_every_posterior(make, data, name, posterior):
    model = make(name, posterior=posterior)
    with evaluating(model):
        layers = model.latent_statistics(data.images("test", 100)[0])
    assert [kl.shape[1] for _, kl in layers] == list(model.latent_sizes)
    assert all(kl.isfinite().all() and kl.mean() > -0.05 for _, kl in layers)


def test_a_weight_that_is_not_finite_gives_no_figure(make, data):
    for prior, callback in (("vamp", PseudoInputs()), ("mixture", PriorComponents())):
        model = make(prior=prior)
        torch.nn.init.constant_(model.z_prior.weight_logits, torch.nan)
        assert not drawing(callback, model, data)
