"""GAN: both players against formulas and a naive loop, options of the optimizers, resuming, several processes."""

import csv
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import TRAIN, assert_same, command, contents, processes
from torch import nn

import train
from models import GAN, load
from models.gan import average_over_ranks, discriminator_loss, generator_loss

OF_GAN = ["--model", "GAN"]
ON_CPUS = ["--model.batch_norm", "false"]  # batch norm of several processes needs GPUs


def gan_command(folder, *more):
    return [*OF_GAN, *command(folder, "VAE", *more)]


def rows(folder, column):
    with Path(folder, "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


# Losses


def test_losses_are_those_of_the_paper():
    real, fake = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([-0.7, 1.5])
    D = torch.sigmoid
    expected = -D(real).log().mean() - (1 - D(fake)).log().mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -D(fake).log().mean())


def test_losses_of_extreme_logits_are_finite():
    large = torch.tensor([1e4, -1e4], requires_grad=True)
    for loss in (discriminator_loss(large, large), generator_loss(large)):
        (gradient,) = torch.autograd.grad(loss, large)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_the_optimal_discriminator_gives_the_jensen_shannon_divergence():
    # at D = p / (p + q) the loss is 2 log 2 - 2 JSD; for equal distributions 2 log 2
    assert discriminator_loss(torch.zeros(5), torch.zeros(5)).item() == pytest.approx(2 * math.log(2))


def test_images_and_samples_in_the_unit_interval(make):
    model = make("GAN").eval()
    assert model.sample(50).min() >= 0
    assert model.sample(50).max() <= 1
    assert model.logits(torch.rand(7, 1, 8, 8)).shape == (7,)


# Steps


class Recorded(GAN):
    """Keep the batch, the latents and the weights before and after each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.record = []

    def take_step(self, x, y):
        before = {name: value.clone() for name, value in self.state_dict().items()}
        state = torch.get_rng_state()
        values = super().take_step(x, y)
        after = {name: value.clone() for name, value in self.state_dict().items()}
        self.record.append((before, state, x, values, after))
        return values


def recorded(fit, images, **options):
    torch.manual_seed(0)
    model = Recorded(image_shape=(1, 8, 8), hidden=[16], z_dim=3, **options)
    # in float64, since Adam's first steps turn rounding errors of small gradients into large steps
    fit(model, [images(8, seed=seed) for seed in range(3)], precision="64-true")
    return model


@pytest.mark.parametrize(
    "options", [{"r1": 0.0}, {"r1": 0.7}, {"r1": 0.0, "batch_norm": True}, {"discriminator_lr": 3e-3}]
)
def test_steps_are_those_of_a_naive_loop(fit, binary, options):
    model = recorded(fit, binary, lr=1e-3, **options)
    naive = GAN(image_shape=(1, 8, 8), hidden=[16], z_dim=3, **options).double()
    D, G = naive.discriminator, naive.decoder
    optimizer_d = torch.optim.Adam(D.parameters(), lr=options.get("discriminator_lr", 1e-3), betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
    naive.load_state_dict(model.record[0][0])
    naive.train()
    for _, state, x, values, after in model.record:
        torch.set_rng_state(state)
        samples = torch.sigmoid(G(torch.randn(8, 3, dtype=torch.float64)))
        x = x.clone().requires_grad_()
        optimizer_d.zero_grad()
        real, fake = D(2 * x - 1), D(2 * samples.detach() - 1)
        loss_d = nn.functional.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        loss_d = loss_d + nn.functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(real))
        penalty = 0.0
        if (r1 := options.get("r1", 0.1)) > 0:
            gradient = torch.autograd.grad(real.sum(), x, create_graph=True)[0]
            penalty = r1 / 2 * sum(g.square().sum() for g in gradient) / 8
        (loss_d + penalty).backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_g = nn.functional.binary_cross_entropy_with_logits(D(2 * samples - 1), torch.ones_like(real))
        loss_g.backward()
        optimizer_g.step()
        for name, parameter in naive.named_parameters():
            torch.testing.assert_close(parameter, after[name], rtol=1e-6, atol=1e-9, msg=name)
        assert values["loss"].item() == pytest.approx(loss_g.item(), rel=1e-5)
        assert values["discriminator_loss"].item() == pytest.approx(loss_d.item(), rel=1e-5)
        assert values["d_real"].item() == pytest.approx(real.sigmoid().mean().item(), rel=1e-5)
        assert values["d_fake"].item() == pytest.approx(fake.sigmoid().mean().item(), rel=1e-5)


def test_batch_norm_of_the_discriminator_sees_images_and_samples_in_separate_batches(fit, binary):
    seen = []
    model = GAN((1, 8, 8), hidden=[16, 12], z_dim=3, encoder="dcgan", decoder="dcgan", batch_norm=True, r1=0.0)
    norm = next(layer for layer in model.discriminator.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    fit(model, [binary(8)])
    assert seen[:3] == [8, 8, 8]  # images, samples, and samples again for the generator


@pytest.mark.parametrize("option", [{"spectral_norm": True, "r1": 0.0}, {"r1": 1.0}])
def test_the_discriminator_has_no_batch_norm_with_spectral_norm_or_r1(option):
    model = GAN((1, 8, 8), hidden=[16], batch_norm=True, **option)
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    assert any(isinstance(layer, norms) for layer in model.decoder.modules())
    assert not any(isinstance(layer, norms) for layer in model.discriminator.modules())


@pytest.mark.parametrize("network", ["mlp", "conv", "dcgan", "resnet"])
def test_spectral_norm_bounds_each_layer(network, fit, binary):
    model = GAN((1, 8, 8), hidden=[16, 12], encoder=network, spectral_norm=True)
    fit(model, [binary(8)], max_epochs=10)
    for layer in model.discriminator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"r1": -1.0}, "r1 must be at least 0"), ({"beta1": 1.0}, "below 1"), ({"discriminator_lr": 0.0}, "positive"),
    ({"z_dim": 0}, "z_dim must be at least 1"), ({"encoder": "transformer"}, "Unknown encoder"),
])  # fmt: skip
def test_invalid_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GAN((1, 8, 8), **options)


@pytest.mark.parametrize("option", [
    {"lr": 2e-3}, {"discriminator_lr": 2e-3}, {"adam_eps": 1e-3}, {"beta1": 0.9}, {"beta2": 0.9}, {"lr_final": 1e-5},
    {"r1": 1.0}, {"spectral_norm": True}, {"r1": 0.0}, {"batch_norm": True}, {"discriminator_activation": "tanh"},
    {"discriminator_hidden": [9]}, {"activation": "tanh"},
])  # fmt: skip
def test_every_option_changes_training(fit, binary, make, option):
    def trained(**options):
        model = make("GAN", **options)
        torch.manual_seed(4)
        fit(model, [binary(8)] * 2, max_epochs=3)
        return model.decoder.first.weight

    assert not torch.equal(trained(), trained(**option))


# Runs


@pytest.fixture
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_there")
def test_steps_and_logged_values_of_a_run():
    assert train.main(gan_command("a", "--model.lr_final", "1e-5", "--model.discriminator_lr", "4e-4")) == 0
    state = contents("a")
    assert state["global_step"] == 39  # one step for each batch, not one for each optimizer
    assert len(state["optimizer_states"]) == 2
    for name in ("loss", "discriminator_loss", "d_real", "d_fake"):
        assert list(rows("a", f"train/{name}")) == list(range(39))
    assert all(0 < value < 1 for name in ("d_real", "d_fake") for value in rows("a", f"train/{name}").values())
    assert list(rows("a", "val/bound")) == [12, 25, 38]
    assert list(rows("a", "train/lr").values()) == pytest.approx([1e-3, 5.05e-4, 1e-5])
    bounds = rows("a", "val/bound")
    assert load("a").trained_epochs == 1 + [12, 25, 38].index(max(bounds, key=bounds.get))  # the best by MMD
    # the schedule of the discriminator is the same factor of its own rate
    groups = [optimizer["param_groups"][0] for optimizer in state["optimizer_states"]]
    assert [group["betas"] for group in groups] == [(0.5, 0.999)] * 2
    assert [group["initial_lr"] for group in groups] == [4e-4, 1e-3]


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("more", [
    [], ["--model.batch_norm", "true", "--model.r1", "0", "--model.lr_final", "1e-5"],
    ["--model.spectral_norm", "true"],
    ["--steps_per_call", "5"], ["--trainer.max_steps", "30", "--model.lr_final", "1e-5"],
    ["--trainer.precision", "bf16-mixed"],
])  # fmt: skip
def test_an_interrupted_run_equals_an_uninterrupted_one(monkeypatch, more):
    assert train.main(gan_command("whole", *more)) == 0
    with monkeypatch.context() as patch:
        step = GAN.take_step

        def watched(self, x, y):
            if self.global_step == 16:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, x, y)

        patch.setattr(GAN, "take_step", watched)
        assert train.main(gan_command("cut", *more)) == 143
    assert contents("cut")["global_step"] < 26
    assert train.main(gan_command("cut", *more)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("more", [
    [], ["--trainer.precision", "bf16-mixed"], ["--trainer.max_steps", "17", "--model.lr_final", "1e-5"],
])  # fmt: skip
def test_several_steps_per_call_are_the_same_steps(more):
    assert train.main(gan_command("one", *more)) == 0
    assert train.main(gan_command("many", *more, "--steps_per_call", "5")) == 0
    assert_same("one", "many")
    assert rows("one", "val/bound") == rows("many", "val/bound")
    one, many = rows("one", "train/d_fake"), rows("many", "train/d_fake")
    assert many[9] == pytest.approx(sum(one[step] for step in range(5, 10)) / 5, rel=1e-6)


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize(("option", "named"), [
    (["--trainer.accumulate_grad_batches", "2"], "several optimizers: --trainer.accumulate_grad_batches. Leave it out"),
    (["--trainer.gradient_clip_val", "1"], "several optimizers: --trainer.gradient_clip_val. Leave it out."),
    (["--compile"], "--compile has no effect on GAN, which has several losses. Leave it out."),
    (["--data.binarization", "dynamic"], "GAN generates grey images and cannot match binarized ones"),
])  # fmt: skip
def test_what_two_optimizers_do_not_support_is_refused_in_one_sentence(capsys, option, named):
    assert train.main(gan_command("a", *option)) == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
    assert not Path("a").exists()


def test_scaled_gradients_are_refused(make):
    trainer = SimpleNamespace(accumulate_grad_batches=1, gradient_clip_val=None, precision="16-mixed")
    with pytest.raises(
        ValueError, match=r"^Not supported by GAN, .*: --trainer.precision 16-mixed \(use bf16-mixed\)\."
    ):
        train.check_own_steps(trainer, make("GAN"))
    train.check_own_steps(trainer, make("VAE"))


@pytest.mark.usefixtures("_there")
def test_new_options_win_when_a_run_is_resumed():
    assert train.main(gan_command("a")) == 0
    more = ["--trainer.max_epochs", "4", "--allow_changes", "--model.beta1", "0.9", "--model.discriminator_lr", "2e-3"]
    assert train.main(gan_command("a", *more)) == 0
    groups = [optimizer["param_groups"][0] for optimizer in contents("a")["optimizer_states"]]
    assert [(group["lr"], group["betas"]) for group in groups] == [(2e-3, (0.9, 0.999)), (1e-3, (0.9, 0.999))]


def test_a_watched_loss_is_that_of_the_generator(make, binary):
    model, (x, y) = make("GAN"), binary(8)
    torch.manual_seed(3)
    loss = model.loss(x, y)
    torch.manual_seed(3)
    samples = model.generate(torch.randn(8, model.latent_dim))
    assert loss.item() == pytest.approx(-model.logits(samples).sigmoid().log().mean().item(), rel=1e-5)


SAME_WEIGHTS = """
import sys
import torch
from torch import distributed
import train
from models import GAN
seen = {}
step = GAN.take_step
def recording(self, x, y):
    seen["model"] = self
    return step(self, x, y)
GAN.take_step = recording
assert train.main(sys.argv[1:]) == 0
weights = torch.cat([p.detach().flatten() for p in seen["model"].parameters()])
everywhere = [torch.empty_like(weights) for _ in range(2)]
distributed.all_gather(everywhere, weights)
assert torch.equal(*everywhere)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("more", [[], ["--model.spectral_norm", "true"], ["--trainer.precision", "bf16-mixed"]])
def test_two_processes_have_the_same_weights_and_resume(more):
    for limit in ([], ["--trainer.max_epochs", "1"]):  # the second run is resumed after an epoch
        folder = "whole" if not limit else "cut"
        found = processes(2, SAME_WEIGHTS, *gan_command(folder, *ON_CPUS, *more, *limit))
        assert [status for status, _, _ in found] == [0, 0], found
    assert [status for status, _, _ in processes(2, TRAIN, *gan_command("cut", *ON_CPUS, *more))] == [0, 0]
    assert_same("whole", "cut")
    assert contents("whole")["global_step"] == 21  # two ranks share the batches


def test_gradients_are_averaged_over_ranks(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(1))  # another rank has ones
    mean = average_over_ranks([torch.zeros(2, 3), torch.full((4,), 3.0)], 2)
    assert [part.shape for part in mean] == [(2, 3), (4,)]
    assert (mean[0] == 0.5).all()
    assert (mean[1] == 2).all()
