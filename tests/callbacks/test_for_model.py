import pytest

from callbacks import CALLBACKS, for_model


def names(callbacks):
    return [name for callback in callbacks for name, kind in CALLBACKS.items() if type(callback) is kind]


@pytest.mark.parametrize("name", ["VAE", "IWAE", "HierarchicalVAE"])
def test_a_latent_variable_model_gets_all(make_model, name):
    assert names(for_model(make_model(name))) == list(CALLBACKS)


def test_an_autoencoder_gets_what_it_can(make_model):
    assert names(for_model(make_model("AE"))) == ["reconstructions", "interpolations"]


def test_names_choose(make_model):
    assert names(for_model(make_model(), ["samples", "log_likelihood"])) == ["samples", "log_likelihood"]
    assert for_model(make_model(), []) == []


def test_an_unknown_name_lists_the_known(make_model):
    with pytest.raises(ValueError, match=r"Unknown callback 'sample': choose from reconstructions, samples, .*\.$"):
        for_model(make_model(), ["sample"])


def test_a_callback_that_the_model_cannot_serve_is_refused(make_model):
    with pytest.raises(ValueError, match=r"^AE has no samples: it defines no sample\(\); leave samples out of"):
        for_model(make_model("AE"), ["reconstructions", "samples"])
