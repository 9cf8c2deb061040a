import math
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch import nn

from models import MODELS
from models.base import Model, evaluating, learning_rate_factor

# loss of the small model with seed 0 on eight images; changes only if the computation changes
GOLDEN = {
    "AE": 44.842476,
    "VAE": 53.492901,
    "IWAE": 49.154301,
    "HierarchicalVAE": 71.775871,
    "CVAE": 53.733112,
    "M2": 24.392053,
    "M1M2": 10.429951,
    "AffineVAE": 62.893208,
}


class Given(Model):
    """A model whose validation metric is the first pixel of the image."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, x, y):
        return (x - self.weight).square().mean()

    def validation_metrics(self, x, y):
        return {"bound": x.flatten(1)[:, 0]}


def given(values, sizes):
    x = torch.tensor(values).view(-1, 1, 1, 1)
    return [(part, torch.full((len(part),), -1)) for part in x.split(sizes)]


# evaluating()


def test_evaluating_restores_the_mode_of_each_submodule():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    network[1][0].eval()  # as if the user froze one batch norm
    before = [module.training for module in network.modules()]
    assert True in before
    assert False in before
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_restores_mode_noise_and_gradients_also_after_an_exception(fails):
    network = nn.Linear(2, 2)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    try:
        with evaluating(network, seed=1):
            torch.randn(100)
            assert not torch.is_grad_enabled()
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert torch.equal(torch.randn(3), expected)
    assert network.training
    assert torch.is_grad_enabled()


def test_evaluating_makes_noise_a_function_of_the_seed():
    def noise(seed):
        with evaluating(nn.Linear(2, 2), seed):
            return torch.randn(4)

    first = noise(1)
    torch.manual_seed(9)
    assert torch.equal(noise(1), first)
    assert not torch.equal(noise(2), first)


# Learning rates


def rates(epochs, **options):
    """Return the learning rate of every epoch."""
    model = Given(**options)
    model.trainer = SimpleNamespace(max_epochs=epochs, max_steps=-1, gradient_clip_val=None)
    [adam], [schedule] = model.configure_optimizers()
    out = []
    for _ in range(epochs):
        out.append(adam.param_groups[0]["lr"])
        adam.step()
        schedule.step()
    return out


def test_stages_are_those_of_burda_et_al():
    lr = rates(3280, lr=1e-3, lr_final=1e-4, lr_schedule="stages")
    changes = [0] + [epoch for epoch in range(1, 3280) if lr[epoch] != lr[epoch - 1]]
    assert changes == [0, 1, 4, 13, 40, 121, 364, 1093]
    assert [lr[epoch] for epoch in changes] == pytest.approx([1e-3 * 10 ** (-i / 7) for i in range(8)], rel=1e-9)


@pytest.mark.parametrize("epochs", [2, 3, 24, 3280])
def test_exponential_schedule_ends_at_lr_final(epochs):
    lr = rates(epochs, lr=2e-3, lr_final=1e-4, lr_schedule="exponential")
    assert (lr[0], lr[-1]) == (pytest.approx(2e-3), pytest.approx(1e-4))
    assert [b / a for a, b in pairwise(lr)] == pytest.approx([0.05 ** (1 / (epochs - 1))] * (epochs - 1))


@pytest.mark.parametrize("epochs", [2, 3, 25])
def test_cosine_schedule_is_half_way_in_the_middle(epochs):
    lr = rates(epochs, lr=2e-3, lr_final=1e-4)
    assert (lr[0], lr[-1]) == (pytest.approx(2e-3), pytest.approx(1e-4))
    assert [a + b for a, b in zip(lr, lr[::-1], strict=True)] == pytest.approx([2.1e-3] * epochs)
    assert lr == sorted(lr, reverse=True)


@pytest.mark.parametrize("epochs", [1, 5, 8, 100])
def test_stages_shrink_to_any_number_of_epochs(epochs):
    lr = rates(epochs, lr=1e-3, lr_final=1e-4, lr_schedule="stages")
    assert lr == sorted(lr, reverse=True)
    assert lr[0] == pytest.approx(1e-3)
    if epochs >= 5:  # the last stage is two thirds of the run
        assert lr.count(lr[-1]) == pytest.approx(epochs * 2 / 3, abs=1)
        assert lr[-1] == pytest.approx(1e-4)


def test_learning_rate_factor_ends_at_the_ratio():
    assert learning_rate_factor(1, 0.1, "cosine") == pytest.approx(0.1)
    assert learning_rate_factor(1, 0.1, "exponential") == pytest.approx(0.1)
    assert learning_rate_factor(0.99, 0.1, "stages") == pytest.approx(0.1)


def test_training_uses_the_schedule(fit):
    class Recorder(Given):
        def on_train_epoch_start(self):
            seen.append(self.optimizers().param_groups[0]["lr"])

    seen = []
    fit(Recorder(lr=1e-2, lr_final=1e-4), given([1.0, 2.0], 1), max_epochs=3)
    assert seen == pytest.approx([1e-2, 5.05e-3, 1e-4])


class Rates(Given):
    """Record the learning rate of every optimizer step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rates = []

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


FALLING = {"lr": 1e-2, "lr_final": 1e-4}
FOUR = given([1.0, 2.0, 3.0, 4.0], 1)  # four batches


@pytest.mark.parametrize(("limits", "steps"), [
    ({"max_epochs": 5, "max_steps": 7}, 7),  # max_steps is reached first
    ({"max_epochs": -1, "max_steps": 7}, 7),
    ({"max_epochs": 100, "max_steps": 3}, 3),  # within the first epoch
    ({"max_epochs": 1}, 4),
    ({"max_epochs": 9, "max_steps": 5, "accumulate_grad_batches": 3}, 5),  # two steps in an epoch
    ({"max_epochs": 3, "max_steps": 5, "limit_train_batches": 2}, 5),
    ({"max_epochs": 3, "max_steps": 7, "min_epochs": 3}, 7),
])  # fmt: skip
@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_lr_final_is_reached_at_max_steps(fit, limits, steps, schedule):
    model = Rates(**FALLING, lr_schedule=schedule)
    fit(model, FOUR, **limits)
    ratio = [learning_rate_factor(step / (steps - 1), 0.01, schedule) for step in range(steps)]
    assert model.rates == pytest.approx([1e-2 * part for part in ratio])
    assert model.rates[-1] == pytest.approx(1e-4)
    assert model.trainer.callback_metrics["train/lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("limits", [{}, {"max_steps": 12}, {"max_steps": 100}, {"min_epochs": 2}])
def test_the_rate_changes_once_per_epoch_with_max_epochs(fit, limits):
    model = Rates(**FALLING)
    fit(model, FOUR, max_epochs=3, **limits)
    # bit-identical to earlier versions
    assert model.rates == [1e-2 * learning_rate_factor(epoch / 2, 0.01, "cosine") for epoch in range(3) for _ in FOUR]


def test_lr_final_needs_a_limit_of_epochs_or_steps(fit):
    with pytest.raises(ValueError, match=r"set --trainer.max_epochs or max_steps\.$"):
        fit(Given(lr_final=1e-4), given([1.0], 1), max_epochs=-1)


def test_lr_final_with_a_time_limit_is_refused():
    with pytest.raises(ValueError, match=r"which --trainer\.max_time leaves open"):
        Given(lr_final=1e-4).check_limits(3, -1, "00:01:00:00")
    Given().check_limits(3, -1, "00:01:00:00")


@pytest.mark.parametrize(("knob", "value"), [
    ("lr", 3e-3), ("lr_final", 1e-5), ("adam_eps", 0.1), ("lr_schedule", "stages"),
])  # fmt: skip
def test_every_optimizer_option_changes_training(fit, knob, value):
    def trained(**options):
        model = Given(**options)
        fit(model, given([1.0, 2.0, 3.0], 1), max_epochs=3)
        return model.weight.item()

    base = {"lr_final": 1e-4} if knob == "lr_schedule" else {}
    assert trained(**base) != trained(**{**base, knob: value})


@pytest.mark.parametrize(("options", "sentence"), [
    ({"lr": 0.0}, "must be positive"),
    ({"lr": -1.0}, "must be positive"),
    ({"lr_final": 0.0}, "must be positive"),
    ({"lr_schedule": "stages"}, "needs lr_final"),
    ({"lr_schedule": "linear", "lr_final": 1e-4}, "cosine, exponential or stages"),
])  # fmt: skip
def test_invalid_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Given(**options)


# Validation metrics


@pytest.mark.parametrize("sizes", [[3, 3, 1], [1, 6], [7]])
def test_validation_means_are_over_images_not_over_batches_in_float64(validate, sizes):
    values = [16777216.0, 1.0, 1.0, 1.0, -16777216.0, 3.0, 5.0]  # float32 cannot represent 2^24 + 1
    bound = validate(Given(), given(values, sizes))["val/bound"]
    assert bound.dtype == torch.float64
    assert bound.item() == math.fsum(values) / 7


def test_nan_is_kept_in_the_monitored_metric(validate):
    assert validate(Given(), given([1.0, math.nan, 3.0], 1))["val/bound"].isnan()


def test_metrics_are_reset_at_each_validation(fit):
    class Growing(Given):
        def validation_metrics(self, x, y):
            return {"bound": torch.full((len(x),), float(self.current_epoch))}

    assert fit(Growing(), given([1.0, 2.0, 3.0], 2), max_epochs=3).callback_metrics["val/bound"] == 2


@pytest.mark.parametrize("name", MODELS)
def test_each_model_logs_its_declared_metrics(fit, make, binary, name):
    model = make(name)
    logged = fit(model, [binary(8), binary(3)]).callback_metrics
    warms_up = model.hparams.get("objective") == "elbo" and model.hparams.beta_warmup != 0
    training = {"train/loss", "train/lr", *(["train/beta"] if warms_up else [])}
    if name == "GAN":
        training |= {"train/discriminator_loss", "train/d_real", "train/d_fake"}
    assert set(logged) == training | {f"val/{measure}" for measure in model.metric_names}
    assert "bound" in model.metric_names
    assert all(value.isfinite() for value in logged.values())


@pytest.mark.parametrize("name", MODELS)
def test_validation_metrics_have_one_value_per_image(make, binary, name):
    model = make(name)
    measured = model.validation_metrics(*binary(5))
    assert tuple(measured) == tuple(model.metric_names)
    assert all(values.shape == (5,) for values in measured.values())


# Training


@pytest.mark.parametrize("protocol", ["dynamic", "grey"])
def test_an_unsupported_protocol_stops_training_before_the_first_step(make, trainer, loader, binary, protocol):
    data = LightningDataModule()
    data.protocol = protocol
    data.train_dataloader = data.val_dataloader = lambda: loader([binary(2)])
    model = make("VAE")
    with pytest.raises(ValueError, match="the protocol grey: use") if protocol == "grey" else nullcontext():
        trainer().fit(model, data)
    assert model.trainer.global_step == (0 if protocol == "grey" else 1)


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss(make, binary, name):
    # a single image, which every model can learn
    x, y = binary(1)
    model, batch = make(name, lr=2e-2), (x.expand(32, -1, -1, -1), y.expand(32))
    model.trainer = SimpleNamespace(max_epochs=1, max_steps=-1, gradient_clip_val=None)
    optimizers = model.configure_optimizers()
    adam = optimizers[-1] if name == "GAN" else optimizers  # that of the generator
    losses = []
    for _ in range(40):
        loss = model.loss(*batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    # M1M2 samples z1 anew, whose entropy bounds the loss; and noise is no smooth function of coordinates
    assert losses[-1] < {"M1M2": 0.8, "AffineVAE": 0.8}.get(name, 0.5) * losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_reaches_every_parameter(make, binary, name):
    model = make(name, activation="tanh")
    model.loss(*binary(8)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (not key.startswith("m1.")), key
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.any(), key


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_has_not_changed(make, binary, name):
    as_then = {"M1M2": {"m1_options": {"init": "glorot"}, "share_noise": False}, "AE": {}, "M2": {"share_noise": False}}
    model = make(name, **as_then.get(name, {"init": "glorot"}))
    torch.manual_seed(2)
    assert model.loss(*binary(8)).item() == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("name", MODELS)
def test_extreme_images_give_finite_losses_and_gradients(make, binary, name, batch_norm):
    model = make(name, batch_norm=batch_norm)
    x, y = binary(8)
    loss = model.loss(x * 1e4, y)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.trained_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_16_bit_autocast_is_close_to_32_bits(make, binary, name, dtype):
    model, (x, y) = make(name), binary(64)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.manual_seed(3)
    expected = model.loss(x, y)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype):
        loss = model.loss(x, y)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(parameter.grad.isfinite().all() for parameter in model.trained_parameters())


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("name", MODELS)
def test_every_precision_trains(fit, make, binary, name, precision):
    logged = fit(make(name), [binary(8)], precision=precision).callback_metrics
    assert logged["train/loss"].isfinite()
    assert logged["val/bound"].dtype == torch.float64
