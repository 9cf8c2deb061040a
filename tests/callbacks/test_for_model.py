import pytest

from callbacks import CALLBACKS, for_model
from models import MODELS


def names(callbacks):
    return [name for callback in callbacks for name, kind in CALLBACKS.items() if type(callback) is kind]


WITH_LATENT = ["reconstructions", "samples", "interpolations", "latent_statistics", "log_likelihood"]
CLASSIFIER = ["analogies", "class_samples", "confusion_matrix", "error"]
SUPPORTED = {
    "AE": ["reconstructions", "interpolations"],
    "VAE": WITH_LATENT,
    "IWAE": WITH_LATENT,
    "AffineVAE": WITH_LATENT,
    "HierarchicalVAE": WITH_LATENT,
    "CVAE": [*WITH_LATENT, "class_samples"],
    "M2": [*(name for name in WITH_LATENT if name != "interpolations"), *CLASSIFIER],
    "M1M2": [*(name for name in WITH_LATENT if name != "interpolations"), *CLASSIFIER],
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gets_what_it_supports(make_model, name):
    assert names(for_model(make_model(name))) == SUPPORTED[name]


def test_names_choose(make_model):
    assert names(for_model(make_model(), ["samples", "log_likelihood"])) == ["samples", "log_likelihood"]
    assert for_model(make_model(), []) == []


def test_an_unknown_name_lists_the_known(make_model):
    with pytest.raises(ValueError, match=r"Unknown callback 'sample': choose from reconstructions, samples, .*\.$"):
        for_model(make_model(), ["sample"])


def test_a_callback_that_the_model_cannot_serve_is_refused(make_model):
    with pytest.raises(ValueError, match=r"^AE has no samples: it defines no sample\(\); leave samples out of"):
        for_model(make_model("AE"), ["reconstructions", "samples"])
