import math

import pytest
import torch
from model_helpers import gaussian, shaken, under
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from datamodules import DATAMODULES
from models import MODELS
from models.base import evaluating
from models.estimators.importance import importance

C = 3
MIXED = torch.tensor([0, -1, 2, -1, -1, 1, -1])


def naive(model, x, noise):
    """Return -L(x, y) of every class and -U(x) of one image, one class at a time; `noise (C, z_dim)`."""
    q_y = Categorical(logits=model.classifier(x[None])[0])
    L, U = [], torch.zeros(())
    for y in range(C):
        label = torch.eye(C)[y][None]
        q = gaussian(model.encoder(x[None], label)[0])
        z = q.mean + q.stddev * noise[y]
        log_px = Bernoulli(logits=model.decoder(z[None], label)[0]).log_prob(x).sum()
        L.append(math.log(1 / C) + log_px - kl_divergence(q, Normal(0.0, 1.0)).sum())
        U = U + q_y.probs[y] * L[-1]
    return torch.stack(L), U + q_y.entropy(), q_y


CONV = {"encoder": "conv", "decoder": "conv"}
RESNET = {"encoder": "resnet", "decoder": "resnet", "hidden": [4]}
GATED = {"encoder": "gated"}  # the activation belongs to the decoder then
NETWORKS = [{}, CONV, RESNET, GATED, {"hidden": []}, {"batch_norm": True}]
networks = pytest.mark.parametrize("options", NETWORKS, ids=["mlp", "conv", "resnet", "gated", "linear", "batch_norm"])


def noise_of_classes(B, share=True):
    """Return the noise of z that the model draws under seed 3, `(C, B, z_dim)`: the same for all classes, or not."""
    return under(3, torch.empty(1 if share else C, B, 4).normal_).expand(C, -1, -1)


@networks
@pytest.mark.parametrize("share", [True, False])
def test_bounds_against_a_sum_over_classes_in_a_loop(make, binary, options, share):
    model, (x, _) = make("M2", activation="tanh", share_noise=share, **options).eval(), binary(5)
    noise = noise_of_classes(5, share)
    labelled, unlabelled, log_qy = under(3, model.bounds, x)
    for b in range(5):
        L, U, q_y = naive(model, x[b], noise[:, b])
        torch.testing.assert_close(labelled[:, b], L)
        torch.testing.assert_close(unlabelled[b], U)
        torch.testing.assert_close(log_qy[:, b], q_y.logits)


@pytest.mark.parametrize("y", [MIXED, MIXED.abs(), torch.full((7,), -1)], ids=["mixed", "labelled", "unlabelled"])
@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_the_loss_and_its_gradient_against_the_formula(make, binary, y, alpha):
    model, (x, _) = make("M2", activation="tanh", alpha=alpha, labelled_fraction=0.02), binary(7)
    noise = noise_of_classes(7)
    bounds = [naive(model, x[b], noise[:, b]) for b in range(7)]
    L = [-bounds[b][0][y[b]] for b in range(7) if y[b] >= 0]
    U = [-bounds[b][1] for b in range(7) if y[b] < 0]
    cross = [-bounds[b][2].logits[y[b]] for b in range(7) if y[b] >= 0]
    mean = lambda terms: sum(terms) / len(terms) if terms else torch.zeros(())  # noqa: E731
    expected = 0.02 * mean(L) + 0.98 * mean(U) + alpha * mean(cross)
    loss = under(3, model.loss, x, y)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), rtol=1e-4, atol=1e-5)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_unlabelled_rows_use_no_label_and_labelled_rows_their_own(make, binary):
    # q(y|x) of a labelled image gets only the gradient of the cross-entropy
    model, (x, y) = make("M2", alpha=0.0), binary(6)
    model.loss(x, y).backward()
    assert not any(parameter.grad.any() for parameter in model.classifier.parameters() if parameter.grad is not None)


def test_a_class_of_probability_0_keeps_everything_finite(make, binary):
    model, (x, _) = make("M2"), binary(7)
    last = model.classifier.rest[-1]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1e4, 0.0, -1e4]))
    loss = model.loss(x, MIXED)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(values.isfinite().all() for values in model.validation_metrics(x, MIXED).values())


# Comparison with a model whose images can be enumerated


@networks
def test_bounds_are_below_log_p_in_expectation(make, squares, options):
    model = shaken(make("M2", (1, 2, 2), z_dim=2, **options), squares)
    with evaluating(model, seed=4):
        log_pxy = torch.stack([importance(model, squares, 10_000, y=torch.full((16,), y)).log_px for y in range(C)])
        log_px = importance(model, squares, 10_000, seed=1).log_px
        draws = [model.bounds(squares)[:2] for _ in range(200)]
    labelled, unlabelled = (torch.stack(values).double() for values in zip(*draws, strict=True))
    torch.testing.assert_close(log_pxy.logsumexp(0), log_px, atol=0.05, rtol=0)
    for bound, truth in ((labelled, log_pxy), (unlabelled, log_px)):
        gap, error = truth - bound.mean(0), bound.std(0) / math.sqrt(len(bound)) + 0.01
        assert (gap > -4 * error).all()
        assert gap.mean() > 0.005  # a strict bound
        assert gap.max() < 10


@networks
def test_p_of_all_images_and_labels_sums_to_1(make, squares, options):
    model = shaken(make("M2", (1, 2, 2), z_dim=2, **options), squares)
    with evaluating(model, seed=4):
        p = [model.log_weights(squares, 10_000, torch.full((16,), y)).double().exp().sum(1) for y in range(C)]
    for each in p:  # each label has its prior
        assert abs(each.mean() - 1 / C) < 4.5 * each.std() / 100
        assert each.std() < 2
    whole = sum(p)
    assert abs(whole.mean() - 1) < 4.5 * whole.std() / 100


@pytest.mark.parametrize("labelled", [False, True])
def test_log_weights_against_a_naive_loop(make, binary, labelled):
    model, (x, y) = make("M2", activation="tanh"), binary(4)
    log_w = under(3, model.log_weights, x, 6, y if labelled else None)
    noise = under(3, torch.empty(6, C, 4, 4).normal_)
    for b in range(4):
        for k in range(6):
            terms = []
            for c in range(C):
                label = torch.eye(C)[c][None]
                q = gaussian(model.encoder(x[b : b + 1], label)[0])
                z = q.mean + q.stddev * noise[k, c, b]
                log_px = Bernoulli(logits=model.decoder(z[None], label)[0]).log_prob(x[b]).sum()
                terms.append(log_px + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum() + math.log(1 / C))
            expected = terms[y[b]] if labelled else torch.stack(terms).logsumexp(0)
            torch.testing.assert_close(log_w[k, b], expected)


def test_rate_and_distortion_add_up_to_the_unlabelled_bound(make, binary):
    model, (x, y) = make("M2"), binary(5)
    rate, distortion = under(3, model.rate_distortion, x, 1)
    torch.testing.assert_close(-(rate + distortion), under(3, model.bounds, x)[1])
    assert (rate > 0).all()
    measured = under(3, model.validation_metrics, x, y)
    torch.testing.assert_close(measured["bound"], -(rate + distortion))
    qy = model.classify(x)
    torch.testing.assert_close(measured["entropy"], Categorical(probs=qy).entropy())
    assert torch.equal(measured["error"], (qy.argmax(1) != y).double())
    labelled = under(3, model.bounds, x)[0].gather(0, y[None])[0]
    torch.testing.assert_close(measured["labelled_bound"], labelled)
    half = under(3, model.validation_metrics, x, y.where(torch.arange(5) % 2 == 0, -1))
    for key in ("labelled_bound", "error"):
        torch.testing.assert_close(half[key], measured[key][::2])
    assert (under(3, model.validation_metrics, x, -torch.ones_like(y))["bound"] == measured["bound"]).all()


@pytest.mark.parametrize("network", ["mlp", "conv", "resnet"])
def test_the_first_layer_runs_once_per_image_and_classes_share_it(make, binary, network):
    model, (x, _) = make("M2", encoder=network), binary(7)
    first, decoded = [], []
    model.encoder.first.register_forward_hook(lambda module, args, output: first.append(args[0].shape))
    model.decoder.rest.register_forward_hook(lambda module, args, output: decoded.append(len(output)))
    model.loss(x, MIXED)
    assert first == [x.shape]
    assert decoded == [C * 7]
    assert model.decoder_cost == C


# Methods of a trained model


def test_classify_and_codes(make, binary):
    model, (x, _) = make("M2"), binary(5)
    qy = model.classify(x)
    assert qy.shape == (5, C)
    torch.testing.assert_close(qy.sum(1), torch.ones(5))
    best = qy.argmax(1)
    torch.testing.assert_close(model.encode(x), model.encode(x, best))
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encode(x, best), best))
    [(mean, kl)] = model.latent_statistics(x)
    torch.testing.assert_close(mean, model.encode(x))
    assert kl.shape == (5, 4)


def test_analogies_fix_z_and_vary_y(make, binary):
    x, _ = binary(5)
    model = shaken(make("M2"), x)
    images, z = model.analogies(x), model.encode(x)
    assert images.shape == (5, C, 1, 8, 8)
    for b in range(5):
        for c in range(C):
            torch.testing.assert_close(images[b, c], model.decode(z[b : b + 1], torch.tensor([c]))[0])
    assert (images[:, 0] - images[:, 1]).abs().max() > 1e-3


def test_samples_cycle_through_labels_and_class_samples_share_z(make):
    model = make("M2")
    z = under(3, model.prior().sample, (4,))
    torch.testing.assert_close(under(3, model.sample, 4), model.decode(z, torch.tensor([0, 1, 2, 0])))
    images = under(3, model.sample_classes, 4)
    assert images.shape == (4, C, 1, 8, 8)
    torch.testing.assert_close(images[:, 2], model.decode(z, torch.full((4,), 2)))


def test_it_learns_to_classify_from_few_labels(trainer):
    data = DATAMODULES["Digits"](num_labels=100, labels_per_batch=20)
    data.setup()
    torch.manual_seed(0)
    model = MODELS["M2"].for_data(data, hidden=[64], z_dim=8, lr=3e-3, alpha=1.0)
    fitter = trainer(max_epochs=6)
    fitter.fit(model, datamodule=data)
    assert fitter.callback_metrics["val/error"] < 0.35


def test_features_are_standard_normal_at_initialization(make):
    model = make("M2", image_shape=(6,), likelihood="features")
    z1 = torch.randn(20, 6)
    log_p = model.px(torch.randn(C, 20, 4)).log_prob(z1)
    torch.testing.assert_close(log_p, Normal(0.0, 1.0).log_prob(z1).sum(1).expand(C, 20), atol=0.5, rtol=0)


def test_classes_are_nearly_identical_at_initialization(make, binary):
    x, _ = binary(64)
    for options in ({}, CONV, RESNET, {"hidden": []}):
        model = make("M2", **options)
        noise = torch.randn(1, 64, 4).expand(C, 64, 4)  # the same for every class
        with torch.no_grad():
            qz_xy = model.qz(x)
            log_px_yz = model.px(qz_xy.mean + qz_xy.stddev * noise).log_prob(x)
            assert (log_px_yz - log_px_yz.mean(0)).abs().max() < 0.5  # nats, of about 45
            assert (model.classify(x) - 1 / C).abs().max() < 0.02


# Invalid options and data


@pytest.mark.parametrize(("options", "sentence"), [
    ({"num_classes": 0}, "M2 needs labels of two classes or more"),
    ({"num_classes": 1}, "M2 needs labels of two classes or more"),
    ({"z_dim": 0}, "z_dim must be at least 1; got 0"),
    ({"alpha": -0.1}, "alpha must not be negative; got -0.1"),
    ({"alpha": math.nan}, "alpha must not be negative; got nan"),
])  # fmt: skip
def test_options_out_of_range(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("M2", **options)


def test_data_without_labels_or_of_another_protocol_are_refused():
    data = DATAMODULES["Digits"]()
    data.setup()
    with pytest.raises(ValueError, match=r"grey|binarization"):
        MODELS["M2"].for_data(data, likelihood="gaussian", hidden=[4])
    data.train = data.train._replace(y=torch.full_like(data.train.y, -1))
    with pytest.raises(ValueError, match="M2 needs some labels"):
        MODELS["M2"].for_data(data, hidden=[4])
