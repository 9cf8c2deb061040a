import math

import pytest
import torch
from model_helpers import gaussian, under
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from models import VAE, LadderVAE
from models.base import evaluating
from models.estimators.ais import Settings, anneal, bidirectional
from models.estimators.importance import importance
from models.ladder import mean_and_log_scale, merge

CONV = {"encoder": "conv", "z_dim": [2, 1, 3], "layers_per_scale": [1, 2], "hidden": [6, 5]}
DENSE = {"z_dim": [4, 3, 2], "hidden": [8, 7, 6]}
VARIANTS = [DENSE, {"z_dim": [3], "hidden": [8]}, DENSE | {"batch_norm": True}, CONV, CONV | {"batch_norm": True}]
VARIANTS += [DENSE | {"prior": "mixture", "prior_components": 3}]
variants = pytest.mark.parametrize("options", VARIANTS, ids=str)


def last_layers(model):
    """Return the output layers of the bottom-up pass, one for each layer of latents."""
    return [head[-1] if isinstance(head, nn.Sequential) else head for head in model.encoder.heads]


def shaken(model, x):
    """Return the model with p(x) far from uniform, q(z|x) wide enough, and batch norm statistics of its own."""
    for key, parameter in model.named_parameters():
        image = key.startswith(("decoder.blocks.0", "decoder.to_image"))
        is_scale = parameter.ndim == 1 and key.endswith("weight")  # of batch norm
        nn.init.normal_(parameter, mean=float(is_scale), std=0.4 if image else 0.15)
    for head in last_layers(model):
        head.bias.detach()[len(head.bias) // 2 :] = 0.7  # log scales: q is wide enough that weights have a variance
    with torch.no_grad():
        model.train().log_weights(x, 4)
    return model.eval()


# The formulas, image by image and layer by layer


def precision_weighted(evidence, p):
    """Eq. 11 and 12."""
    variance = 1 / (evidence.stddev**-2 + p.stddev**-2)
    mean = variance * (evidence.mean * evidence.stddev**-2 + p.mean * p.stddev**-2)
    return Normal(mean, variance.sqrt())


def layer_by_layer(model, x, noise):
    """Return the terms of one sample: log p(x|z_1); log p(z_l|z_l+1), log q(z_l|x, z_l+1) and the KL of each layer."""
    d, evidence = x[None], []
    for block, head in zip(model.encoder.blocks, model.encoder.heads, strict=True):
        d = block(d)
        evidence.append(gaussian(head(d).flatten(1)[0]))
    h, log_p, log_q, kl = None, [], [], []
    for layer in reversed(range(len(noise))):
        if h is None:
            p, q = Normal(torch.zeros_like(noise[layer]), torch.ones_like(noise[layer])), evidence[layer]
        else:
            p = gaussian(model.decoder.heads[layer](h).flatten(1)[0])
            q = precision_weighted(evidence[layer], p)
        z = q.mean + q.stddev * noise[layer]
        log_p.append(p.log_prob(z).sum())
        log_q.append(q.log_prob(z).sum())
        kl.append(kl_divergence(q, p).sum())
        h = model.decoder.blocks[layer](z.view(1, *model.decoder.latent_shapes[layer]), h)
    log_px = Bernoulli(logits=model.decoder.to_image(h)[0]).log_prob(x).sum()
    return log_px, torch.stack(log_p[::-1]), torch.stack(log_q[::-1]), torch.stack(kl[::-1])


@pytest.mark.parametrize("options", [DENSE, CONV, {"z_dim": [3], "hidden": [8]}], ids=str)
def test_all_terms_layer_by_layer(make, binary, options):
    model, (x, _) = make("LadderVAE", **options), binary(3)
    sizes, qz_x = list(model.latent_sizes), model.posterior(x)
    noise = under(3, torch.randn, 5, 3, sum(sizes))
    log_px, log_ratio = under(3, model.log_terms, x, 5, qz_x)
    rates, distortion = under(3, model.rate_of_parts, x, 5, None, qz_x)
    z = under(3, qz_x.rsample, (5,))
    log_p, log_q = model.prior().log_prob(z), qz_x.log_prob(z)
    found = [[layer_by_layer(model, x[b], noise[k, b].split(sizes)) for b in range(3)] for k in range(5)]
    expected = [torch.stack([torch.stack([image[i] for image in row]) for row in found]) for i in range(4)]
    close = {"rtol": 1e-4, "atol": 1e-3}
    torch.testing.assert_close(log_px, expected[0], **close)
    torch.testing.assert_close(log_p, expected[1].sum(-1), **close)
    torch.testing.assert_close(log_q, expected[2].sum(-1), **close)
    torch.testing.assert_close(log_ratio, (expected[1] - expected[2]).sum(-1), **close)
    torch.testing.assert_close(rates, expected[3].mean(0), **close)
    torch.testing.assert_close(distortion, -expected[0].mean(0), **close)


def test_gradients_flow_through_the_samples_of_every_layer(make, binary):
    model, (x, y) = make("LadderVAE", **DENSE, activation="tanh"), binary(3)
    parameters, noise = list(model.parameters()), under(3, torch.randn, 1, 3, 9)
    naive = 0
    for b in range(3):
        log_px, _, _, kl = layer_by_layer(model, x[b], noise[0, b].split([4, 3, 2]))
        naive = naive + (kl.sum() - log_px) / 3
    expected = torch.autograd.grad(naive, parameters)
    actual = torch.autograd.grad(under(3, model.loss, x, y), parameters)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("log_scale", [-6.9, -1.0, 0.0, 3.0, 6.9])
def test_means_are_weighted_by_precisions(log_scale):
    p = torch.randn(50, dtype=torch.float64), torch.linspace(-6.9, 6.9, 50, dtype=torch.float64)
    evidence = torch.randn(50, dtype=torch.float64), torch.full((50,), log_scale, dtype=torch.float64)
    r, s = merge(evidence, p)
    expected = precision_weighted(Normal(evidence[0], evidence[1].exp()), Normal(p[0], p[1].exp()))
    torch.testing.assert_close(p[0] + p[1].exp() * r, expected.mean)
    torch.testing.assert_close(p[1].exp() * s, expected.stddev)
    single = merge(*[tuple(part.float() for part in pair) for pair in (evidence, p)])
    torch.testing.assert_close(single, (r.float(), s.float()), rtol=1e-4, atol=1e-4)


def test_without_evidence_q_is_p():
    p = torch.randn(5), torch.randn(5)
    r, s = merge((torch.randn(5), torch.full((5,), 7.0)), (p[0], torch.full((5,), -7.0)))
    torch.testing.assert_close((r, s), (torch.zeros(5), torch.ones(5)), rtol=0, atol=1e-4)


def test_one_layer_is_a_vae_with_the_same_weights(make, binary):
    ladder, (x, y) = LadderVAE((1, 8, 8), z_dim=[3], hidden=[16], batch_norm=False, num_samples=4), binary(6)
    vae = VAE((1, 8, 8), z_dim=3, hidden=[16, 16], activation="leaky_relu_0.1", num_samples=4)
    ours, theirs = list(ladder.state_dict().values()), list(vae.state_dict())
    assert len(ours) == len(theirs)
    vae.load_state_dict(dict(zip(theirs, ours, strict=True)))
    close = {"rtol": 1e-5, "atol": 1e-5}
    for ladder_value, vae_value in (
        (under(3, ladder.loss, x, y), under(3, vae.loss, x, y)),
        (under(3, ladder.log_weights, x, 50), under(3, vae.log_weights, x, 50)),
        (ladder.encode(x), vae.encode(x)),
        (ladder.reconstruct(x), vae.reconstruct(x)),
        (under(3, ladder.sample, 5), under(3, vae.sample, 5)),
    ):
        torch.testing.assert_close(ladder_value, vae_value, **close)
    assert ladder.has_standard_normal_prior()
    gradients = [torch.autograd.grad(under(3, model.loss, x, y), list(model.parameters())) for model in (ladder, vae)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


# The contract


@variants
def test_the_terms_of_one_pass_are_those_of_the_distributions(make, binary, options):
    x, _ = binary(6)
    model = shaken(make("LadderVAE", **options), x)
    qz_x = model.posterior(x)
    log_px, log_ratio = under(3, model.log_terms, x, 4, qz_x)
    z = under(3, qz_x.rsample, (4,))
    torch.testing.assert_close(model.log_px(x, z), log_px, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(model.prior().log_prob(z) - qz_x.log_prob(z), log_ratio, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(under(3, model.log_weights, x, 4), log_px + log_ratio)


@variants
def test_distributions_have_the_shapes_of_the_contract(make, binary, options):
    model, (x, _) = make("LadderVAE", **options).eval(), binary(6)
    d, qz_x, p = model.latent_dim, model.posterior(x), model.prior()
    assert (qz_x.batch_shape, qz_x.event_shape) == ((6,), (d,))
    assert (p.batch_shape, p.event_shape) == ((), (d,))
    assert p.sample((5, 2)).shape == (5, 2, d)
    assert p.log_prob(p.sample((5, 2))).shape == (5, 2)
    assert qz_x.mean.shape == model.encode(x).shape == (6, d)
    assert qz_x.rsample().shape == (6, d)
    assert model.decode(torch.zeros(2, 3, d)).shape == (2, 3, 1, 8, 8)


@variants
def test_the_density_of_q_integrates_to_1(make, binary, options):
    """E_p[q(z|x) / p(z)] = 1, where p(z) is at least as wide as q(z|x)."""
    x, _ = binary(2)
    model = shaken(make("LadderVAE", **options), x.repeat(4, 1, 1, 1))
    *below, top = last_layers(model)
    for head, log_scale in [*((head, 1.0) for head in below), (top, -0.2)]:  # q is a bit narrower than p
        head.bias.detach()[len(head.bias) // 2 :] = log_scale
    with evaluating(model, seed=1):
        z = model.prior().sample((20_000, 1))
        ratio = (model.posterior(x).log_prob(z) - model.prior().log_prob(z)).double().exp()  # (20_000, 2)
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()
    assert (error < 0.05).all()


@pytest.mark.parametrize("options", [DENSE, CONV], ids=["dense", "conv"])
def test_samples_of_the_prior_are_ancestral(make, options):
    """The mean of log p(z) over samples of p is the entropy of p, which is a sum of those of its Gaussians."""
    model = make("LadderVAE", **options)
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    with evaluating(model, seed=1):
        z = model.prior().sample((4000,))
        log_p = model.prior().log_prob(z)
        log_scales = []

        parts = z.split(list(model.latent_sizes), -1)

        def choose(layer, parameters):
            if parameters is not None:
                log_scales.append(gaussian(parameters).stddev.log().sum(-1))
            return parts[layer]

        model.decoder.descend(choose)
    entropy = model.latent_dim * 0.5 * math.log(2 * math.pi * math.e) + sum(log_scales)
    error = (log_p + entropy).std() / len(z) ** 0.5
    assert abs((log_p + entropy).mean()) < 4 * error
    assert error < 0.1


@variants
def test_p_of_all_binary_images_sums_to_1(make, squares, options):
    model = shaken(make("LadderVAE", (1, 2, 2), **options), squares)
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 20_000).double().exp().mean(0)
    assert p.sum().item() == pytest.approx(1, abs=0.02)
    assert p.max() > 1.5 * p.min()


@pytest.mark.parametrize("options", [DENSE, CONV], ids=["dense", "conv"])
def test_the_bounds_are_in_order(make, squares, options):
    model = shaken(make("LadderVAE", (1, 2, 2), **options), squares)
    with evaluating(model, seed=4):
        log_w = model.log_weights(squares, 50 * 400).double().view(400, 50, 16)
    elbo, iwae_50 = log_w.mean(1), log_w.logsumexp(1) - math.log(50)
    iwae_5 = log_w.view(400, 10, 5, 16).logsumexp(2).mean(1) - math.log(5)
    for lower, upper in ((elbo, iwae_5), (iwae_5, iwae_50)):
        gap = (upper - lower).mean(1)  # (400,)
        assert gap.mean() > 3 * gap.std() / 400**0.5


@variants
def test_the_kl_of_every_layer_sums_to_the_rate(make, binary, options):
    model, (x, y) = make("LadderVAE", **options).eval(), binary(6)
    qz_x = model.posterior(x)
    rates, distortion = under(3, model.rate_of_parts, x, 5, y, qz_x)
    rate, expected = under(3, model.rate_distortion, x, 5, y, qz_x)
    assert rates.shape == (6, len(model.latent_sizes))
    torch.testing.assert_close(rates.sum(1), rate)
    assert torch.equal(distortion, expected)
    assert (rates[:, :-1] > 0).all()


@variants
def test_the_rate_is_the_mean_of_log_q_minus_log_p(make, binary, options):
    """The closed forms, and what stands in for them with a prior that has none, against the samples of the default."""
    x, _ = binary(40)
    model = shaken(make("LadderVAE", **options), x)
    with evaluating(model, seed=4):
        rates, _ = model.rate_of_parts(x, 200, None, model.posterior(x))
        difference = -model.log_terms(x, 200, model.posterior(x))[1].mean(0) - rates.sum(1)
    error = difference.std() / len(x) ** 0.5
    assert difference.mean().abs() < 5 * error
    assert 10 * error < rates[:, -1].mean()  # the last layer, whose KL depends on the prior, is not within the noise


def test_the_statistics_of_every_layer(make, binary):
    x, _ = binary(400)
    model = shaken(make("LadderVAE", **DENSE), x)
    with evaluating(model, seed=4):
        statistics = model.latent_statistics(x)
        rates, _ = model.rate_of_parts(x, 16, None, model.posterior(x))
    assert [mean.shape for mean, _ in statistics] == [kl.shape for _, kl in statistics] == [(400, d) for d in (4, 3, 2)]
    for (_, kl), rate in zip(statistics, rates.T, strict=True):
        torch.testing.assert_close(kl.sum(1).mean(), rate.mean(), rtol=0.05, atol=1e-3)
    assert torch.equal(statistics[-1][0], model.encode(x)[:, -2:])


def test_a_layer_without_evidence_has_no_active_units(make, binary):
    """Its mean follows the layers above, which vary between images."""
    x, _ = binary(50)
    model = make("LadderVAE", **DENSE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    head = model.encoder.heads[0]  # evidence of layer 1: the same for all images, and wide
    nn.init.zeros_(head.weight)
    head.bias.detach()[4:] = 50.0
    (mean, kl), (above, other), _ = model.latent_statistics(x)
    assert mean.var(0).max() < 1e-4 < above.var(0).max()
    assert kl.abs().max() < 0.01 < other.max()
    assert model.encode(x)[:, :4].var(0).max() > 1e-4


@variants
def test_the_upward_pass_runs_once_per_image(make, binary, options):
    model, (x, _) = make("LadderVAE", **options).eval(), binary(6)
    rows = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    model.log_weights(x, 7)
    model.rate_distortion(x, 7)
    model.loss(x, None)
    importance(model, x, 20, chunk=5)
    assert rows == [6] * len(model.latent_sizes) * 4


def test_p_sees_samples_of_q_in_training_and_running_statistics_in_evaluation(make, binary):
    model, (x, y) = make("LadderVAE", **DENSE | {"batch_norm": True}), binary(20)
    first = model.decoder.blocks[-1]  # of z_L
    linear, norm = first[0], first[1]
    z = under(3, model.posterior(x).rsample, (1,))[0, :, -2:]
    norm.reset_running_stats()
    under(3, model.loss, x, y)
    torch.testing.assert_close(norm.running_mean, 0.1 * linear(z).mean(0), rtol=1e-4, atol=1e-5)
    before = norm.running_mean.clone()
    with evaluating(model):
        alone, together = (under(3, model.encode, part) for part in (x[:1], x))
    torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)
    assert torch.equal(norm.running_mean, before)


def test_the_prior_vamp_of_the_last_layer_is_a_mixture_of_its_posteriors(make):
    model = make("LadderVAE", **DENSE, prior="vamp", prior_components=5)
    z, parameters = torch.randn(7, 2), model.encoder(model.z_prior.pseudo_inputs)[:, -4:]  # of the last layer, 2 + 2
    expected = torch.stack([gaussian(u).log_prob(z).sum(-1) for u in parameters]).logsumexp(0) - math.log(5)
    torch.testing.assert_close(model.top_prior().log_prob(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [DENSE, CONV], ids=["dense", "conv"])
@pytest.mark.parametrize("is_true", [False, True], ids=["mixed", "true"])
def test_densities_have_32_bits_in_networks_of_16(make, binary, options, is_true):
    model, (x, _) = make("LadderVAE", **options), binary(4)
    if is_true:
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not is_true):
        qz_x = model.posterior(x)
        found = qz_x.draw((2,))
        q, top = found.q_below.base_dist, qz_x.q_top.base_dist
        parts = [found.z, found.u, found.log_scale, q.loc, q.scale, top.loc, top.scale]
        parts += [model.log_terms(x, 2, qz_x)[1], qz_x.log_prob(found.z), model.prior().log_prob(found.z)]
    parts += mean_and_log_scale(torch.randn(2, 4).bfloat16())
    assert {part.dtype for part in parts} == {torch.float32}


# Annealed importance sampling


@pytest.mark.parametrize(("options", "start"), [
    (DENSE, "prior"), (DENSE, "posterior"), (CONV, "prior"), (DENSE | {"prior": "mixture"}, "prior"),
    (DENSE | {"batch_norm": True}, "prior"),
], ids=str)  # fmt: skip
def test_ais_agrees_with_importance_sampling(make, squares, options, start):
    model = shaken(make("LadderVAE", (1, 2, 2), **options), squares)
    with evaluating(model):
        assert model.ais_prior().event_shape == (model.latent_dim,)
    expected = importance(model, squares, 20_000, 2000).log_px
    settings = Settings(chains=100, temperatures=10, leapfrogs=2, start=start)
    found = anneal(model, squares, settings, steps=[0.5] * 10)
    assert (found.log_px - expected).abs().mean() < 0.08  # noise of both estimates
    bounds = bidirectional(model, 10, settings, steps=[0.5] * 10)
    assert (bounds.upper - bounds.lower).abs().mean() < (0.15 if start == "prior" else 0.4)


def test_the_space_of_ais_has_the_same_posterior_and_likelihood(make, binary):
    x, _ = binary(5)
    model = shaken(make("LadderVAE", **DENSE), x)
    found = under(3, model.posterior(x).draw, (4,))
    torch.testing.assert_close(model.ais_log_px(x, found.u), model.log_px(x, found.z), rtol=1e-5, atol=1e-4)
    log_q = model.ais_posterior(x).log_prob(found.u)
    torch.testing.assert_close(log_q - found.log_scale, model.posterior(x).log_prob(found.z), rtol=1e-4, atol=1e-3)
    assert torch.equal(under(3, model.ais_posterior(x).sample, (4,)), found.u)


# Shapes, defaults, options


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
@pytest.mark.parametrize("init", ["default", "glorot"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (1, 2, 2)], ids=str)
def test_images_of_any_shape(binary, shape, init, encoder):
    torch.manual_seed(0)
    model, (x, y) = LadderVAE(shape, encoder=encoder, init=init), binary(4, shape)
    model.loss(x, y).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    assert model.reconstruct(x).shape == model.sample(4).shape == x.shape
    assert model.log_weights(x, 2).isfinite().all()


def test_defaults_are_those_of_sonderby_et_al():
    model = LadderVAE((1, 28, 28))
    assert model.latent_sizes == (64, 32, 16, 8, 4)
    upwards = [[m.out_features for m in block if isinstance(m, nn.Linear)] for block in model.encoder.blocks]
    downwards = [[m.out_features for m in block if isinstance(m, nn.Linear)] for block in model.decoder.blocks]
    assert upwards == downwards == [[512] * 2, [256] * 2, [128] * 2, [64] * 2, [32] * 2]
    assert {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    assert model.has_batch_norm


def test_latents_of_a_convolutional_ladder_are_images():
    model = LadderVAE((1, 28, 28), encoder="conv", z_dim=[3, 2, 1], layers_per_scale=[1, 1, 1], hidden=[8, 7, 6])
    assert model.decoder.latent_shapes == [(3, 14, 14), (2, 7, 7), (1, 4, 4)]
    assert model.latent_sizes == (588, 98, 16)


def test_latents_of_a_convolutional_ladder_depend_on_all_layers_above(make):
    model = make("LadderVAE", **CONV).eval()
    z = torch.randn(1, model.latent_dim)
    below = model.decoder(z)
    z[:, -3:] += 1  # the last layer alone
    assert not torch.equal(model.decoder(z), below)


def test_the_posterior_starts_narrow_and_p_close_to_the_standard_normal():
    torch.manual_seed(0)
    model = LadderVAE((1, 28, 28))
    found = model.posterior(torch.rand(50, 1, 28, 28).round()).draw((1,))
    assert found.q_below.stddev.mean().item() == pytest.approx(0.1, abs=0.03)
    assert found.log_scale.abs().max() / 120 < 0.1


@pytest.mark.parametrize(("options", "sentence"), [
    ({"z_dim": []}, "one or more positive sizes"),
    ({"z_dim": 5}, "one or more positive sizes"),
    ({"z_dim": [5, 0]}, "one or more positive sizes"),
    ({"hidden": [0]}, "hidden must hold positive sizes"),
    ({"hidden": [4, 4, 4]}, "hidden takes one number, or one for each of the 2 layers of latents; got"),
    ({"encoder": "resnet"}, "Unknown encoder of LadderVAE 'resnet': choose one of mlp, conv"),
    ({"decoder": "conv"}, "The decoder of LadderVAE is that of its encoder"),
    ({"layers_per_scale": [1, 1]}, "layers_per_scale is only for encoder conv"),
    ({"encoder": "conv", "layers_per_scale": [1, 2]}, "whose sum is the number of layers of latents, 2; got"),
    ({"encoder": "conv", "layers_per_scale": []}, "must hold positive numbers"),
    ({"hidden": []}, "hidden takes one number, or one for each of the 2 layers of latents; got"),
    ({"encoder": "conv", "layers_per_scale": [2, 0]}, "must hold positive numbers"),
    ({"posterior": "flow"}, "diagonal Gaussians, which it weights by their precisions: leave out posterior flow"),
    ({"objective": "dreg"}, "Unknown objective of LadderVAE 'dreg': choose one of elbo, iwae, miwae, ciwae"),
    ({"activation": "sine"}, "Unknown activation 'sine'"),
    ({"free_bits": 1.0, "free_bits_per": "dimension"}, "use free_bits_per layer"),
    ({"batch_norm": True, "prior": "vamp"}, "Prior vamp cannot be combined with batch_norm"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("LadderVAE", **options)
