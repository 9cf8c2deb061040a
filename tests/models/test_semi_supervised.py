"""M2, ADGM, SDGM and M1M2 with every prior and posterior."""

import math
import re

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

C, K = 3, 2000
MIXED = torch.tensor([0, -1, 2, -1, -1, 1, -1])
PRIORS = {
    "standard": {},
    "mixture": {"prior": "mixture", "prior_components": 3},
    "vamp": {"prior": "vamp", "prior_components": 4},
}
POSTERIORS = {
    "diagonal": {},
}
names = pytest.mark.parametrize("name", ["M2", "ADGM", "SDGM"])
priors = pytest.mark.parametrize("prior", PRIORS)
posteriors = pytest.mark.parametrize("posterior", POSTERIORS)


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
    for key, parameter in [*model.z_prior.named_parameters(), *model.z_posterior.named_parameters()]:
        nn.init.normal_(parameter, mean=-0.5 if key == "raw_scales" else 0.0, std=0.3)
    for network in (model.encoder, getattr(model, "aux_encoder", None)):
        if network is not None:
            network.output.bias[2:4] += 0.3  # log scales of two dimensions
    return model


# The likelihood


@names
@priors
@posteriors
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
@priors
@posteriors
def test_bounds_are_below_log_p_and_every_parameter_has_a_gradient(combined, squares, name, prior, posterior):
    model = combined(name, prior, posterior)
    with evaluating(model, seed=1):
        log_px = importance(model, squares, 10_000).log_px
        joint = importance(model, squares, 10_000, y=torch.arange(16) % C).log_px
        rate, distortion = model.rate_distortion(squares, 1000)
        labelled = torch.stack([model.bounds(squares)[0].gather(0, torch.arange(16)[None] % C)[0] for _ in range(100)])
    assert (log_px + rate + distortion > -0.05).all()
    gap, error = joint - labelled.mean(0), labelled.std(0) / 10
    assert (gap > -4 * error - 0.05).all()
    model.train().loss(squares[:7], MIXED).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(("name", "prior"), [("M2", "mixture"), ("M2", "vamp"), ("SDGM", "mixture")])
def test_annealed_importance_sampling_agrees_with_importance_sampling(combined, squares, name, prior):
    model = combined(name, prior, "diagonal")
    settings = Settings(chains=200, temperatures=20, leapfrogs=3)
    with evaluating(model, seed=1):
        sampled = importance(model, squares, 20_000).log_px
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


@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_the_kl_is_in_closed_form_or_the_mean_over_the_samples(combined, squares, prior):
    model = combined("M2", prior, "diagonal")
    q, p = model.posterior(squares), model.prior()
    z, kl = under(3, rsample_with_kl, q, p, 5)
    assert torch.equal(z, under(3, q.rsample, (5,)))
    of_samples = (q.log_prob(z) - p.log_prob(z)).mean(0)
    exact = torch.distributions.kl_divergence(q, p) if prior == "standard" else of_samples
    torch.testing.assert_close(kl, exact)
    assert torch.allclose(kl, of_samples) == (prior != "standard")


# Uses of a trained model


@names
@priors
@posteriors
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
