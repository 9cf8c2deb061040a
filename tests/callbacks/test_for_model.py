import re

import pytest

from callbacks import CALLBACKS, for_model
from models import MODELS


def names(callbacks):
    return [name for callback in callbacks for name, kind in CALLBACKS.items() if type(callback) is kind]


LIKELIHOOD = ["latent_statistics", "log_likelihood"]
WITH_LATENT = ["reconstructions", "samples", "interpolations", *LIKELIHOOD, "latent_codes", "traversals", "attributes"]
CLASSIFIER = ["analogies", "class_samples", "confusion_matrix", "error"]
SUPPORTED = {
    "AE": ["reconstructions", "interpolations", "latent_codes", "traversals"],
    "VAE": WITH_LATENT,
    "IWAE": WITH_LATENT,
    "AffineVAE": [*WITH_LATENT, "canonical"],
    "HierarchicalVAE": WITH_LATENT,
    "LadderVAE": WITH_LATENT,
    "DRAW": WITH_LATENT,
    "CVAE": [*WITH_LATENT, "class_samples"],
    "M2": ["reconstructions", "samples", *LIKELIHOOD, "latent_codes", *CLASSIFIER],
    "M1M2": ["reconstructions", "samples", *LIKELIHOOD, *CLASSIFIER],
    "ADGM": ["reconstructions", "samples", *LIKELIHOOD, "latent_codes", *CLASSIFIER],
    "SDGM": ["reconstructions", "samples", *LIKELIHOOD, "latent_codes", *CLASSIFIER],
    "GMMN": ["samples", "nearest_neighbours", "interpolations", "mode_collapse"],
    "GAN": ["samples", "nearest_neighbours", "interpolations", "mode_collapse"],
}


KNOWN = {callback for supported in SUPPORTED.values() for callback in supported}


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_model_gets_what_it_supports(make_model, name):
    assert [callback for callback in names(for_model(make_model(name))) if callback in KNOWN] == SUPPORTED[name]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_callback_serves_a_model_or_says_why_not(make_model, name, callback):
    model, kind = make_model(name), CALLBACKS[callback]
    reason = kind.unsupported_reason(model)
    assert (callback in names(for_model(model))) == (reason is None and kind.is_default_for(model))
    methods = kind.required_method, getattr(kind, "alternative_method", "")
    if not any(model.can(method) for method in methods if method):
        assert reason
    if reason:
        assert reason.endswith(".")


def test_names_select_callbacks(make_model):
    assert names(for_model(make_model(), ["samples", "log_likelihood"])) == ["samples", "log_likelihood"]
    assert for_model(make_model(), []) == []


def test_an_unknown_name_lists_the_registry(make_model):
    with pytest.raises(ValueError, match=r"Unknown callback 'sample': choose from reconstructions, samples, .*\.$"):
        for_model(make_model(), ["sample"])


def test_an_unsupported_callback_is_refused(make_model):
    with pytest.raises(ValueError, match=r"^AE has no samples: it defines no sample\(\); leave samples out, or"):
        for_model(make_model("AE"), ["reconstructions", "samples"])


@pytest.mark.parametrize("name", ["AE", "VAE", "IWAE"])
def test_latent_plane_is_a_default_with_two_dimensions(make_model, name):
    assert "latent_plane" in names(for_model(make_model(name, z_dim=2)))


def test_a_callback_that_is_not_a_default_is_selected_by_name(make_model):
    assert names(for_model(make_model(), ["latent_codes_tsne"])) == ["latent_codes_tsne"]


def test_supported_callbacks_have_no_unsupported_reason(make_model):
    model = make_model()
    assert [kind.unsupported_reason(model) for kind in map(type, for_model(model))] == [None] * len(for_model(model))


@pytest.mark.parametrize(("name", "z_dim", "callback", "sentence"), [
    ("VAE", 50, "latent_plane", "The latent plane needs a model with z_dim 2; this VAE has 50: leave latent_plane out, "
     "or choose a model with 2."),
    ("HierarchicalVAE", [2, 2], "latent_plane", "needs a model with z_dim 2; this HierarchicalVAE has [2, 2]: "),
    ("CVAE", 2, "latent_plane", "needs a decoder of z only; the decoder of CVAE also takes a label: leave "),
    ("M2", 2, "latent_plane", "needs a decoder of z only; the decoder of M2 also takes a label: leave "),
    ("M1M2", 2, "latent_plane", "M1M2 has no latent plane: it defines no encode(); leave latent_plane out, or"),
    ("VAE", 2, "latent_codes_tsne", "t-SNE needs a code of more than 2 dimensions; this VAE has 2: leave "),
    ("VAE", 4, "canonical", "VAE has no canonical: it defines no canonical(); leave canonical out, or"),
])  # fmt: skip
def test_unsupported_reasons_are_sentences(make_model, name, z_dim, callback, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        for_model(make_model(name, z_dim=z_dim), [callback])
    assert str(error.value).endswith(".")
