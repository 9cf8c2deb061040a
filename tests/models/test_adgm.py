import math

import pytest
import torch
from model_helpers import gaussian, shaken, under
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from datamodules import DATAMODULES
from models import ADGM, MODELS, SDGM
from models.base import evaluating
from models.distributions import is_standard_normal
from models.estimators.importance import importance

C = 3
A, Z = 3, 4  # dimensions of a and z, other than each other
MIXED = torch.tensor([0, -1, 2, -1, -1, 1, -1])
names = pytest.mark.parametrize("name", ["ADGM", "SDGM"])
CONV = {"encoder": "conv", "decoder": "conv"}
RESNET = {"encoder": "resnet", "decoder": "resnet", "hidden": [4]}
GATED = {"encoder": "gated"}  # the activation belongs to the decoder then
NETWORKS = [{}, CONV, RESNET, GATED, {"hidden": []}, {"batch_norm": True}]
networks = pytest.mark.parametrize("options", NETWORKS, ids=["mlp", "conv", "resnet", "gated", "linear", "batch_norm"])


def same_noise(seed, K, B, share):
    """Return the noise of K samples of a `(K, B, A)`, and of one of z for every class `(K, C, B, Z)`, shared or not."""
    torch.manual_seed(seed)
    a = torch.empty(K, 1, B, A).normal_()
    return a[:, 0], torch.empty(K, 1 if share else C, B, Z).normal_().expand(K, C, B, Z)


def naive(model, x, noise_a, noise_z, y):
    """Return the distributions and samples of one image and one class, from one noise of a and of z."""
    x, label = x[None], torch.eye(C)[y][None]
    qa = gaussian(model.aux_encoder(x)[0])
    a = qa.mean + qa.stddev * noise_a
    qy = Categorical(logits=model.classifier(x, a[None])[0])
    qz = gaussian(model.encoder(x, torch.cat([a[None], label], 1))[0])
    z = qz.mean + qz.stddev * noise_z
    if isinstance(model, SDGM):
        pa = gaussian(model.aux_decoder(z[None], label)[0])
        logits = model.decoder(z[None], torch.cat([a[None], label], 1))[0]
    else:
        pa = gaussian(model.aux_decoder(x, torch.cat([z[None], label], 1))[0])
        logits = model.decoder(z[None], label)[0]
    log_px = Bernoulli(logits=logits).log_prob(x[0]).sum()
    log_ratio_a = (pa.log_prob(a) - qa.log_prob(a)).sum()
    return qy, qz, z, log_px, log_ratio_a


def naive_bounds(model, x, noise_a, noise_z):
    """Return -L(x, y) of every class, -U(x) and log q(y|x,a) of one image at one a, one class at a time."""
    L, U = [], torch.zeros(())
    for y in range(C):
        qy, qz, _, log_px, log_ratio_a = naive(model, x, noise_a, noise_z[y], y)
        L.append(math.log(1 / C) + log_px + log_ratio_a - kl_divergence(qz, Normal(0.0, 1.0)).sum())
        U = U + qy.probs[y] * L[-1]
    return torch.stack(L), U + qy.entropy(), qy.logits


@names
@networks
@pytest.mark.parametrize("share", [True, False])
def test_bounds_against_a_sum_over_classes_in_a_loop(make, binary, name, options, share):
    options = {"activation": "tanh", "num_samples": 2, "share_noise": share, **options}
    model, (x, _) = shaken(make(name, **options), binary(9)[0]), binary(5)
    noise_a, noise_z = same_noise(3, 2, 5, share)
    labelled, unlabelled, log_qy = under(3, model.bounds, x)
    for b in range(5):
        samples = [naive_bounds(model, x[b], noise_a[k, b], noise_z[k, :, b]) for k in range(2)]
        L, U, log_q = (torch.stack(values).mean(0) for values in zip(*samples, strict=True))
        torch.testing.assert_close(labelled[:, b], L, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(unlabelled[b], U, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_qy[:, b], log_q, rtol=1e-4, atol=1e-4)


@names
@pytest.mark.parametrize("labelled", [False, True])
def test_log_weights_against_a_naive_loop(make, binary, name, labelled):
    model, (x, y) = shaken(make(name, activation="tanh"), binary(9)[0]), binary(4)
    log_w = under(3, model.log_weights, x, 6, y if labelled else None)
    noise_a, noise_z = same_noise(3, 6, 4, share=False)
    for b in range(4):
        for k in range(6):
            terms = []
            for c in range(C):
                _, qz, z, log_px, log_ratio_a = naive(model, x[b], noise_a[k, b], noise_z[k, c, b], c)
                terms.append(log_px + log_ratio_a + (Normal(0.0, 1.0).log_prob(z) - qz.log_prob(z)).sum() - math.log(C))
            expected = terms[y[b]] if labelled else torch.stack(terms).logsumexp(0)
            torch.testing.assert_close(log_w[k, b], expected, rtol=1e-4, atol=1e-4)


@names
@pytest.mark.parametrize("y", [MIXED, MIXED.abs(), torch.full((7,), -1)], ids=["mixed", "labelled", "unlabelled"])
@pytest.mark.parametrize("weight", [None, 1.0])
def test_the_loss_and_its_gradient_against_the_formula(make, binary, name, y, weight):
    model = make(name, activation="tanh", alpha=2.0, labelled_fraction=0.02, labelled_weight=weight)
    x, _ = binary(7)
    noise_a, noise_z = same_noise(3, 1, 7, share=True)
    bounds = [naive_bounds(model, x[b], noise_a[0, b], noise_z[0, :, b]) for b in range(7)]
    L = [-bounds[b][0][y[b]] for b in range(7) if y[b] >= 0]
    U = [-bounds[b][1] for b in range(7) if y[b] < 0]
    cross = [-bounds[b][2][y[b]] for b in range(7) if y[b] >= 0]
    mean = lambda terms: sum(terms) / len(terms) if terms else torch.zeros(())  # noqa: E731
    expected = (weight or 0.02) * mean(L) + 0.98 * mean(U) + 2.0 * mean(cross)
    loss = under(3, model.loss, x, y)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), rtol=1e-3, atol=1e-5)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


@names
def test_a_class_of_probability_0_keeps_everything_finite(make, binary, name):
    model, (x, _) = make(name), binary(7)
    with torch.no_grad():
        model.classifier.output.bias.copy_(torch.tensor([1e4, 0.0, -1e4]))
    loss = model.loss(x, MIXED)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(values.isfinite().all() for values in model.validation_metrics(x, MIXED).values())


# Comparison with a model whose images can be enumerated


@names
@pytest.mark.parametrize("options", [{}, {"batch_norm": True}], ids=["plain", "batch_norm"])
def test_p_of_all_images_and_labels_sums_to_1(make, squares, name, options):
    model = shaken(make(name, (1, 2, 2), z_dim=2, a_dim=2, **options), squares)
    with evaluating(model, seed=4):
        p = [model.log_weights(squares, 6_400, torch.full((16,), y)).double().exp().sum(1) for y in range(C)]
        unknown = model.log_weights(squares, 6_400).double().exp().sum(1)
    for each in p:  # each label has its prior
        assert abs(each.mean() - 1 / C) < 4.5 * each.std() / 80
    for whole in (sum(p), unknown):
        assert whole.std() < 2
        assert abs(whole.mean() - 1) < 4.5 * whole.std() / 80


@names
def test_log_p_agrees_with_numerical_integration(make, squares, name):
    # in one dimension of z and a; p(x) of ADGM is that of its M2, and a integrates to 1
    model = shaken(make(name, (1, 2, 2), z_dim=1, a_dim=1), squares).double()
    x, grid = squares.double(), torch.linspace(-8, 8, 401, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(grid).exp() * (grid[1] - grid[0])
    with evaluating(model, seed=2):
        if name == "ADGM":
            log_px = model.px(grid[:, None, None, None]).log_prob(x)  # (G, C, B)
            p = (log_px.exp() * weights[:, None, None]).sum(0) / C
        else:
            z, noise = (part.reshape(-1, 1, 1) for part in torch.meshgrid(grid[::4], grid[::4], indexing="ij"))
            log_px = model.px_classes(torch.cat([z, noise], -1)).log_prob(x)  # (G^2, C, B)
            w = 16 * weights[::4, None] * weights[None, ::4]
            p = (log_px.exp() * w.reshape(-1, 1, 1)).sum(0) / C
        joint = [importance(model, x, 20_000, 2000, y=torch.full((16,), y)).log_px for y in range(C)]
        unknown = importance(model, x, 20_000, 2000).log_px
        draws = [model.bounds(x)[:2] for _ in range(300)]
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(torch.stack(joint), p.log(), atol=0.06, rtol=0)
    torch.testing.assert_close(unknown, p.sum(0).log(), atol=0.06, rtol=0)
    labelled, unlabelled = (torch.stack(values) for values in zip(*draws, strict=True))
    for bound, truth in ((labelled, p.log()), (unlabelled, p.sum(0).log())):
        gap, error = truth - bound.mean(0), bound.std(0) / math.sqrt(len(bound))
        assert (gap > -4 * error).all()
        assert gap.mean() > 0.005  # a strict bound


@names
def test_rate_and_distortion_add_up_to_the_unlabelled_bound(make, binary, name):
    model, (x, y) = make(name).eval(), binary(5)
    rate, distortion = under(3, model.rate_distortion, x, 1)
    labelled, unlabelled, _ = under(3, model.bounds, x)
    torch.testing.assert_close(-(rate + distortion), unlabelled)
    measured = under(3, model.validation_metrics, x, y)
    assert measured.keys() == set(MODELS["M2"].metric_names)
    torch.testing.assert_close(measured["bound"], -(rate + distortion))
    torch.testing.assert_close(measured["labelled_bound"], labelled.gather(0, y[None])[0])
    qy = model.classify(x)
    torch.testing.assert_close(measured["entropy"], Categorical(probs=qy).entropy())
    assert torch.equal(measured["error"], qy.argmax(1) != y)
    half = under(3, model.validation_metrics, x, y.where(torch.arange(5) % 2 == 0, -1))
    for key in ("labelled_bound", "error"):
        torch.testing.assert_close(half[key], measured[key][::2])


@names
@pytest.mark.parametrize("network", ["mlp", "conv", "resnet"])
def test_the_first_layers_run_once_per_image_and_classes_share_them(make, binary, name, network):
    model, (x, _) = make(name, encoder=network), binary(7)
    seen = {}
    for part in ("aux_encoder", "classifier", "encoder", "aux_decoder"):
        first = getattr(model, part).first
        first.register_forward_hook(lambda module, args, output, part=part: seen.setdefault(part, []).append(args[0]))
    decoded = []
    model.decoder.rest.register_forward_hook(lambda module, args, output: decoded.append(len(output)))
    model.loss(x, MIXED)
    for part in ("aux_encoder", "classifier", "encoder"):
        assert [given.shape for given in seen[part]] == [x.shape]
    expected = x.shape if name == "ADGM" else (1, C, 7, Z)
    assert [given.shape for given in seen["aux_decoder"]] == [expected]
    assert decoded == [C * 7]


# Uses of a trained model


@names
def test_classification_is_the_mean_over_samples_of_a_with_fixed_noise(make, binary, name):
    model, (x, _) = shaken(make(name, classifier_samples=7), binary(9)[0]), binary(5)
    qy = model.classify(x)
    qa = gaussian(model.aux_encoder(x))
    expected = torch.zeros(5, C)
    for noise in model.classifier_noise[:, 0]:
        expected += model.classifier(x, qa.mean + qa.stddev * noise).softmax(-1) / 7
    torch.testing.assert_close(qy, expected)
    assert torch.equal(model.classify(x), qy)  # deterministic,
    torch.testing.assert_close(model.classify(x[2:3]), qy[2:3])  # whatever the batch,
    again = make(name, classifier_samples=7, seed=5)
    assert torch.equal(again.classifier_noise, model.classifier_noise)  # and the same in every model
    assert "classifier_noise" not in model.state_dict()


@names
def test_codes_and_images_of_labels(make, binary, name):
    x, _ = binary(5)
    model = shaken(make(name), x)
    best = model.classify(x).argmax(1)
    torch.testing.assert_close(model.encode(x), model.encode(x, best))
    analogies, z = model.analogies(x), model.encode(x)
    assert analogies.shape == (5, C, 1, 8, 8)
    for b in range(5):
        for c in range(C):
            torch.testing.assert_close(analogies[b, c], model.decode(z[b : b + 1], torch.tensor([c]))[0])
    assert (analogies[:, 0] - analogies[:, 1]).abs().max() > 1e-3
    images = under(3, model.sample_classes, 4)
    drawn = under(3, model.prior().sample, (4,))
    torch.testing.assert_close(images[:, 2], model.decode(drawn, torch.full((4,), 2)))
    torch.testing.assert_close(under(3, model.sample, 4), model.decode(drawn, torch.tensor([0, 1, 2, 0])))
    (mean_z, kl_z), (mean_a, kl_a) = model.latent_statistics(x)
    torch.testing.assert_close(mean_z, model.encode(x))
    assert mean_z.shape == kl_z.shape == (5, Z)
    assert mean_a.shape == kl_a.shape == (5, A)
    assert (kl_a >= 0).all()


def test_reconstructions_of_adgm_are_decoded_codes_and_those_of_sdgm_use_a(make, binary):
    x, _ = binary(5)
    adgm, sdgm = shaken(make("ADGM"), x), shaken(make("SDGM"), x)
    torch.testing.assert_close(adgm.reconstruct(x), adgm.decode(adgm.encode(x), adgm.classify(x).argmax(1)))
    best = sdgm.classify(x).argmax(1)
    a, label = gaussian(sdgm.aux_encoder(x)).mean, torch.eye(C)[best]
    expected = sdgm.decoder(sdgm.encode(x), torch.cat([a, label], 1)).sigmoid()
    torch.testing.assert_close(sdgm.reconstruct(x), expected)
    assert not torch.allclose(expected, sdgm.decode(sdgm.encode(x), best))


def test_the_space_of_ais_has_the_noise_of_a_in_sdgm_alone(make, binary):
    x, _ = binary(5)
    adgm, sdgm = shaken(make("ADGM"), x), shaken(make("SDGM"), x)
    assert adgm.ais_prior().event_shape == (Z,)
    assert sdgm.ais_prior().event_shape == (Z + A,)
    assert is_standard_normal(sdgm.ais_prior())
    z, noise = torch.randn(5, Z), torch.randn(5, A)
    log_px = []
    for c in range(C):
        label = torch.eye(C)[c].expand(5, C)
        pa = gaussian(sdgm.aux_decoder(z, label))
        logits = sdgm.decoder(z, torch.cat([pa.mean + pa.stddev * noise, label], 1))
        log_px.append(Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1))
    found = sdgm.ais_log_px(x, torch.cat([z, noise], 1))
    torch.testing.assert_close(found, torch.stack(log_px).logsumexp(0) - math.log(C))


@names
def test_it_learns_to_classify_from_few_labels(trainer, name):
    data = DATAMODULES["Digits"](num_labels=100, labels_per_batch=20)
    data.setup()
    torch.manual_seed(0)
    model = MODELS[name].for_data(data, hidden=[64], z_dim=8, a_dim=8, lr=3e-3, alpha=1.0, classifier_samples=10)
    fitter = trainer(max_epochs=6)
    fitter.fit(model, datamodule=data)
    assert fitter.callback_metrics["val/error"] < 0.35


@names
def test_classes_are_nearly_identical_at_initialization(make, binary, name):
    x, _ = binary(64)
    for options in ({}, CONV, RESNET):
        model = make(name, **options)
        with torch.no_grad():
            a = model.qa(x).mean
            qz = model.qz(x, a=a)
            z = qz.mean + qz.stddev * torch.randn(1, 64, Z)  # the same noise for every class
            terms = model.px_given(z, a).log_prob(x), model.pa(x, z).log_prob(a)
        for term in terms:
            assert (term - term.mean(0)).abs().max() < 0.5  # nats
        assert (model.classify(x) - 1 / C).abs().max() < 0.02


# Invalid options and data


@names
@pytest.mark.parametrize(("options", "sentence"), [
    ({"num_classes": 1}, " needs labels of two classes or more"),
    ({"z_dim": 0}, "z_dim must be at least 1; got 0"),
    ({"a_dim": 0}, "a_dim must be at least 1; got 0"),
    ({"num_samples": 0}, "num_samples must be at least 1; got 0"),
    ({"classifier_samples": 0}, "classifier_samples must be at least 1; got 0"),
    ({"alpha": -0.1}, "alpha must not be negative; got -0.1"),
    ({"labelled_weight": -1.0}, "labelled_weight must not be negative; got -1.0"),
])  # fmt: skip
def test_options_out_of_range(make, name, options, sentence):
    with pytest.raises(ValueError, match=sentence) as info:
        make(name, **options)
    assert "M2" not in str(info.value)


def test_data_without_labels_are_refused():
    data = DATAMODULES["Digits"]()
    data.setup()
    data.train = data.train._replace(y=torch.full_like(data.train.y, -1))
    with pytest.raises(ValueError, match="ADGM needs some labels"):
        ADGM.for_data(data, hidden=[4])
