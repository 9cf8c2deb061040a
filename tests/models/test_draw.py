import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from cli.train_options import build_parser
from models import DRAW, LatentVariableModel
from models.base import evaluating
from models.estimators.ais import Settings, anneal
from models.estimators.importance import importance
from tests.model_helpers import gaussian, under

ATTENTION = {"attention": True, "read_size": 2, "write_size": 3}
KINDS = {"whole": {}, "attention": ATTENTION}
kinds = pytest.mark.parametrize("kind", KINDS)
LIKELIHOODS = {
    "bernoulli": {},
    "gaussian": {"likelihood": "gaussian"},
    "continuous_bernoulli": {"likelihood": "continuous_bernoulli"},
    "discretized_logistic": {"likelihood": "discretized_logistic"},
    "discretized_logistic_mixture": {"likelihood": "discretized_logistic_mixture", "logistic_components": 2},
}


def shaken(model):
    """Return the model in evaluation mode, with p(x) far from uniform."""
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.6 if key.startswith(("decoder", "canvas")) else 0.3)
    return model.eval()


def naive_lstm(gates, cell):
    i, f, o, g = gates.chunk(4)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def naive_grid(parameters, N, H, W):
    """Return F_Y, F_X and gamma from the five numbers of a grid, pixel by pixel."""
    clipped = 10 * (parameters[2:] / 10).tanh()
    g_x, g_y = (W + 1) / 2 * (parameters[0] + 1), (H + 1) / 2 * (parameters[1] + 1)
    variance, delta, gamma = clipped[0].exp(), (max(H, W) - 1) / (N - 1) * clipped[1].exp(), clipped[2].exp()
    banks = []
    for g, size in ((g_y, H), (g_x, W)):
        mu = [g + (i - N / 2 - 0.5) * delta for i in range(1, N + 1)]
        rows = [torch.stack([(-((a - m) ** 2) / (2 * variance)).exp() for a in range(1, size + 1)]) for m in mu]
        banks.append(torch.stack([row / row.sum().clamp(min=1e-8) for row in rows]))
    return *banks, gamma


def naive_pass(model, x, noise):
    """Return log p(x|z), log p(z) - log q(z|x), and the KL of each step, of one image and one sample.

    Args:
        model: A DRAW.
        x: Image `(C, H, W)`.
        noise: Noise of the latents `(T, z_dim)`.
    """
    options, layer = model.hparams, model.canvas.layer
    H, W = x.shape[1:]
    h_enc = cell_enc = h_dec = cell_dec = x.new_zeros(options.rnn_size)
    c, log_ratio, rates = model.first_canvas, 0.0, []
    for eps in noise:
        x_err = x - model.likelihood(c).mean
        if options.attention:
            F_Y, F_X, gamma = naive_grid(layer(h_dec)[:5], options.read_size, H, W)
            patches = [F_Y @ image @ F_X.T for image in torch.cat([x, x_err])]
            r, weight = gamma * torch.stack(patches).flatten(), model.encoder.weight
        else:
            r = torch.cat([x.flatten(), x_err.flatten()])
            weight = torch.cat([model.encoder_of_image.weight, model.encoder.weight], 1)
        gates = weight @ torch.cat([r, h_enc, h_dec]) + model.encoder.bias
        h_enc, cell_enc = naive_lstm(gates, cell_enc)
        q = gaussian(model.posterior_layer(h_enc))
        z = q.mean + q.stddev * eps
        log_ratio = log_ratio + (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum()
        rates.append((0.5 * (q.mean**2 + q.stddev**2 - 1) - q.stddev.log()).sum())
        h_dec, cell_dec = naive_lstm(model.decoder(torch.cat([z, h_dec])), cell_dec)
        if options.attention:
            F_Y, F_X, gamma = naive_grid(layer(h_dec)[5:10], options.write_size, H, W)
            w = layer(h_dec)[10:].view(-1, options.write_size, options.write_size)
            c = c + torch.stack([F_Y.T @ part @ F_X for part in w]) / gamma
        else:
            c = c + layer(h_dec).view_as(c)
    return model.likelihood(c).log_prob(x), log_ratio, torch.stack(rates)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("shape", "steps", "options"), [
    ((1, 4, 4), 1, {}), ((1, 4, 4), 3, {}), ((1, 4, 4), 3, ATTENTION), ((2, 4, 6), 2, {}), ((2, 6, 4), 2, ATTENTION),
])  # fmt: skip
def test_log_weights_step_by_step(make, binary, shape, steps, options, likelihood):
    model = shaken(make("DRAW", shape, steps=steps, **options, **LIKELIHOODS[likelihood])).double()
    x = binary(3, shape)[0].double()
    noise = under(3, torch.empty(5, 3, steps, 3, dtype=torch.float64).normal_)
    log_w = under(3, model.log_weights, x, 5)
    rate, distortion = under(3, model.rate_distortion, x, 5)
    for b in range(3):
        log_px, log_ratio, kl = zip(*(naive_pass(model, x[b], noise[k, b]) for k in range(5)), strict=True)
        expected = torch.stack(log_px) + torch.stack(log_ratio)
        torch.testing.assert_close(log_w[:, b], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(distortion[b], -torch.stack(log_px).mean(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rate[b], torch.stack(kl).sum(-1).mean(), rtol=1e-6, atol=1e-6)


@kinds
def test_gradients_flow_through_the_samples_of_every_step(make, binary, kind):
    model, (x, y) = make("DRAW", **KINDS[kind]), binary(3)
    parameters = list(model.parameters())
    noise = under(3, torch.empty(1, 3, 3, 3).normal_)
    terms = [naive_pass(model, x[b], noise[0, b]) for b in range(3)]
    naive = sum(kl.sum() - log_px for log_px, _, kl in terms) / 3
    actual = torch.autograd.grad(under(3, model.loss, x, y), parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(naive, parameters), rtol=1e-3, atol=1e-3)
    assert all(gradient.any() for gradient in actual)


@kinds
def test_one_pass_gives_what_codes_densities_and_decoder_give(make, binary, kind):
    """log p(x|z) from the canvas of inference is that of the decoder alone, and log q that of given codes."""
    model, (x, _) = shaken(make("DRAW", **KINDS[kind])), binary(4)
    qz_x = model.posterior(x)
    terms = under(3, model.log_terms, x, 6, qz_x)
    torch.testing.assert_close(terms, under(3, LatentVariableModel.log_terms, model, x, 6, qz_x), rtol=1e-4, atol=1e-3)
    z, log_q = under(3, qz_x.rsample_and_log_prob, (6,))
    assert z.shape == (6, 4, model.latent_dim)
    torch.testing.assert_close(qz_x.log_prob(z), log_q, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(under(3, qz_x.rsample, (6,)), z)
    assert qz_x.mean.shape == (4, model.latent_dim)


@kinds
def test_p_of_all_binary_images_sums_to_1(make, squares, kind):
    model = shaken(make("DRAW", (1, 2, 2), z_dim=2, **KINDS[kind]))
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 20_000).double().exp()  # (K, 16)
    total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
    assert error < 0.03
    assert abs(total - 1) < 4 * error
    assert p.mean(0).max() > 2 * p.mean(0).min()  # it was worth summing


@kinds
def test_the_bounds_are_in_order(make, squares, kind):
    model = shaken(make("DRAW", (1, 2, 2), z_dim=2, **KINDS[kind]))
    with evaluating(model, seed=4):
        log_w = model.log_weights(squares, 50 * 200).double().view(200, 50, 16)
    elbo, iwae_50 = log_w.mean(1), log_w.logsumexp(1) - math.log(50)
    iwae_5 = log_w.view(200, 10, 5, 16).logsumexp(2).mean(1) - math.log(5)
    for lower, upper in ((elbo, iwae_5), (iwae_5, iwae_50)):
        gap = (upper - lower).mean(1)  # (200,)
        assert gap.mean() > 3 * gap.std() / 200**0.5


@kinds
def test_the_rate_is_the_sum_of_the_kl_of_the_steps(make, binary, kind):
    model, (x, y) = shaken(make("DRAW", **KINDS[kind])), binary(200)
    qz_x = model.posterior(x)
    rate, distortion = under(3, model.rate_distortion, x, 4, y, qz_x)
    for per, parts in (("layer", 3), ("dimension", 9)):
        model.hparams.free_bits_per = per
        rates, same = under(3, model.rate_of_parts, x, 4, y, qz_x)
        assert rates.shape == (200, parts)
        torch.testing.assert_close((rates.sum(1), same), (rate, distortion), rtol=1e-4, atol=1e-4)
    with evaluating(model, seed=4):
        statistics = model.latent_statistics(x)
        sampled = -model.log_terms(x, 100, qz_x)[1].mean(0)
        exact, _ = model.rate_distortion(x, 100, y, qz_x)
    assert [(mean.shape, kl.shape) for mean, kl in statistics] == [((200, 3), (200, 3))] * 3
    torch.testing.assert_close(torch.cat([mean for mean, _ in statistics], 1), model.encode(x))
    for other in (sampled, sum(kl.sum(1) for _, kl in statistics)):
        difference = other - exact
        assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(len(x))
        assert difference.std() < exact.mean()


@kinds
def test_the_statistics_of_a_step_are_means_over_samples_of_the_steps_before(make, binary, kind):
    model, (x, y) = shaken(make("DRAW", **KINDS[kind])), binary(5)
    statistics = under(3, model.latent_statistics, x)
    expected, _ = under(3, model.rate_of_parts, x, 16, y, model.posterior(x))
    torch.testing.assert_close(torch.cat([kl for _, kl in statistics], 1), expected)


@kinds
@pytest.mark.parametrize("is_true", [False, True], ids=["mixed", "true"])
def test_densities_have_32_bits_in_networks_of_16(make, binary, kind, is_true):
    model, (x, _) = shaken(make("DRAW", **KINDS[kind])), binary(4)
    if is_true:
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not is_true):
        path = model.posterior(x).rsample_path((2,))
        parts = [*path, path.log_ratio(), model.first_state(4).canvas, model.px(path.z.flatten(-2)).mean]
    assert {part.dtype for part in parts} == {torch.float32}


def test_the_closed_form_of_the_kl_has_less_noise(make, binary):
    model, (x, _) = shaken(make("DRAW")), binary(50)
    qz_x = model.posterior(x)
    repeated = x[:1].expand(300, -1, -1, -1)
    closed, _ = model.rate_distortion(repeated, 1, None, model.posterior(repeated))
    sampled = -model.log_terms(x[:1], 300, model.posterior(x[:1]))[1]
    assert qz_x.batch_shape == (50,)
    assert closed.std() < 0.5 * sampled.std()


@kinds
def test_ais_agrees_with_importance_sampling(make, squares, kind):
    model = shaken(make("DRAW", (1, 2, 2), z_dim=2, steps=2, **KINDS[kind]))
    sampled = importance(model, squares, 20_000, 2000).log_px
    for start in ("prior", "posterior"):  # q(z|x) covers all latents
        settings = Settings(chains=300, temperatures=8, leapfrogs=2, start=start)
        annealed = anneal(model, squares, settings, [0.5] * 7).log_px
        assert annealed.exp().sum().item() == pytest.approx(1, abs=0.05)
        assert (annealed - sampled).abs().max() < 0.2


def test_the_encoder_runs_for_each_sample_and_chunks_bound_the_memory(make, binary):
    model, (x, _) = make("DRAW"), binary(3)
    encoded, decoded = [], []
    model.encoder.register_forward_hook(lambda module, args, output: encoded.append(output.shape[:-1]))
    model.decoder.register_forward_hook(lambda module, args, output: decoded.append(output.shape[:-1]))
    importance(model, x, 7, chunk=5)
    assert encoded == [(3,), (5, 3), (5, 3), (3,), (2, 3), (2, 3)]  # the first step is the same for all samples
    assert decoded == [(5, 3)] * 3 + [(2, 3)] * 3
    assert model.decoder_cost == 3


# Steps


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9)])
@kinds
def test_the_steps_end_at_the_image(make, binary, kind, shape):
    model, (x, _) = shaken(make("DRAW", shape, **KINDS[kind])), binary(4, shape)
    made, again = under(3, model.generate_steps, 4), model.reconstruct_steps(x)
    for steps, image in ((made, under(3, model.sample, 4)), (again, model.reconstruct(x))):
        assert steps.canvas.shape == (3, 4, *shape)
        assert ((steps.canvas >= 0) & (steps.canvas <= 1)).all()
        torch.testing.assert_close(steps.canvas[-1], image, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(steps.canvas[0], steps.canvas[-1], atol=1e-3)
    windows = (again.read, again.write, made.write)
    assert made.read is None
    assert all(part is None if kind == "whole" else part.shape == (3, 4, 4) for part in windows)


def test_windows_are_in_pixels_that_are_counted_from_0(make, binary):
    model, (x, _) = make("DRAW", (1, 9, 21), **ATTENTION), binary(2, (1, 9, 21))
    nn.init.zeros_(model.canvas.layer.weight)
    read = torch.tensor([0.0, 0.0, math.log(4), math.log(0.5), 0.0])  # the centre of the image, 10 pixels apart
    write = torch.tensor([-1 + 2 * 6 / 22, -1 + 2 * 3 / 10, 0.0, math.log(0.1), 0.0])  # sixth column, third row
    clipped = torch.cat([read, write])
    model.canvas.layer.bias.detach()[:10] = torch.where(
        torch.tensor([False, False, True, True, True] * 2), 10 * (clipped / 10).atanh(), clipped
    )
    steps = model.reconstruct_steps(x)
    torch.testing.assert_close(steps.read, torch.tensor([10.0, 4.0, 10.0, 2.0]).expand(3, 2, 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(steps.write, torch.tensor([5.0, 2.0, 2.0, 1.0]).expand(3, 2, 4), rtol=1e-4, atol=1e-4)


# Options


@pytest.mark.parametrize(("options", "sentence"), [
    ({"z_dim": 0}, "z_dim, steps and rnn_size must be at least 1; got 0, 3 and 6"),
    ({"steps": 0}, "z_dim, steps and rnn_size must be at least 1"),
    ({"rnn_size": -1}, "z_dim, steps and rnn_size must be at least 1"),
    ({"read_size": 2}, "read_size and write_size have no effect without attention"),
    ({"write_size": 5}, "read_size and write_size have no effect without attention"),
    ({"attention": True, "read_size": 1}, "read_size and write_size must be at least 2; got 1 and 5"),
    ({"attention": True, "write_size": 0}, "read_size and write_size must be at least 2; got 5 and 0"),
    ({"objective": "dreg"}, "Unknown objective of DRAW 'dreg': choose one of elbo, iwae, miwae, ciwae"),
    ({"likelihood": "poisson"}, "Unknown likelihood 'poisson'"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("DRAW", **options)


def test_options_of_networks_priors_and_posteriors_do_not_exist():
    options = build_parser({"model": "DRAW", "data": "Digits"}).get_defaults().model
    names = list(options.keys())
    absent = ("hidden", "activation", "encoder", "decoder", "batch_norm", "init", "prior", "posterior")
    assert not [name for name in names if name.startswith(absent)]
    assert {"steps", "z_dim", "rnn_size", "attention", "read_size", "write_size", "likelihood", "beta"} <= set(names)


@kinds
def test_the_first_canvas_is_the_mean_image(make, kind):
    model = make("DRAW", (1, 4, 4), **KINDS[kind])
    mean = torch.linspace(0, 1, 16).view(1, 4, 4)
    model.start_at_mean(mean)
    torch.testing.assert_close(model.likelihood(model.first_canvas).mean, mean.clamp(0.001, 0.999))


@kinds
def test_it_learns_from_the_start(kind):
    """The distortion falls only if the encoder reads, and the decoder writes, where the images differ."""
    torch.manual_seed(0)
    x = torch.zeros(16, 1, 12, 12)  # a square at one of 16 places, away from the corners
    for i in range(16):
        x[i, 0, 2 + 2 * (i // 4) : 4 + 2 * (i // 4), 2 + 2 * (i % 4) : 4 + 2 * (i % 4)] = 1
    model = DRAW((1, 12, 12), z_dim=4, steps=4, rnn_size=32, attention=kind == "attention")
    model.start_at_mean(x.mean(0))
    adam, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(150):
        rate, distortion = model.rate_distortion(x, 1)
        adam.zero_grad()
        (distortion + 0.1 * rate).mean().backward()
        adam.step()
        losses.append(distortion.mean().item())
    assert sum(losses[-10:]) / 10 < 0.6 * losses[0]
