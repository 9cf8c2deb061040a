import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

from benchmarks.defaults import textured_shapes
from models import HierarchicalVAE
from models.base import evaluating

LAYERS = [[3, 2], [4, 3, 2], [2, 3, 2, 4]]
layers = pytest.mark.parametrize("z_dim", LAYERS, ids=str)


def gaussian(outputs):
    mu, raw = outputs.chunk(2, -1)
    return Normal(mu, (7 * (raw / 7).tanh()).exp())


def naive_log_weight(model, x, noise):
    """Return the log weight of one image and sample, layer by layer; `noise` is the noise of each layer."""
    q = gaussian(model.encoder(x[None])[0])
    z = q.mean + q.stddev * noise[0]
    below, log_w = z, Bernoulli(logits=model.decoder(z[None])[0]).log_prob(x).sum() - q.log_prob(z).sum()
    for q_net, p_net, eps in zip(model.q_nets, model.p_nets, noise[1:], strict=True):
        q = gaussian(q_net(below[None])[0])
        z = q.mean + q.stddev * eps
        log_w = log_w + gaussian(p_net(z[None])[0]).log_prob(below).sum() - q.log_prob(z).sum()
        below = z
    return log_w + Normal(0.0, 1.0).log_prob(z).sum()


@layers
def test_log_weights_layer_by_layer(make, binary, z_dim):
    model, (x, _) = make("HierarchicalVAE", z_dim=z_dim, activation="tanh"), binary(3)
    torch.manual_seed(3)
    noise = [torch.empty(5, 3, d).normal_() for d in z_dim]
    torch.manual_seed(3)
    log_w = model.log_weights(x, 5)
    for k in range(5):
        for b in range(3):
            expected = naive_log_weight(model, x[b], [eps[k, b] for eps in noise])
            torch.testing.assert_close(log_w[k, b], expected, rtol=1e-4, atol=1e-4)


@layers
def test_gradients_flow_through_the_samples_of_every_layer(make, binary, z_dim):
    model, (x, y) = make("HierarchicalVAE", z_dim=z_dim, activation="tanh"), binary(3)
    parameters = list(model.parameters())
    torch.manual_seed(3)
    noise = [torch.empty(1, 3, d).normal_() for d in z_dim]
    naive = -sum(naive_log_weight(model, x[b], [eps[0, b] for eps in noise]) for b in range(3)) / 3
    expected = torch.autograd.grad(naive, parameters)
    torch.manual_seed(3)
    actual = torch.autograd.grad(model.loss(x, y), parameters)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@layers
def test_the_loss_is_minus_the_mean_log_weight(make, binary, z_dim):
    model, (x, y) = make("HierarchicalVAE", z_dim=z_dim, num_samples=3), binary(4)
    torch.manual_seed(3)
    expected = -model.log_weights(x, 3).mean()
    torch.manual_seed(3)
    torch.testing.assert_close(model.loss(x, y), expected)


@layers
def test_samples_are_ancestral(make, z_dim):
    model = make("HierarchicalVAE", z_dim=z_dim)
    for net in model.p_nets:  # p(z_l|z_l+1) = N(2, e^-14) for every z_l+1
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        mu, raw = net[-1].bias.detach().chunk(2)
        mu.fill_(2.0)
        raw.fill_(-1e3)
    expected = model.decode(torch.full((6, z_dim[0]), 2.0))
    torch.testing.assert_close(model.sample(6), expected, rtol=0.02, atol=0.02)


def test_a_layer_is_sampled_given_the_layer_above(make):
    model = make("HierarchicalVAE", z_dim=[2, 2], inner_hidden=[])
    [net] = model.p_nets  # z_1 = 3 z_2, almost without noise
    nn.init.zeros_(net[-1].weight)
    net[-1].weight.detach()[:2] = 3 * torch.eye(2)
    net[-1].bias.detach()[2:] = -1e3
    torch.manual_seed(3)
    z2 = torch.empty(6, 2).normal_()
    torch.manual_seed(3)
    torch.testing.assert_close(model.sample(6), model.decode(3 * z2), rtol=0.02, atol=0.02)


@layers
def test_statistics_of_each_layer(make, binary, z_dim):
    model, (x, _) = make("HierarchicalVAE", z_dim=z_dim), binary(400)
    for parameter in model.parameters():  # calm: at its start the narrowest of these layers is far from the others
        nn.init.normal_(parameter, std=0.1)
    with evaluating(model, seed=4):
        statistics = model.latent_statistics(x)
        rate, _ = model.rate_distortion(x, 16)
    assert [mean.shape for mean, _ in statistics] == [kl.shape for _, kl in statistics] == [(400, d) for d in z_dim]
    assert torch.equal(statistics[0][0], model.encode(x))
    total = sum(kl.sum(1) for _, kl in statistics)
    error = (total - rate).std() / math.sqrt(len(x))
    assert abs((total - rate).mean()) < 5 * error
    assert error < 0.1 * rate.mean()


def test_the_networks_between_layers_mirror_each_other():
    model = HierarchicalVAE(image_shape=(1, 8, 8), z_dim=[5, 4, 3], inner_hidden=[7, 6])

    def sizes(nets):
        return [[(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)] for net in nets]

    assert sizes(model.q_nets) == [[(5, 7), (7, 6), (6, 8)], [(4, 7), (7, 6), (6, 6)]]
    assert sizes(model.p_nets) == [[(4, 6), (6, 7), (7, 10)], [(3, 6), (6, 7), (7, 8)]]


def test_defaults_are_those_of_burda_et_al():
    model = HierarchicalVAE(image_shape=(1, 8, 8))
    assert list(model.hparams.z_dim) == [100, 50]
    assert list(model.hparams.inner_hidden) == [100, 100]
    assert model.prior().event_shape == (50,)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"z_dim": []}, "two or more positive sizes"),
    ({"z_dim": [5]}, "two or more positive sizes"),
    ({"z_dim": [5, 0]}, "two or more positive sizes"),
    ({"z_dim": [0, 5]}, "two or more positive sizes"),
    ({"inner_hidden": [0]}, "inner_hidden must hold positive sizes"),
    ({"inner_hidden": [-1]}, "inner_hidden must hold positive sizes"),
    ({"objective": "iwae", "beta": 2.0}, "belong to objective elbo"),
    ({"objective": "dreg"}, "Unknown objective of HierarchicalVAE 'dreg': choose one of elbo, iwae, miwae, ciwae"),
    ({"encoder": "transformer"}, "choose one of mlp, conv"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("HierarchicalVAE", **options)


def test_the_rate_stays_small_while_beta_is_small(tmp_path):
    """With a wider spread of the first means it reached 6e9 nats here, and training did not recover from it."""
    textured_shapes(tmp_path / "shapes.npz", n=400)
    with np.load(tmp_path / "shapes.npz") as file:
        images = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(0)
    model = HierarchicalVAE((3, 32, 32), likelihood="gaussian", learn_scale=True)
    model.start_at_mean(images.mean(0))
    adam, rates = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for step in range(40):
        x = images[torch.randint(len(images), (100,))]
        rate, distortion = model.rate_distortion(x, 1, None, model.posterior(x))
        adam.zero_grad()
        (distortion + step / 300 * rate).mean().backward()
        adam.step()
        rates.append(rate.mean().item())
    assert max(rates) < 1000
