"""--model.optimizer: steps against the formulas of the papers, and the options of a resumed run."""

import pytest
import torch
from small_runs import command, contents
from torch.optim.optimizer import register_optimizer_step_pre_hook

import train


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", ["VAE", "GAN"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step(fit, make, binary, kind, optimizer):
    """The first step of Adam is -lr g / (|g| + eps); weight decay is part of g in adam and separate in adamw."""
    lr, decay, eps = 1e-2, 0.1, 1e-3
    model = make(kind, optimizer=optimizer, weight_decay=decay, lr=lr, adam_eps=eps)
    parameters = model.trained_parameters() if kind == "VAE" else list(model.discriminator.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    gradients = []

    def record(*_):
        if not gradients and parameters[0].grad is not None:
            gradients.extend(parameter.grad.clone() for parameter in parameters)

    handle = register_optimizer_step_pre_hook(record)
    model.on_before_optimizer_step = record  # where the gradients of automatic optimization are known
    model.on_train_batch_end = lambda *_: after or after.extend(p.detach().clone() for p in parameters)
    after = []
    try:
        fit(model, [binary(8)])
    finally:
        handle.remove()
    for w, g, new in zip(before, gradients, after, strict=True):
        if optimizer == "adam":
            g = g + decay * w
            expected = w - lr * g / (g.abs() + eps)
        else:
            expected = w * (1 - lr * decay) - lr * g / (g.abs() + eps)
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_uses_its_own_optimizer():
    adam, adamw = (["--model.weight_decay", "0.1", "--model.optimizer", name] for name in ("adam", "adamw"))
    assert train.main(command("a", "VAE", *adam)) == 0
    (group,) = contents("a")["optimizer_states"][0]["param_groups"]
    assert not group["decoupled_weight_decay"]
    assert train.main(command("a", "VAE", *adamw, "--trainer.max_epochs", "4", "--allow_changes")) == 0
    (group,) = contents("a")["optimizer_states"][0]["param_groups"]
    assert group["decoupled_weight_decay"]
