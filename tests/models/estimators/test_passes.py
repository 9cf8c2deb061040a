"""Samples per pass: the memory of a GPU, and results that do not depend on the size of a pass."""

import pytest
import torch

from evaluation import metrics
from models import MODELS, VAE, evaluating
from models.estimators import passes
from models.estimators.importance import importance
from models.estimators.pareto import pareto_k
from models.estimators.passes import MAX_DECODER_ROWS, activation_bytes, halved_to_fit, samples_per_pass


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return VAE((1, 28, 28), hidden=[400, 300], z_dim=20)


def binary_images(n):
    return (torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(1)) < 0.2).float()


def test_on_a_cpu_the_number_is_that_of_the_decoder_rows(vae):
    assert samples_per_pass(vae, binary_images(1), None, 50) == MAX_DECODER_ROWS // 50
    assert samples_per_pass(vae, binary_images(1), None, 10 * MAX_DECODER_ROWS) == 1


@pytest.mark.parametrize(("number", "free", "expected"), [
    (5000, 10**12, 5000), (5000, 10_000_000, 5000), (5000, 9_999_999, 2500), (5000, 5_000, 2), (5000, 0, 1), (0, 9, 1),
])  # fmt: skip
def test_a_pass_takes_at_most_half_of_the_free_memory(number, free, expected):
    assert halved_to_fit(number, 1000, free) == expected


def test_activations_are_those_of_the_layers_and_of_the_density(vae):
    layers = 2 * (400 + 300) + 2 * 784  # linear layers and their activations; the output also unflattened
    density = passes.PIXEL_TENSORS * 784
    encoder = (2 * (400 + 300) + 40) / 16  # once for 16 samples
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert activation_bytes(vae, binary_images(1), None) == pytest.approx(4 * (layers + density + encoder), rel=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training


def test_activations_bound_the_tensors_of_a_pass(vae):
    """What torch allocates for one pass on a CPU, all tensors together, is no less than what lives at once."""
    x, samples = binary_images(1), 64
    with evaluating(vae), torch.profiler.profile(profile_memory=True) as profile:
        vae.log_weights(x, samples)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak / samples < activation_bytes(vae, x, None)


@pytest.mark.parametrize("name", [name for name in MODELS if hasattr(MODELS[name], "log_weights")])
def test_every_model_can_be_counted(name, make):
    model = make(name)
    x = torch.rand(1, *model.hparams.image_shape).round()
    y = torch.zeros(1, dtype=torch.long) if model.is_conditional else None
    assert activation_bytes(model, x, y) > 4 * x.numel()


@pytest.mark.parametrize("samples", [16, 160, 10_000])
def test_the_likelihood_does_not_depend_on_the_size_of_a_pass(vae, samples, monkeypatch):
    """On a CPU: the noise is one stream in whatever pieces it is drawn."""
    x, y = binary_images(60), torch.zeros(60, dtype=torch.long)
    expected = metrics.likelihoods(vae, x, y, 160)
    monkeypatch.setattr(metrics, "samples_per_pass", lambda *args: samples)
    found = metrics.likelihoods(vae, x, y, 160)
    for name, values in found.items():
        tolerance = 1e-3 if name in ("ess", "k_hat") else 1e-4
        torch.testing.assert_close(values, expected[name], atol=tolerance, rtol=1e-3, msg=name)


@pytest.mark.gpu
def test_on_a_gpu_passes_are_larger_and_results_agree_with_those_of_a_cpu(vae):
    """The noise differs. The mean log weight over all images is known to a hundredth of a nat."""
    x, y = binary_images(60), torch.zeros(60, dtype=torch.long)
    expected = importance(vae, x, 1000)
    vae.cuda()
    assert MAX_DECODER_ROWS // 50 < samples_per_pass(vae, x.cuda(), None, 50) <= passes.GPU_ROWS // 50
    found = importance(vae, x.cuda(), 1000, 500)
    assert found.elbo.mean().item() == pytest.approx(expected.elbo.mean().item(), abs=0.2)
    k_hat = pareto_k(found.largest, 1000)
    torch.testing.assert_close(k_hat.cpu(), pareto_k(found.largest.cpu(), 1000), atol=1e-6, rtol=1e-6)
    values = metrics.likelihoods(vae, x.cuda(), y.cuda(), 1000)
    assert values["log_px"].shape == (60,)
    assert all(torch.from_numpy(array).isfinite().all() for array in values.values())


@pytest.mark.gpu
def test_a_pass_on_a_gpu_takes_no_more_memory_than_is_counted(vae):
    vae.cuda()
    x, samples = binary_images(50).cuda(), 500
    with evaluating(vae):
        vae.log_weights(x, 1)  # allocates workspaces
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        vae.log_weights(x, samples)
    used = torch.cuda.max_memory_allocated() - before
    assert used < samples * len(x) * activation_bytes(vae, x[:1], None)
