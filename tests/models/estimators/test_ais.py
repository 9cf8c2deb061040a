import math

import pytest
import torch
from exact_models import LinearGaussian
from torch import nn

from datamodules import Digits
from models import AE, MODELS, ImplicitModel, evaluating
from models.estimators.ais import (
    Path,
    Settings,
    anneal,
    annealing_path,
    bidirectional,
    hmc_step,
    run_chains,
    schedule,
    tune,
)
from models.estimators.importance import importance

ANNEALED = [name for name, model in MODELS.items() if hasattr(model, "ais_log_px")]
BERNOULLI = [name for name in ANNEALED if not issubclass(MODELS[name], ImplicitModel)]  # whose pixels are Gaussian
QUICK = Settings(chains=4, temperatures=20, leapfrogs=5)


def images(n, seed=3):
    return torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) * 1.2


def shaken(model):
    for key, parameter in model.named_parameters():
        # two layers of latents, for which q is far from the true posterior
        between = any(part in key for part in ("p_nets", "m2.decoder", "decoder.heads", "decoder.blocks.1"))
        images = "decoder" in key and "aux_decoder" not in key
        nn.init.normal_(parameter, std=0.2 if between else 0.6 if images else 0.1)
    return model


def test_the_schedule_is_a_sigmoid_from_0_to_1():
    b = torch.tensor(schedule(100), dtype=torch.float64)
    assert (b[0], b[-1]) == (0, 1)
    steps = b.diff()
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps.flip(0))
    assert steps.argmax() in (49, 50)
    assert steps[50] > 10 * steps[0]
    assert schedule(1) == [0.0, 1.0]


# Comparison with the exact log p(x)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_within_005_nats_of_the_exact_log_p(start):
    model, x, settings = LinearGaussian(exact=False), images(30), Settings(temperatures=200, leapfrogs=5, start=start)
    found = anneal(model, x, settings, tune(model, images(10, seed=4), settings))
    error = found.log_px - model.log_p(x)
    assert found.log_px.dtype == torch.float64
    assert error.mean().abs() < 0.05
    assert error.abs().max() < 0.5


def trained_on_digits(name, **options):
    """A model after 600 training steps, and images that it was not trained on."""
    data = Digits()
    data.setup()
    x = data.images("train")[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]((1, 8, 8), **options)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(600):
            batch = x[torch.randint(len(x), (100,))]
            adam.zero_grad()
            model.loss(batch, None).backward()
            adam.step()
    return model, data.images("val", 40)[0], data.images("test", 20)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [
    ("VAE", {"z_dim": 5, "hidden": [32]}), ("IWAE", {"z_dim": 5, "hidden": [32]}),
    ("HierarchicalVAE", {"z_dim": [5, 2], "hidden": [32], "inner_hidden": [16]}),
    ("LadderVAE", {"z_dim": [5, 2], "hidden": [32]}),
    ("DRAW", {"z_dim": 2, "steps": 3, "rnn_size": 16}), ("DRAW", {"z_dim": 2, "steps": 3, "attention": True}),
])  # fmt: skip
def test_ais_agrees_with_100000_importance_samples_on_a_trained_model(name, options):
    """With few latents, importance sampling is close to the exact value. AIS has an error of 0.2 nats per image."""
    model, pilot, x = trained_on_digits(name, **options)
    settings = Settings(chains=8, temperatures=500, leapfrogs=5)
    sampled = importance(model, x, 100_000, 100).log_px
    annealed = anneal(model, x, settings, tune(model, pilot, settings)).log_px
    difference = (annealed - sampled).double()
    assert abs(difference.mean()) < 0.1
    assert difference.abs().max() < 0.8


def test_bdmc_bounds_contain_the_truth_and_tighten_with_more_temperatures():
    model, gaps = LinearGaussian(exact=False), []
    for temperatures in (4, 20, 100):
        settings = Settings(chains=4, temperatures=temperatures, leapfrogs=4)
        bounds = bidirectional(model, 100, settings, [0.6] * (temperatures - 1))
        gaps.append((bounds.upper - bounds.lower).mean().item())
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert 0 < gaps[2] < 0.1


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_forward_and_reverse_weights_are_unbiased_for_any_moves(step):
    """Detects errors in the acceptance rule, in the order of moves and weights, and in the end points."""
    model, n, settings = LinearGaussian(exact=True), 40_000, Settings(chains=1, temperatures=4, leapfrogs=2)
    x, steps = images(1).expand(n, -1, -1, -1), [step] * 3
    truth = model.log_p(x[:1])
    with evaluating(model, seed=1):
        path = annealing_path(model, x, None, "prior")
        up, accepted = run_chains(path, path.base.sample((1,)), range(1, 5), settings, steps, lambda: None)
        exact = model.true_posterior(x).sample((1,))
        down, _ = run_chains(path, exact, range(4, 0, -1), settings, steps, lambda: None)
    assert 0.2 < accepted.mean() < 0.999  # some moves are rejected
    for ratio in ((up[0] - truth).exp(), (truth - down[0]).exp()):
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / n**0.5
        assert ratio.std() / n**0.5 < 0.05


def test_both_bdmc_bounds_are_of_the_same_images():
    """With one temperature the lower bound is plain Monte Carlo from the prior; in expectation both bounds hold."""
    model, settings = LinearGaussian(exact=True), Settings(chains=500, temperatures=1)
    bounds = bidirectional(model, 400, settings, [])
    with evaluating(model, seed=0):
        x = model.ais_simulate(model.ais_prior().sample((400,)))
    truth = model.log_p(x)
    for error in (bounds.lower - truth, truth - bounds.upper):
        assert error.mean() < 0.01
    assert (bounds.lower - truth).abs().mean() < 0.1


def test_chains_that_start_at_the_exact_posterior_are_exact():
    model, x = LinearGaussian(exact=True), images(5)
    settings = QUICK._replace(start="posterior")
    for temperatures in (1, 20):
        found = anneal(model, x, settings._replace(temperatures=temperatures), [0.5] * (temperatures - 1))
        torch.testing.assert_close(found.log_px, model.log_p(x), atol=1e-4, rtol=0)


def test_an_hmc_step_leaves_its_target_invariant():
    model, n = LinearGaussian(exact=True), 20_000
    x = images(1).expand(n, -1, -1, -1)
    with evaluating(model, seed=2):
        path, posterior = annealing_path(model, x, None, "prior"), model.true_posterior(x)
        point = path.at(posterior.sample((1,)))
        for _ in range(5):
            point, acceptance = hmc_step(path, point, 1.0, 0.5, 3)
    assert 0.3 < acceptance.mean() < 0.95
    z, scale = point.z[0], posterior.stddev[0]
    assert ((z.mean(0) - posterior.mean[0]) / scale).abs().max() < 0.04
    torch.testing.assert_close(z.std(0), scale, rtol=0.03, atol=0)
    again = path.at(point.z)  # accepted and rejected chains keep the values of the right point
    for kept, computed in zip(point, again, strict=True):
        torch.testing.assert_close(kept, computed)


@pytest.mark.parametrize("name", [name for name in BERNOULLI if name != "CVAE"])
def test_p_of_all_binary_images_sums_to_1(make, squares, name):
    z_dim = {"HierarchicalVAE": [3, 2], "LadderVAE": [3, 2], "AffineVAE": 8}.get(name, 2)
    options = {"m1_options": {"z_dim": 3}, "kept": [0, 2]} if name == "M1M2" else {}
    model = shaken(make(name, (1, 2, 2), z_dim=z_dim, **options))
    settings = Settings(chains=300, temperatures=10, leapfrogs=3)
    found = anneal(model, squares, settings, [0.5] * 9)
    assert found.log_px.exp().sum().item() == pytest.approx(1, abs=0.03)
    # the same p(x) as by importance sampling
    reference = importance(model, squares, 20_000, 2000).log_px
    assert (found.log_px - reference).abs().max() < 0.3
    bounds = bidirectional(model, 50, settings, [0.5] * 9)
    assert -0.05 < (bounds.upper - bounds.lower).mean() < 0.3


def test_conditional_models_get_the_label(make, squares):
    model, settings = shaken(make("CVAE", (1, 2, 2), z_dim=2)), Settings(chains=300, temperatures=10, leapfrogs=3)
    for label in range(3):
        y = torch.full((16,), label)
        found = anneal(model, squares, settings, [0.5] * 9, y)
        assert found.log_px.exp().sum().item() == pytest.approx(1, abs=0.03)
        assert (found.log_px - importance(model, squares, 20_000, 2000, y).log_px).abs().max() < 0.15
    bounds = bidirectional(model, 48, settings, [0.5] * 9, torch.arange(48) % 3)
    assert -0.05 < (bounds.upper - bounds.lower).mean() < 0.3


@pytest.mark.parametrize("name", BERNOULLI)
def test_simulated_images_have_the_distribution_of_the_model(make, name):
    """The mean of simulated pixels is the mean of p(x|z) over the prior."""
    model, n = shaken(make(name, (1, 2, 2), batch_norm=False)), 20_000
    y = torch.arange(n) % 3 if MODELS[name].is_conditional else None
    with evaluating(model, seed=1):
        x = model.ais_simulate(model.ais_prior().sample((n,)), y)
        given = torch.zeros(2000, dtype=torch.long) if y is not None else None
        alike = x[y == 0] if y is not None else x
        pixels = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).view(16, 1, 1, 2, 2)
        z = model.ais_prior().sample((2000,))
        p = torch.stack([model.ais_log_px(image, z, given).exp().mean() for image in pixels])  # (16,)
    frequency = (alike[None] == pixels).flatten(2).all(2).float().mean(1)
    assert x.shape == (n, 1, 2, 2)
    assert p.sum() == pytest.approx(1, abs=1e-4)
    assert (frequency - p).abs().max() < 0.03


# The pilot run


def test_the_pilot_run_reaches_the_target_acceptance_rate():
    model, settings = LinearGaussian(exact=True), Settings(chains=10, temperatures=100)
    steps = tune(model, images(20), settings)
    assert len(steps) == 99
    found = anneal(model, images(20, seed=9), settings, steps)
    assert 0.5 < found.acceptance.mean() < 0.8
    assert steps[-1] < steps[0]  # the posterior is narrower than the prior


def test_step_sizes_are_fixed_after_the_pilot_run():
    model, x, settings = LinearGaussian(exact=True), images(6), QUICK
    steps = [0.4] * 19
    alone = anneal(model, x, settings, steps)
    assert steps == [0.4] * 19
    again = anneal(model, x, settings, steps)
    assert torch.equal(alone.log_px, again.log_px)
    assert not torch.equal(anneal(model, x, settings, steps, seed=1).log_px, alone.log_px)


# Restored state and refused arguments


@pytest.mark.parametrize("name", ANNEALED)
def test_mode_random_state_and_gradients_are_restored(make, binary, name):
    model, (x, y) = make(name, batch_norm=True), binary(4)
    model.loss(x, y)  # it has batch statistics
    y = y if MODELS[name].is_conditional else None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    torch.manual_seed(7)
    found = anneal(model, x, QUICK, [0.1] * 19, y)
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), after)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.log_px.isfinite().all()
    assert not found.log_px.requires_grad


def test_a_trajectory_that_overflows_is_rejected():
    model, x = LinearGaussian(exact=True), images(3)
    with evaluating(model, seed=0):
        path = annealing_path(model, x, None, "prior")
        point = path.at(path.base.sample((2,)))
        far, acceptance = hmc_step(path, point, 1.0, 1e20, 10)
    assert (acceptance == 0).all()
    assert torch.equal(far.z, point.z)
    assert isinstance(path, Path)


def test_one_temperature_makes_no_moves():
    found = anneal(LinearGaussian(exact=True), images(3), QUICK._replace(temperatures=1), [])
    assert torch.equal(found.acceptance, torch.zeros(3))


def test_every_temperature_is_reported():
    model, counted = LinearGaussian(exact=True), []
    anneal(model, images(2), QUICK, [0.5] * 19, moved=lambda: counted.append(1))
    assert len(counted) == 20
    bidirectional(model, 2, QUICK, [0.5] * 19, moved=lambda: counted.append(1))
    assert len(counted) == 60


def test_models_without_a_density_are_refused(binary):
    with pytest.raises(ValueError, match="AE has no density of x given its latents"):
        anneal(AE((1, 8, 8), hidden=[4]), binary(2)[0], QUICK, [0.5] * 19)


@pytest.mark.parametrize("name", ["HierarchicalVAE", "M2", "M1M2", "ADGM", "SDGM"])
def test_chains_may_start_at_q_only_if_it_covers_all_latents(make, binary, name):
    with pytest.raises(ValueError, match=f"Chains of {name} cannot start at 'posterior'"):
        anneal(make(name), binary(2)[0], QUICK._replace(start="posterior"), [0.5] * 19)
    with pytest.raises(ValueError, match="cannot start at 'top'"):
        anneal(make("VAE"), binary(2)[0], QUICK._replace(start="top"), [0.5] * 19)


def test_more_temperatures_give_a_tighter_bound():
    model, x, errors = LinearGaussian(exact=True), images(200), []
    for temperatures in (2, 8, 64):
        settings = Settings(chains=1, temperatures=temperatures, leapfrogs=3)
        errors.append((model.log_p(x) - anneal(model, x, settings, [0.6] * (temperatures - 1)).log_px).mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    assert math.isfinite(errors[2])
