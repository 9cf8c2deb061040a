import math

import numpy as np
import pytest
import torch
from model_helpers import gaussian, under
from torch import nn
from torch.distributions import Bernoulli, Normal

import models
from callbacks.checkpoint import RunCheckpoint
from datamodules import DATAMODULES
from models import MODELS
from models.base import evaluating
from models.m1m2 import open_m1, used_latents

C, KEPT, PRUNED = 3, [0, 2, 3], [1]


def digits(**options):
    data = DATAMODULES["Digits"](**{"batch_size": 200, "num_labels": 50, **options})
    data.setup()
    return data


def keep(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(state, before):
    return all(torch.equal(value, before[key]) for key, value in state.items())


@pytest.fixture
def trained(trainer, tmp_path):
    """Train `name` on Digits for one epoch and return the path of its checkpoint."""

    def run(name="VAE", data=None, folder="m1", **options):
        data = data or digits(num_labels=None)
        torch.manual_seed(0)
        model = MODELS[name].for_data(data, hidden=[32], **{"lr": 5e-3, **options})
        callback = RunCheckpoint(tmp_path / folder, 0)
        trainer(callbacks=[callback], enable_checkpointing=True).fit(model, datamodule=data)
        return str(callback.last)

    return run


# The contract


@pytest.mark.parametrize("labelled", [False, True])
def test_log_weights_against_the_formula(make, binary, labelled):
    model, (x, y) = make("M1M2", activation="tanh"), binary(4)
    K = 5
    log_w = under(3, model.log_weights, x, K, y if labelled else None)
    torch.manual_seed(3)
    noise1 = torch.empty(K, 4, 4).normal_()
    noise2 = torch.empty(1, C, K * 4, 4).normal_()[0].view(C, K, 4, 4)
    standard, m1, m2 = Normal(0.0, 1.0), model.m1, model.m2
    for b in range(4):
        q1 = gaussian(m1.encoder(x[b : b + 1])[0])
        for k in range(K):
            z1 = q1.mean + q1.stddev * noise1[k, b]
            features = z1[KEPT][None]
            terms = []
            for c in range(C):
                label = torch.eye(C)[c][None]
                q2 = gaussian(m2.encoder(features, label)[0])
                z2 = q2.mean + q2.stddev * noise2[c, k, b]
                log_p = gaussian(m2.decoder(z2[None], label)[0]).log_prob(features[0]).sum()
                terms.append(log_p + (standard.log_prob(z2) - q2.log_prob(z2)).sum() - math.log(C))
            stack = terms[y[b]] if labelled else torch.stack(terms).logsumexp(0)
            log_px = Bernoulli(logits=m1.decoder(z1[None])[0]).log_prob(x[b]).sum()
            expected = log_px - q1.log_prob(z1).sum() + stack + standard.log_prob(z1[PRUNED]).sum()
            torch.testing.assert_close(log_w[k, b], expected)


@pytest.mark.parametrize("kept", [[0, 2, 3], [1], [0, 1, 2, 3]])
def test_p_of_all_binary_images_sums_to_1_pruned_or_not(make, squares, kept):
    model = make("M1M2", (1, 2, 2), kept=kept, z_dim=2)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.8 if key.startswith("m1.decoder") else 0.1)
    parts = []
    with evaluating(model, seed=4):
        for y in (None, *range(C)):
            given = None if y is None else torch.full((16,), y)
            parts.append(model.log_weights(squares, 20_000, given).double().exp())  # (K, 16)
    whole, joint = parts[0].sum(1), sum(parts[1:]).sum(1)
    for p in (whole, joint):
        error = p.std() / math.sqrt(len(p))
        assert error < 0.03
        assert abs(p.mean() - 1) < 4.5 * error
    assert parts[0].mean(0).max() > 1.5 * parts[0].mean(0).min()


def test_rate_and_distortion_are_the_bound_of_the_stack(make, binary):
    model, (x, y) = make("M1M2"), binary(5)
    rate, distortion = under(3, model.rate_distortion, x, 1)
    torch.manual_seed(3)
    q1 = model.posterior(x)
    z1 = q1.rsample()
    U = model.m2.bounds(z1[:, KEPT])[1]
    torch.testing.assert_close(distortion, -model.m1.px(z1).log_prob(x))
    torch.testing.assert_close(rate, q1.log_prob(z1) - U - Normal(0.0, 1.0).log_prob(z1[:, PRUNED]).sum(1))
    torch.testing.assert_close(under(3, model.validation_metrics, x, y)["bound"], -(rate + distortion))


def test_the_loss_is_that_of_m2_on_new_samples_of_z1(make, binary):
    model, (x, y) = make("M1M2"), binary(6)
    y = torch.tensor([0, -1, 1, -1, 2, -1])
    loss = under(3, model.loss, x, y)
    torch.manual_seed(3)
    features = model.m1.posterior(x).sample()[:, KEPT]
    torch.testing.assert_close(loss, model.m2.loss(features, y))
    seen = []
    model.m2.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.loss(x, y)
    model.loss(x, y)
    assert not torch.equal(seen[0], seen[1])  # sampled anew
    model.classify(x)
    model.classify(x)
    assert torch.equal(seen[2], seen[3])
    assert torch.equal(seen[2], model.m1.encode(x)[:, KEPT])  # the mean


def test_classify_is_m2_on_the_kept_means(make, binary):
    model, (x, _) = make("M1M2"), binary(5)
    qy = model.classify(x)
    torch.testing.assert_close(qy, model.m2.classify(model.m1.encode(x)[:, KEPT]))
    torch.testing.assert_close(qy.sum(1), torch.ones(5))


def test_images_are_decoded_by_both_decoders_with_pruned_latents_at_0(make, binary):
    model, (x, _) = make("M1M2"), binary(5)
    features = model.features(x)
    z1 = torch.zeros(5, 4)
    z1[:, KEPT] = features
    torch.testing.assert_close(model.decode_features(features), model.m1.decode(z1))
    analogies = model.analogies(x)
    assert analogies.shape == (5, C, 1, 8, 8)
    expected = model.m2.analogies(features)
    for c in range(C):
        torch.testing.assert_close(analogies[:, c], model.decode_features(expected[:, c]))
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(7).shape == (7, 1, 8, 8)
    assert model.sample_classes(2).shape == (2, C, 1, 8, 8)
    statistics = model.latent_statistics(x)
    assert [mean.shape for mean, _ in statistics] == [(5, 4), (5, 4)]


# Grey features


@pytest.fixture
def stacks(trained):
    """Return M1M2s with grey and with binarized features, on the same M1 and the same kept dimensions, and the data."""
    path, data = trained(), digits()
    made = []
    for features in ("grey", "binarized"):
        torch.manual_seed(0)
        made.append(MODELS["M1M2"].for_data(data, m1=path, hidden=[16], batch_norm=False, features=features))
    return *made, data


def test_training_features_are_mean_and_scale_of_the_posterior_of_grey_images(stacks):
    grey, binarized, data = stacks
    rows = grey.training_features(data)
    qz1 = grey.m1.posterior(data.train.x.float() / 255)
    kept = grey.kept
    torch.testing.assert_close(rows, torch.cat([qz1.mean[:, kept], qz1.stddev[:, kept]], -1))
    assert not rows.requires_grad
    assert binarized.training_features(data) is None


@pytest.mark.parametrize("sample_z1", [True, False])
def test_the_loss_of_features_is_that_of_m2_on_new_samples_or_on_the_mean(make, sample_z1):
    model = make("M1M2", sample_z1=sample_z1)
    mean, scale, y = torch.randn(6, 3), torch.rand(6, 3), torch.tensor([0, -1, 1, -1, 2, -1])
    loss = under(3, model.loss, torch.cat([mean, scale], 1), y)
    torch.manual_seed(3)
    z1 = mean + scale * torch.randn(6, 3) if sample_z1 else mean
    torch.testing.assert_close(loss, model.m2.loss(z1, y))


def test_training_reads_grey_features_and_validation_predicts_labels_from_grey_images(stacks, trainer):
    model, _, data = stacks
    losses, predicted = [], []
    original = model.loss
    model.loss = lambda x, y: losses.append(x) or original(x, y)
    model.m2.classifier.register_forward_pre_hook(lambda _, args: None if model.training else predicted.append(args[0]))
    fitter = trainer(max_epochs=1)
    fitter.fit(model, datamodule=data)
    rows = model.training_features(data)
    assert all(x.shape[1:] == rows.shape[1:] for x in losses)
    seen = torch.cat(losses)
    assert (seen[:20, None] == rows).all(-1).any(1).all()
    grey = data.images("val", grey=True)[0]
    error = (model.classify(grey).argmax(1) != data.val.y).double().mean()
    assert fitter.callback_metrics["val/error"].item() == pytest.approx(error.item())


def test_the_likelihood_does_not_depend_on_the_option(stacks):
    grey, binarized, data = stacks
    binarized.load_state_dict(grey.state_dict())
    if grey.hparams.kept == binarized.hparams.kept:
        x = data.images("test", 5)[0]
        assert torch.equal(under(3, grey.log_weights, x, 3), under(3, binarized.log_weights, x, 3))


def test_a_checkpoint_from_before_the_option_has_binarized_features(trained):
    path = trained("M1M2", digits(), "stack", m1=trained(), features="binarized")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["hyper_parameters"]["features"]
    torch.save(checkpoint, path)
    model = models.load(path)
    assert model.hparams.features == "binarized"
    assert not model.classifies_grey


@pytest.mark.parametrize(("options", "features", "sentence"), [
    ({"binarization": "grey"}, "binarized", "features binarized needs binarized images"),
    ({}, "red", "Unknown features 'red': choose grey or binarized"),
])  # fmt: skip
def test_features_that_do_not_fit_are_refused(trained, options, features, sentence):
    likelihood = {"likelihood": "gaussian"} if options else {}
    path = trained(data=digits(num_labels=None, **options), **likelihood)
    with pytest.raises(ValueError, match=sentence):
        MODELS["M1M2"].for_data(digits(**options), m1=path, features=features)


def test_grey_features_need_grey_levels(trained):
    path, data = trained(), digits()
    data.has_grey_levels = False
    with pytest.raises(ValueError, match=r"has no grey levels: add --model\.features binarized"):
        MODELS["M1M2"].for_data(data, m1=path)


# M1 does not change


def test_m1_is_in_evaluation_mode_from_the_start_and_in_every_mode(make):
    model = make("M1M2")
    for change in (lambda: None, model.train, model.eval, model.train):
        change()
        assert not any(module.training for module in model.m1.modules())
    assert model.m2.training
    assert not any(parameter.requires_grad for parameter in model.m1.parameters())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_does_not_change_m1(trained, trainer, batch_norm):
    path = trained(batch_norm=batch_norm)
    data = digits()
    model = MODELS["M1M2"].for_data(data, m1=path, hidden=[16])
    before, m2 = keep(models.load(path)), keep(model.m2)
    assert same(model.m1.state_dict(), before)
    trainer(max_epochs=2).fit(model, datamodule=data)
    assert same(model.m1.state_dict(), before)
    assert not same(model.m2.state_dict(), m2)


def test_a_checkpoint_loads_alone(trained, binary):
    from pathlib import Path

    path = trained(batch_norm=True)
    data = digits()
    stacked = trained("M1M2", data, "stack", m1=path)
    m1 = models.load(path)
    Path(path).unlink()
    loaded = models.load(stacked)
    assert same(loaded.m1.state_dict(), m1.state_dict())
    assert not any(module.training for module in loaded.modules())
    x, _ = binary(5)
    assert torch.equal(loaded.m1.encode(x), m1.encode(x))
    again = models.load(stacked)
    assert torch.equal(under(3, loaded.log_weights, x, 3), under(3, again.log_weights, x, 3))


# Which dimensions are kept


def test_latents_with_a_standard_deviation_above_a_tenth_are_kept(make):
    model = make("VAE", (1, 2, 2), z_dim=4)
    values = torch.randn(2500, 4) * torch.tensor([0.09, 0.11, 1.0, 0.0]) + torch.tensor([5.0, 0.0, 0.0, 9.0])
    model.encode = lambda x: x.flatten(1)  # the code is the image
    assert used_latents(model, values.view(-1, 1, 2, 2)) == [1, 2]
    assert model.training


def test_for_data_keeps_the_active_latents_of_the_training_images(trained):
    path, data = trained(z_dim=30), digits()
    model = MODELS["M1M2"].for_data(data, m1=path, hidden=[16])
    deviation = models.load(path).encode(data.images("train", grey=True)[0]).double().std(0)
    assert model.hparams.kept == [i for i, value in enumerate(deviation.tolist()) if value > 0.1]
    assert len(model.hparams.kept) > 0
    assert sorted([*model.kept.tolist(), *model.pruned.tolist()]) == list(range(30))


def test_an_m1_without_active_latents_is_refused(trained):
    path = trained(beta=1e4, lr=1e-2, init="glorot", beta_warmup=0)
    with pytest.raises(ValueError, match="uses none of its latents"):
        MODELS["M1M2"].for_data(digits(), m1=path, hidden=[16])


def test_validation(make, binary):
    model, (x, y) = make("M1M2").eval(), binary(6)
    torch.manual_seed(3)
    measured = model.validation_metrics(x, y)
    torch.manual_seed(3)
    qz1_x = model.posterior(x)
    z1 = qz1_x.rsample((1,))
    labelled, unlabelled, _ = model.m2.bounds(z1[0][:, model.kept])
    rest = model.m1.px(z1[0]).log_prob(x) - qz1_x.log_prob(z1)[0] + model.log_p_pruned(z1[0])
    torch.testing.assert_close(measured["bound"], rest + unlabelled)
    torch.testing.assert_close(measured["labelled_bound"], rest + labelled[y, torch.arange(6)])
    qy = torch.distributions.Categorical(probs=model.classify(x))
    torch.testing.assert_close(measured["entropy"], qy.entropy())
    assert torch.equal(measured["error"], qy.probs.argmax(1) != y)
    torch.manual_seed(3)
    half = model.validation_metrics(x, y.where(torch.arange(6) % 2 == 0, -1))
    for key in ("labelled_bound", "error"):
        torch.testing.assert_close(half[key], measured[key][::2])


@pytest.mark.filterwarnings("ignore")
def test_all_images_labelled_and_the_means_of_m1(trained, trainer, tmp_path):
    """Without unlabelled images, the loss is that of labelled ones, and nothing of an empty mean is left in it."""
    data = digits(num_labels=None)
    options = {"hidden": [16], "activation": "softplus", "sample_z1": False, "alpha": 0.1, "lr": 5e-3}
    model = MODELS["M1M2"].for_data(data, m1=trained(), **options)
    assert model.hparams.labelled_fraction == 1
    callback = RunCheckpoint(tmp_path / "stack", 0)
    trainer(callbacks=[callback], enable_checkpointing=True, max_epochs=20).fit(model, datamodule=data)
    found = models.load(str(callback.last))
    x, y = data.images("test", grey=True)
    assert (found.classify(x).argmax(1) != y).float().mean() < 0.2
    with evaluating(found):
        torch.manual_seed(3)
        loss = found.loss(x, y)
        torch.manual_seed(3)
        labelled, _, log_qy = found.m2.bounds(found.features(x))
    L, classifier = -labelled.gather(0, y[None]).mean(), -log_qy.gather(0, y[None]).mean()
    torch.testing.assert_close(loss, L + 0.1 * classifier)
    analogies = found.analogies(x[:4])
    assert analogies.shape == (4, 10, *data.image_shape)
    assert analogies.isfinite().all()
    # through both decoders: that of M2 gives the kept latents, that of M1 the pixels
    by_hand = found.decode_features(found.m2.analogies(found.features(x[:4])))
    assert torch.equal(analogies, by_hand)


# Invalid M1s and data


def test_an_m1_of_another_file_is_refused(trained, tmp_path):
    def npz(name, images=None):
        data = digits(num_labels=None)
        x, y = (part.numpy() for part in (data.train.x, data.train.y))
        np.savez(tmp_path / name, x=x if images is None else images, y=y)
        data = DATAMODULES["NPZ"](root=str(tmp_path / name), num_labels=50)
        data.setup()
        return data

    path = trained(data=npz("a.npz"))
    assert open_m1(path, npz("a.npz"))
    assert open_m1(path, npz("b.npz"))  # NPZ files are identified by their images
    other = 255 - digits().fetch()[0].x[:1297].numpy()
    with pytest.raises(ValueError, match=r"trained with images \w{12}, not \w{12}"):
        open_m1(path, npz("a.npz", other))

    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["NPZ"]["images_hash"]  # an older checkpoint
    torch.save(checkpoint, path)
    assert open_m1(path, npz("a.npz"))
    with pytest.raises(ValueError, match=r"trained with file a\.npz, not b\.npz"):
        open_m1(path, npz("b.npz"))


def test_a_test_set_of_other_classes_is_refused_by_m1m2_but_not_by_its_m1(trained, tmp_path):
    digit_data = digits(num_labels=None)
    x, y = (part.numpy() for part in (digit_data.train.x, digit_data.train.y))
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:20], y_test=y[:20] + 10)
    data = DATAMODULES["NPZ"](root=str(tmp_path / "a.npz"))
    data.setup()
    with pytest.raises(ValueError, match=r"^M1M2 needs labelled training images of every class, but classes 10, 11, "):
        MODELS["M1M2"].for_data(data, m1=trained(data=data))


@pytest.mark.parametrize(("name", "options"), [("AE", {}), ("HierarchicalVAE", {"z_dim": [3, 2]}), ("CVAE", {})])
def test_an_m1_that_is_not_a_vae_is_refused(trained, name, options):
    path = trained(name, **options)
    with pytest.raises(ValueError, match="holds no M1: train one with --model VAE"):
        open_m1(path, digits())


def test_an_iwae_is_a_vae(trained):
    path = trained("IWAE", z_dim=5)
    x = digits().images("test", 5)[0]
    assert torch.equal(open_m1(path, digits()).eval().encode(x), models.load(path).encode(x))


@pytest.mark.parametrize(("options", "sentence"), [
    ({"binarization": "threshold"}, "trained with protocol dynamic, not threshold"),
    ({"seed": 1}, r"trained with data\.seed 0, not 1"),
    ({"val_size": 99}, r"trained with data\.val_size 250, not 99"),
])  # fmt: skip
def test_an_m1_of_other_data_is_refused(trained, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MODELS["M1M2"].for_data(digits(**options), m1=trained(), hidden=[16])


def test_another_draw_of_labels_can_use_the_same_m1(trained):
    first, second = (digits(label_seed=label_seed) for label_seed in (None, 1))
    assert first.labels_hash != second.labels_hash
    weights = [MODELS["M1M2"].for_data(data, m1=trained(), hidden=[16]).m1.state_dict() for data in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_m1_of_another_shape_or_data_set_is_refused(trained):
    path, data = trained(), digits()
    data.image_shape = (1, 9, 9)
    with pytest.raises(ValueError, match=r"takes images \(1, 8, 8\), not \(1, 9, 9\)"):
        open_m1(path, data)
    other = type("Others", (DATAMODULES["Digits"],), {})(num_labels=50)
    other.setup()
    with pytest.raises(ValueError, match="trained with data Digits, not Others"):
        open_m1(path, other)


def test_a_missing_m1_and_data_without_labels_are_refused(trained, tmp_path):
    data = digits()
    with pytest.raises(ValueError, match="There is no checkpoint"):
        MODELS["M1M2"].for_data(data, m1=str(tmp_path / "no.ckpt"))
    path = trained()
    data.train = data.train._replace(y=torch.full_like(data.train.y, -1))
    with pytest.raises(ValueError, match="needs some labels"):
        MODELS["M1M2"].for_data(data, m1=path, hidden=[16])
    data.num_classes = 0  # as BinaryMNIST
    with pytest.raises(ValueError, match="needs labels"):
        MODELS["M1M2"].for_data(data, m1=path, hidden=[16])
