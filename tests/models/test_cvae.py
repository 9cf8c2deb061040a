import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

from models import MODELS
from models.base import evaluating
from models.estimators.importance import importance


def shaken(model):
    """Return the model with p(x|y) far from uniform and from each other, and non-trivial batch norm statistics."""
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5 if key.startswith("decoder") else 0.05)
    with torch.no_grad():
        model.train().log_weights(torch.rand(64, 1, 2, 2).round(), 4, torch.arange(64) % 3)
    return model.eval()


def exact(model, x):
    """Return p(x|y) of every image and label `(N, C)`, by a grid over a latent of two dimensions."""
    grid = torch.linspace(-6, 6, 121, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)  # (G, 2)
    prior = Normal(0.0, 1.0).log_prob(z).sum(1).exp() * (grid[1] - grid[0]) ** 2
    p = []
    for label in torch.eye(3):
        logits = model.decoder(z.float(), label.expand(len(z), 3)).double().flatten(1)  # (G, pixels)
        p.append(
            torch.stack(
                [prior @ Bernoulli(logits=logits).log_prob(image).sum(1).exp() for image in x.double().flatten(1)]
            )
        )
    return torch.stack(p, 1)


def test_log_weights_against_a_naive_loop(make, binary):
    model, (x, y) = make("CVAE", z_dim=4, activation="tanh"), binary(5)
    torch.manual_seed(3)
    log_w = model.log_weights(x, 6, y)
    torch.manual_seed(3)
    eps = torch.empty(6, 5, 4).normal_()
    for b in range(5):
        label = torch.eye(3)[y[b]][None]
        mu, raw = model.encoder(x[b : b + 1], label)[0].chunk(2)
        q = Normal(mu, (7 * (raw / 7).tanh()).exp())
        for k in range(6):
            z = q.mean + q.stddev * eps[k, b]
            p = Bernoulli(logits=model.decoder(z[None], label)[0])
            expected = p.log_prob(x[b]).sum() + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum()
            torch.testing.assert_close(log_w[k, b], expected)


NETWORKS = [
    {},
    {"encoder": "conv", "decoder": "conv"},
    {"encoder": "resnet", "decoder": "resnet", "hidden": [4]},
    {"encoder": "gated", "decoder": "gated"},
]


@pytest.mark.parametrize("options", NETWORKS, ids=["mlp", "conv", "resnet", "gated"])
@torch.no_grad()
def test_importance_gives_the_exact_log_p_of_x_given_y(make, squares, options):
    model = shaken(make("CVAE", (1, 2, 2), z_dim=2, **options))
    p = exact(model, squares)
    torch.testing.assert_close(p.sum(0), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    assert (p[:, 0] - p[:, 1]).abs().max() > 0.01  # the label matters
    for label in range(3):
        estimate = importance(model, squares, 20_000, y=torch.full((16,), label))
        error = (1 / estimate.ess - 1 / 20_000).sqrt()
        assert (error < 0.03).all()
        assert ((estimate.log_px - p[:, label].log()).abs() < 4.5 * error).all()
        assert (estimate.elbo < p[:, label].log() + 4.5 * error).all()


@pytest.mark.parametrize("options", [
    {}, {"batch_norm": True}, {"encoder": "conv", "decoder": "conv", "batch_norm": True}, {"hidden": []},
])  # fmt: skip
def test_p_of_all_binary_images_sums_to_1_for_every_label(make, squares, options):
    model = shaken(make("CVAE", (1, 2, 2), **options))
    for label in range(3):
        with evaluating(model, seed=4):
            p = model.log_weights(squares, 20_000, torch.full((16,), label)).double().exp()  # (K, 16)
        total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
        assert error < 0.05
        assert abs(total - 1) < 4.5 * error


def test_labels_reach_encoder_decoder_and_loss(make, binary):
    model, (x, y) = make("CVAE"), binary(6)
    other = (y + 1) % 3
    assert (model.encode(x, y) - model.encode(x, other)).abs().amin() > 0
    z = torch.randn(6, 20)
    assert ((model.decode(z, y) - model.decode(z, other)).abs().flatten(1).amax(1) > 1e-4).all()
    losses = []
    for labels in (y, other):
        torch.manual_seed(3)
        losses.append(model.loss(x, labels).item())
    assert losses[0] != losses[1]
    torch.manual_seed(3)
    assert -model.validation_metrics(x, other)["elbo"].mean().item() == pytest.approx(losses[1], rel=1e-5)


def test_samples_cycle_through_the_labels(make):
    model = make("CVAE")
    results = []
    for labels in (None, torch.arange(7) % 3, torch.zeros(7, dtype=torch.long)):
        torch.manual_seed(3)
        results.append(model.sample(7, labels))
    assert results[0].shape == (7, 1, 8, 8)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0][::3], results[2][::3])
    assert not torch.equal(results[0][1], results[2][1])


def test_sample_classes_decodes_each_code_with_every_label(make):
    model = make("CVAE")
    torch.manual_seed(3)
    images = model.sample_classes(4)
    assert images.shape == (4, 3, 1, 8, 8)
    torch.manual_seed(3)
    z = model.prior().sample((4, 1))
    for label in range(3):
        torch.testing.assert_close(images[:, label], model.decode(z[:, 0], torch.full((4,), label)))


@pytest.mark.parametrize("n", [2, 5, 10])
def test_an_interpolation_goes_from_reconstruction_to_reconstruction(make, binary, n):
    model, (x, y) = make("CVAE"), binary(6)
    steps = model.interpolate(x[:3], x[3:], n, y0=y[:3], y1=(y[3:] + 1) % 3)
    assert steps.shape == (n, 3, 1, 8, 8)
    torch.testing.assert_close(steps[0], model.reconstruct(x[:3], y[:3]))
    torch.testing.assert_close(steps[-1], model.reconstruct(x[3:], (y[3:] + 1) % 3))


# Invalid arguments


@pytest.mark.parametrize("f", ["encode", "reconstruct", "posterior"])
def test_missing_labels_are_reported(make, binary, f):
    model, (x, _) = make("CVAE"), binary(3)
    with pytest.raises(ValueError, match="CVAE needs the labels y"):
        getattr(model, f)(x)
    with pytest.raises(ValueError, match="CVAE needs the labels y"):
        model.log_weights(x, 2)


@pytest.mark.parametrize("y", [[-1, 0, 1], [0, 1, 3]])
def test_labels_out_of_range_are_refused(make, binary, y):
    model, (x, _) = make("CVAE"), binary(3)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)label|class values"):
        model.log_weights(x, 2, torch.tensor(y))


def test_data_with_hidden_or_no_labels_are_refused():
    from datamodules import DATAMODULES

    data = DATAMODULES["Digits"](num_labels=50)
    data.setup()
    with pytest.raises(ValueError, match=r"CVAE needs the label of every training, .*num_labels.*M2"):
        MODELS["CVAE"].for_data(data, hidden=[4])
    with pytest.raises(ValueError, match="CVAE needs labels"):
        MODELS["CVAE"]((1, 8, 8), num_classes=0)
