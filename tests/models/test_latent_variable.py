"""The contract of latent-variable models: what follows from posterior, prior and log_px, whatever the prior."""

import json
import math
import re
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Laplace, MixtureSameFamily, Normal, kl_divergence

import evaluate
import train
from callbacks import LatentPlane, for_model
from callbacks.codes import active_dimensions, prior_variance
from models import AE, MODELS, VAE, HierarchicalVAE, LatentVariableModel, Model, evaluating
from models.distributions import closed_form_kl, diagonal_normal, is_standard_normal, kl_per_dimension, standard_normal
from models.estimators.ais import Settings, anneal
from models.estimators.importance import importance


class Vamp(VAE):
    """VAE with a VampPrior (Tomczak & Welling 2018): a mixture of the posteriors of learned pseudo-inputs."""

    def __init__(self, image_shape: tuple[int, int, int], num_inputs: int = 5, **kwargs):
        super().__init__(image_shape, **kwargs)
        self.pseudo_inputs = nn.Parameter(torch.rand(num_inputs, *image_shape))

    def prior(self):
        components = self.posterior(self.pseudo_inputs.clamp(0, 1))
        return MixtureSameFamily(Categorical(logits=torch.zeros(len(self.pseudo_inputs))), components)


class Minimal(LatentVariableModel):
    """The least that a latent-variable model defines, with a prior that is not Gaussian."""

    def __init__(self, image_shape: tuple[int, int, int], **kwargs):
        super().__init__(**kwargs)
        self.q, self.p = nn.Linear(prod(image_shape), 4), nn.Linear(2, prod(image_shape))

    def posterior(self, x, y=None):
        mean, log_scale = self.q(x.flatten(1)).chunk(2, -1)
        return Independent(Laplace(mean, log_scale.exp()), 1)  # with the tails of the prior

    def prior(self):
        return Independent(Laplace(torch.zeros(2), torch.ones(2)), 1)

    def log_px(self, x, z, y=None):
        return Independent(Bernoulli(logits=self.p(z).unflatten(-1, self.hparams.image_shape)), 3).log_prob(x)


@pytest.fixture(params=[Vamp, Minimal])
def model(request):
    options = {"z_dim": 2, "hidden": [8]} if request.param is Vamp else {}
    return request.param((1, 2, 2), **options)


# Defaults


def test_the_weights_estimate_p(model, squares):
    for key, parameter in model.named_parameters():  # p(x) far from uniform, q(z|x) wide enough to sample it
        nn.init.normal_(parameter, std=0.6 if key.startswith(("decoder", "p.")) else 0.1)
    with evaluating(model, seed=1):
        sampled = importance(model, squares, 20_000, 2000).log_px
    assert sampled.exp().sum().item() == pytest.approx(1, abs=0.02)
    annealed = anneal(model, squares, Settings(chains=200, temperatures=20, leapfrogs=3), [0.3] * 19)
    assert (annealed.log_px - sampled).abs().max() < 0.3


def test_rate_and_distortion_are_means_of_the_terms_of_the_weights(model, squares):
    with evaluating(model):
        q = model.posterior(squares)
        torch.manual_seed(3)
        rate, distortion = model.rate_distortion(squares, 50, None, q)
        torch.manual_seed(3)
        log_w = model.log_weights(squares, 50, None, q)
    torch.testing.assert_close(-rate - distortion, log_w.mean(0))


def test_loss_and_metrics_are_the_elbo(model, binary):
    x, y = binary(6, (1, 2, 2))
    torch.manual_seed(3)
    loss = model.loss(x, y)
    torch.manual_seed(3)
    measured = model.validation_metrics(x, y)
    assert tuple(measured) == tuple(model.metric_names)
    weight = model.kl_weight if isinstance(model, Vamp) else 1
    torch.testing.assert_close(loss, (measured["distortion"] + weight * measured["rate"]).mean())
    torch.testing.assert_close(measured["bound"], -measured["rate"] - measured["distortion"])
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_nothing_is_said_to_be_standard_normal(model):
    assert not model.has_standard_normal_prior()
    assert model.latent_sizes == (2,)
    with evaluating(model):  # active is relative to the variance under the prior
        scale = prior_variance(model) ** 0.5
        assert active_dimensions(model, torch.tensor([[0.0, 0.0], [1.0, 0.1]]) * scale).tolist() == [True, False]


@pytest.mark.parametrize("kind", [Vamp, Minimal])
def test_it_trains_resumes_draws_and_evaluates(monkeypatch, tmp_path, capsys, kind):
    monkeypatch.setattr("models.estimators.ais.PILOT_MOVES", 20)  # most of the time otherwise
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, kind.__name__, kind)
    options = ["--model.z_dim", "2", "--model.hidden", "[8]"] if kind is Vamp else []
    command = ["--model", kind.__name__, "--data", "Digits", *options, "--num_samples", "3", "--run_dir", "run"]
    assert train.main([*command, "--trainer.max_epochs", "1", "--callbacks", "[]"]) == 0
    assert train.main([*command, "--trainer.max_epochs", "2", "--resume", "auto"]) == 0
    ais = ["--ais", "--ais_chains", "2", "--ais_temperatures", "20", "--ais_leapfrogs", "1", "--ais_images", "4"]
    assert evaluate.main(["run/checkpoints/best.ckpt", "--num_samples", "5", *ais]) == 0
    result = json.loads(Path("run/evaluation.json").read_text())
    assert result["num_samples"] == 5
    assert all(math.isfinite(result[key]) for key in ("nll", "elbo", "rate", "distortion", "ais_nll"))
    # without ais_simulate there are no images to bound the error on
    assert (result["ais_gap"] is None, result["ais_simulated"]) == ((False, 4) if kind is Vamp else (True, 0))
    figures = {path.name for path in Path("run/figures").glob("*")}
    if kind is Vamp:
        names = "latent_plane", "latent_cdf", "latent_density", "traversals", "kl_per_dimension"
        assert {f"{name}_test.png" for name in names} <= figures
        assert len(result["kl_per_dimension"][0]) == 2
    else:
        assert result["active_units"] is None
    assert "could not be drawn" not in capsys.readouterr().err


# Declarations


class NoPrior(LatentVariableModel):
    posterior = Minimal.posterior
    log_px = Minimal.log_px


class NoMetrics(Model):
    def loss(self, x, y):
        return x.sum()


class NoCriterion(AE):
    criterion = None


class NoBound(VAE):
    metric_names = ("elbo",)


class NoPosterior(NoMetrics):
    def validation_metrics(self, x, y):
        return {"bound": x}

    def log_weights(self, x, K, y=None, posterior=None):
        return x


class NoSizes(NoPosterior):
    def encode(self, x):
        return x.flatten(1)

    def interpolate(self, x0, x1, n):
        return x0


@pytest.mark.parametrize(("kind", "sentence"), [
    (NoPrior, "NoPrior defines no prior(): every LatentVariableModel needs it."),
    (NoMetrics, "NoMetrics defines no validation_metrics(): every Model needs it."),
    (NoBound, "NoBound has no metric 'bound', which picks the best checkpoint: add it to metric_names."),
    (NoPosterior, "NoPosterior defines log_weights() without posterior(x, y), which evaluation calls first."),
    (NoSizes, "NoSizes has no option z_dim: define the property latent_sizes, the dimensions of each layer of "
     "latents."),
    (NoCriterion, "NoCriterion has no likelihood, so that evaluation reports its loss: define the property criterion, "
     "the name of the loss, and add 'loss' to metric_names."),
])  # fmt: skip
def test_what_is_missing_is_named_before_training(kind, sentence):
    model = kind(image_shape=(1, 8, 8)) if issubclass(kind, AE | VAE) else kind()
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model.check_definition()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_complete(make, name):
    make(name).check_definition()


def test_a_model_without_sizes_has_no_plane_and_says_so():
    assert "this NoSizes has none" in LatentPlane.unsupported_reason(NoSizes())
    assert "latent_plane" not in [callback.name for callback in for_model(NoSizes())]


def test_capabilities():
    assert VAE.can("sample")
    assert VAE((1, 2, 2)).can("log_weights")
    assert not AE.can("sample")
    assert not Minimal.can("ais_simulate")
    assert not Minimal.can("metric_names")  # no method


# KL divergences


def test_kl_falls_back_where_no_closed_form_is_known():
    q = diagonal_normal(torch.randn(3, 4))
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(1)), standard_normal(2, torch.zeros(1)).expand((1,)))
    assert closed_form_kl(q, mixture) is None
    torch.testing.assert_close(
        closed_form_kl(q, standard_normal(2, torch.zeros(1))),
        kl_divergence(Independent(q.base_dist, 1), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)),
    )


def test_kl_of_each_dimension():
    q = diagonal_normal(torch.randn(3, 4))
    normal = Independent(Normal(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0])), 1)
    exact = kl_divergence(q.base_dist, normal.base_dist)
    torch.testing.assert_close(kl_per_dimension(q, normal), exact)
    torch.testing.assert_close(kl_per_dimension(q, normal).sum(-1), kl_divergence(q, normal))
    # the marginals of a mixture of one component are those of that component
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(1)), normal.expand((1,)))
    torch.testing.assert_close(kl_per_dimension(q, mixture), exact, atol=1e-4, rtol=1e-4)


def test_which_distributions_are_standard_normal():
    one = torch.ones(2)
    assert is_standard_normal(standard_normal(2, one))
    assert is_standard_normal(Independent(Normal(0 * one, one), 1))
    assert not is_standard_normal(Independent(Normal(one, one), 1))
    assert not is_standard_normal(Independent(Normal(0 * one, 2 * one), 1))
    assert not is_standard_normal(Independent(Laplace(0 * one, one), 1))


def loss_in_order(model, x):
    """Return the loss with its terms in the order of earlier versions."""
    q, p = model.posterior(x), model.prior()
    if isinstance(model, HierarchicalVAE):
        z, _, q, p = model.draw(3, q)
        log_ratio = sum(p_l.log_prob(z_l) - q_l.log_prob(z_l) for z_l, q_l, p_l in zip(z, q, p, strict=True))
        return (-model.log_px(x, z[0]).mean(0) - log_ratio.mean(0)).mean()
    z = q.rsample((3,))
    if model.hparams.objective == "elbo":
        rate = kl_divergence(q, p)
        return (-model.log_px(x, z).mean(0) + rate).mean()
    log_px_z = model.log_px(x, z)
    return -model.bound(log_px_z + (p.log_prob(z) - q.log_prob(z))).mean()


@pytest.mark.parametrize("name", ["VAE", "IWAE", "HierarchicalVAE"])
def test_gradients_have_the_bits_of_earlier_versions(make, binary, name):
    """Gradients are summed in the reverse order of the terms of the loss: another order changes their last bits."""
    model, (x, y) = make(name, num_samples=3, objective="iwae" if name == "IWAE" else "elbo"), binary(6)
    gradients = []
    for loss in (lambda: model.loss(x, y), lambda: loss_in_order(model, x)):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(loss(), list(model.parameters())))
    assert all(map(torch.equal, *gradients))
