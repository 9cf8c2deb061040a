"""M2, ADGM, SDGM and M1M2 with every prior and posterior."""

import math
import re
from itertools import product

import pytest
import torch
from model_helpers import shaken, under
from torch import nn

from datamodules import DATAMODULES
from models import MODELS
from models.base import evaluating
from models.distributions import StandardNormal, is_standard_normal, rsample_with_kl
from models.estimators.ais import Settings, anneal, bidirectional
from models.estimators.importance import importance

C, K = 3, 1000
MIXED = torch.tensor([0, -1, 2, -1, -1, 1, -1])
PRIORS = {
    "standard": {},
    "mixture": {"prior": "mixture", "prior_components": 3},
    "vamp": {"prior": "vamp", "prior_components": 4},
    "flow": {"prior": "flow", "prior_hidden": [8]},
}
POSTERIORS = {
    "diagonal": {},
    "full": {"posterior": "full"},
    "iaf": {"posterior": "flow", "posterior_hidden": [8], "posterior_context": 3},
    "nsf": {"posterior": "flow", "posterior_flow": "nsf", "posterior_hidden": [8], "posterior_context": 3},
}
names = pytest.mark.parametrize("name", ["M2", "ADGM", "SDGM"])
PAIRS = [("standard", "full"), ("mixture", "iaf"), ("vamp", "nsf"), ("flow", "diagonal")]
pairs = pytest.mark.parametrize(("prior", "posterior"), PAIRS)
COMBINATIONS = [(name, *parts) for name in ("M2", "ADGM") for parts in product(PRIORS, POSTERIORS)]
COMBINATIONS += [("SDGM", *parts) for parts in PAIRS]


@pytest.fixture
def combined(make, squares):
    """Return a function that makes a model of 2x2 images whose prior and posterior are far from their initial ones."""

    def build(name, prior, posterior, **options):
        options |= {"z_dim": 2, **PRIORS[prior], **POSTERIORS[posterior]}
        if name in ("ADGM", "SDGM"):
            options["a_dim"] = 2
        return spread(shaken(make(name, (1, 2, 2), **options), squares))

    return build


@torch.no_grad()
def spread(model):
    """Return the model with random parameters of its prior and posterior, and wide q, so that weights vary little."""
    for key, parameter in model.z_prior.named_parameters():
        nn.init.normal_(parameter, mean=-0.5 if key == "raw_scales" else 0.0, std=0.1 if "flow" in key else 0.3)
    for parameter in model.z_posterior.parameters():
        nn.init.normal_(parameter, std=0.15)
    for network in (model.encoder, getattr(model, "aux_encoder", None)):
        if network is not None:
            network.output.bias[2:4] += 0.3  # log scales of two dimensions
    return model


# The likelihood


@pytest.mark.parametrize(("name", "prior", "posterior"), COMBINATIONS)
def test_p_of_all_images_and_labels_sums_to_1(combined, squares, name, prior, posterior):
    model = combined(name, prior, posterior)
    with evaluating(model, seed=4):
        p = [model.log_weights(squares, K, torch.full((16,), y)).double().exp().sum(1) for y in range(C)]
        unknown = model.log_weights(squares, K).double().exp().sum(1)
    for each in p:  # each label has its prior
        assert abs(each.mean() - 1 / C) < 4.5 * each.std() / math.sqrt(K)
    for whole in (sum(p), unknown):
        assert whole.std() / math.sqrt(K) < 0.03
        assert abs(whole.mean() - 1) < 4.5 * whole.std() / math.sqrt(K)


@names
@pairs
def test_bounds_are_below_log_p_and_every_parameter_has_a_gradient(combined, squares, name, prior, posterior):
    model = combined(name, prior, posterior)
    with evaluating(model, seed=1):
        log_px = importance(model, squares, 3000, 1000).log_px
        y = torch.arange(16) % C
        joint = importance(model, squares, 3000, 1000, y=y).log_px
        rate, distortion = model.rate_distortion(squares, 500)
        labelled = model.bounds(squares.repeat(100, 1, 1, 1))[0].gather(0, y.repeat(100)[None]).view(100, 16)
    assert (log_px + rate + distortion > -0.05).all()
    gap, error = joint - labelled.mean(0), labelled.std(0) / 10
    assert (gap > -4 * error - 0.05).all()
    model.train().loss(squares[:7], MIXED).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("name", "prior"), [("M2", "mixture"), ("M2", "vamp"), ("SDGM", "flow")])
def test_annealed_importance_sampling_agrees_with_importance_sampling(combined, squares, name, prior):
    model = combined(name, prior, "diagonal")
    settings = Settings(chains=100, temperatures=20, leapfrogs=3)
    with evaluating(model, seed=1):
        sampled = importance(model, squares, 5000, 1000).log_px
    annealed = anneal(model, squares, settings, [0.3] * 19).log_px
    assert (annealed - sampled).abs().max() < 0.3
    assert annealed.exp().sum().item() == pytest.approx(1, abs=0.05)
    bounds = bidirectional(model, 16, settings, [0.3] * 19)
    assert (bounds.upper - bounds.lower).mean() > -0.05
    assert (bounds.upper - bounds.lower).abs().max() < 1


def test_the_space_of_ais_is_standard_normal_only_if_the_prior_is(combined):
    assert is_standard_normal(combined("SDGM", "standard", "diagonal").ais_prior())
    prior = combined("SDGM", "mixture", "diagonal").ais_prior()
    assert not isinstance(prior, StandardNormal)
    z = prior.expand((5,)).sample((7,))
    assert z.shape == (7, 5, 4)
    model = combined("SDGM", "mixture", "diagonal")
    noise = torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 2:]).sum(-1)
    torch.testing.assert_close(model.ais_prior().log_prob(z), model.prior().log_prob(z[..., :2]) + noise)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_the_kl_is_in_closed_form_or_the_mean_over_the_samples(combined, squares, prior, posterior):
    model = combined("M2", prior, posterior)
    q, p = model.posterior(squares), model.prior()
    z, kl = under(3, rsample_with_kl, q, p, 5)
    assert torch.equal(z, under(3, q.rsample, (5,)))
    of_samples = (q.log_prob(z) - p.log_prob(z)).mean(0)
    exact = torch.distributions.kl_divergence(q, p) if prior == "standard" else of_samples
    torch.testing.assert_close(kl, exact)
    assert torch.allclose(kl, of_samples) == (prior != "standard")


@names
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_shared_noise_leaves_the_mean_of_the_bounds_and_makes_differences_between_classes_vary_less(
    combined, squares, name, posterior
):
    x = squares[:8].repeat(2000, 1, 1, 1)
    found = []
    for share in (True, False):
        torch.manual_seed(0)
        model = combined(name, "standard", posterior, share_noise=share)
        with torch.no_grad():
            labelled, unlabelled, _ = under(3, model.bounds, x)
        differences = (labelled[0] - labelled[1]).view(2000, 8)
        found.append((differences.mean(0), differences.std(0), unlabelled.view(2000, 8)))
    (shared, narrow, U), (independent, wide, other) = found
    assert ((shared - independent).abs() < 5 * (narrow**2 + wide**2).div(2000).sqrt()).all()
    assert ((U.mean(0) - other.mean(0)).abs() < 5 * (U.var(0) + other.var(0)).div(2000).sqrt()).all()
    assert (narrow < wide).all()


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bounds_of_models_in_other_precisions(combined, squares, posterior, dtype):
    model = combined("M2", "standard", posterior)
    expected = under(3, model.bounds, squares)[1]
    found = under(3, model.to(dtype).bounds, squares.to(dtype))[1]
    assert found.isfinite().all()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if dtype == torch.bfloat16:
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.5)


def test_a_posterior_that_cannot_share_noise_is_refused(combined, squares, monkeypatch):
    model = combined("M2", "standard", "diagonal")
    laplace = torch.distributions.Laplace(torch.zeros(C, 16, 2), 1.0)
    monkeypatch.setattr(model, "qz", lambda x: torch.distributions.Independent(laplace, 1))
    with pytest.raises(ValueError, match=r"diagonal has no at_noise\(\).*--model\.share_noise false"):
        model.bounds(squares)


@names
def test_likelihoods_do_not_depend_on_shared_noise(combined, squares, name):
    found = []
    for share in (True, False):
        torch.manual_seed(0)
        model = combined(name, "standard", "diagonal", share_noise=share)
        found.append(under(3, model.log_weights, squares, 5))
    assert torch.equal(*found)


# Uses of a trained model


@names
@pairs
def test_codes_samples_and_statistics(combined, squares, name, prior, posterior):
    model = combined(name, prior, posterior).eval()
    assert model.encode(squares).shape == (16, 2)
    for images in (model.sample(4), model.reconstruct(squares[:4])):
        assert images.shape == (4, 1, 2, 2)
    for images in (model.sample_classes(4), model.analogies(squares[:4])):
        assert images.shape == (4, C, 1, 2, 2)
    torch.testing.assert_close(model.encode(squares), model.encode(squares, model.classify(squares).argmax(1)))
    for mean, kl in model.latent_statistics(squares):
        assert mean.shape == kl.shape == (16, 2)
        assert kl.isfinite().all()
    drawn = under(3, model.prior().sample, (4,))
    torch.testing.assert_close(under(3, model.sample, 4), model.decode(drawn, torch.tensor([0, 1, 2, 0])))


# VampPrior


@pytest.mark.parametrize("name", ["M2", "ADGM", "SDGM", "M1M2"])
def test_batch_norm_with_vamp_is_refused(make, name):
    sentence = "made of posteriors of images" if name == "M1M2" else "--model.batch_norm false"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make(name, prior="vamp", batch_norm=True)


@names
def test_components_of_vamp_are_posteriors_at_the_labels_of_the_pseudo_inputs(combined, name):
    model = combined(name, "vamp", "diagonal").eval()
    u, labels = model.z_prior.pseudo_inputs, model.z_prior.labels
    assert labels.tolist() == [0, 1, 2, 0]
    if name == "M2":
        q = [model.posterior(u).base_dist.loc[label, i] for i, label in enumerate(labels)]
    else:
        a = model.qa(u).mean
        q = [model.qz(u, a=a).base_dist.loc[label, i] for i, label in enumerate(labels)]
    torch.testing.assert_close(model.prior().components.mean, torch.stack(q))


def test_pseudo_inputs_start_at_training_images_with_their_labels_if_these_are_known():
    data = DATAMODULES["Digits"](num_labels=100)
    data.setup()
    n = len(data.train.x)
    options = {"batch_norm": False, "hidden": [8], "z_dim": 2, "prior": "vamp", "prior_components": n}
    model = under(0, lambda: MODELS["M2"].for_data(data, **options))
    u, labels = model.z_prior.pseudo_inputs, model.z_prior.labels
    assert ((labels >= 0) & (labels < 10)).all()
    x, y = data.train.x.float() / 255, data.train.y
    nearest = torch.cdist(u.flatten(1), x.flatten(1)).argmin(1)
    assert nearest.unique().numel() > 0.99 * n
    known = y[nearest] >= 0
    assert known.sum() >= 99
    assert torch.equal(labels[known], y[nearest][known])
    assert torch.equal(labels[~known], torch.arange(n)[~known] % 10)


# M1M2


M1_PARTS = {
    "diagonal": {"prior": "mixture", "prior_components": 3},
    "full": {"posterior": "full", "prior": "vamp", "prior_components": 4},
    "flow": {**POSTERIORS["iaf"], "z_dim": 3},
}
M2_PARTS = {
    "standard": {},
    "mixture and full": {"prior": "mixture", "prior_components": 3, "posterior": "full"},
    "flow": {**PRIORS["flow"], **POSTERIORS["nsf"]},
}
m1_parts = pytest.mark.parametrize("m1", M1_PARTS)


@m1_parts
@pytest.mark.parametrize("m2", M2_PARTS)
def test_p_of_the_stack_sums_to_1_with_every_m1(make, squares, m1, m2):
    options = {"kept": [0, 2], "z_dim": 2, "m1_options": {"z_dim": 3, **M1_PARTS[m1]}, **M2_PARTS[m2]}
    model = make("M1M2", (1, 2, 2), **options)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.6 if key.startswith("m1.decoder") else 0.1)
    with torch.no_grad():  # wide q, so that weights vary little
        model.m1.encoder.output.bias[3:6] += 0.3
        model.m2.encoder.output.bias[2:4] += 0.3
    parts = []
    with evaluating(model, seed=4):
        for y in (None, *range(C)):
            given = None if y is None else torch.full((16,), y)
            parts.append(model.log_weights(squares, 2000, given).double().exp())  # (K, 16)
        rate, distortion = model.rate_distortion(squares, 500)
    for p in (parts[0].sum(1), sum(parts[1:]).sum(1)):
        error = p.std() / math.sqrt(len(p))
        assert error < 0.05
        assert abs(p.mean() - 1) < 4.5 * error
    assert (parts[0].mean(0).log() + rate + distortion > -0.05).all()
    if m2 == "mixture and full" and m1 == "diagonal":
        settings = Settings(chains=100, temperatures=20, leapfrogs=3)
        assert (anneal(model, squares, settings, [0.3] * 19).log_px - parts[0].mean(0).log()).abs().max() < 0.4


@m1_parts
@pytest.mark.parametrize("sample_z1", [True, False])
def test_training_on_rows_of_features_is_training_on_images(make, binary, m1, sample_z1):
    model, (x, y) = make("M1M2", m1_options=M1_PARTS[m1] | {"z_dim": 4}, sample_z1=sample_z1), binary(6)

    class Data:
        def images(self, split, grey):
            return x, y

    rows = model.training_features(Data())
    assert rows.ndim == 2
    assert not rows.requires_grad
    given, drawn = (under(3, model.draw_features, features) for features in (rows, x))
    assert torch.equal(given, under(4, model.draw_features, rows)) != sample_z1
    if m1 == "diagonal" and sample_z1:  # rows have no noise of the pruned dimensions
        return
    torch.testing.assert_close(given, drawn)
    torch.testing.assert_close(under(3, model.loss, rows, y), under(3, model.loss, x, y))


@m1_parts
def test_codes_images_and_statistics_of_the_stack(make, binary, m1):
    model, (x, y) = (
        make("M1M2", m1_options=M1_PARTS[m1] | {"z_dim": 4}, prior="mixture", **POSTERIORS["iaf"]),
        binary(5),
    )
    torch.testing.assert_close(model.features(x), model.m1.encode(x)[:, model.kept])
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(7).shape == (7, 1, 8, 8)
    assert model.analogies(x).shape == (5, C, 1, 8, 8)
    (mean1, kl1), (mean2, kl2) = model.latent_statistics(x)
    assert mean1.shape == kl1.shape == mean2.shape == kl2.shape == (5, 4)
    expected = model.m1.latent_statistics(x)[0][1]
    torch.testing.assert_close(kl1, expected)
    assert all(values.isfinite().all() for values in model.validation_metrics(x, y).values())
    assert not is_standard_normal(model.prior())


def test_options_that_have_no_effect_are_refused_in_m1m2_too(make):
    with pytest.raises(ValueError, match="posterior_context is only for posterior flow"):
        make("M1M2", posterior_context=3)
    with pytest.raises(ValueError, match="prior_components is only for prior mixture or vamp"):
        make("M1M2", prior_components=3)
