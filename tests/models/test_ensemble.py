"""Models in one batched model have the losses and gradients of models alone."""

import pytest
import torch

from models.ensemble import Ensemble

D, B = 3, 6
LABELS = torch.tensor([0, -1, 1, -1, 2, -1])


def models_of(make, name, **options):
    """D models of different weights, in double precision."""
    return [make(name, seed=seed, **options).double().train() for seed in range(D)]


def batches(name):
    shape = (D, B, 6) if name == "M1M2" else (D, B, 1, 8, 8)  # mean and scale of the features, or images
    x = torch.rand(shape, dtype=torch.float64)
    return x if name == "M1M2" else x.round(), torch.stack([LABELS.roll(shift) for shift in range(D)])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("name", "network"), [("M2", "mlp"), ("M2", "conv"), ("M2", "resnet"), ("M1M2", "mlp")])
def test_losses_and_gradients_are_those_of_each_model_alone(make, name, network, batch_norm):
    networks = {} if network == "mlp" else {"encoder": network, "decoder": network}
    models, (x, y) = models_of(make, name, batch_norm=batch_norm, **networks), batches(name)
    stacked = Ensemble(models)
    torch.manual_seed(5)
    losses = stacked.loss(x, y)
    losses.sum().backward()
    for index, model in enumerate(models):
        torch.manual_seed(5)
        loss = model.loss(x[index], y[index])
        loss.backward()
        torch.testing.assert_close(losses[index], loss)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(stacked.parameters[f"model.{key}"].grad[index], parameter.grad)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_steps_of_adam_are_those_of_each_model_alone_and_are_written_back(make, batch_norm):
    name, options = "M2", {"batch_norm": batch_norm, "lr": 1e-2, "weight_decay": 0.1, "adam_eps": 1e-4}
    models, alone = (models_of(make, name, **options) for _ in range(2))
    stacked, (x, y) = Ensemble(models), batches(name)
    optimizer = stacked.make_optimizer()
    optimizers = [
        torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-4, weight_decay=0.1) for model in alone
    ]  # fmt: skip
    for seed in range(4):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        stacked.loss(x, y).sum().backward()
        optimizer.step()
        for index, model in enumerate(alone):
            torch.manual_seed(seed)
            optimizers[index].zero_grad()
            model.loss(x[index], y[index]).backward()
            optimizers[index].step()
    stacked.write_back()
    for model, other in zip(models, alone, strict=True):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name])


FLOW = {"posterior": "flow", "posterior_hidden": [8], "posterior_context": 3}


@pytest.mark.parametrize("options", [{"prior": "mixture", "posterior": "full"}, {"prior": "mixture", **FLOW}])
def test_models_with_learned_priors_and_posteriors_are_stacked(make, options):
    models, (x, y) = models_of(make, "M2", **options), batches("M2")
    torch.manual_seed(5)
    losses = Ensemble(models).loss(x, y)
    for index, model in enumerate(models):
        torch.manual_seed(5)
        torch.testing.assert_close(losses[index], model.loss(x[index], y[index]))


def test_models_whose_pseudo_inputs_have_other_labels_are_refused(make):
    models = models_of(make, "M2", prior="vamp", prior_components=4)
    assert Ensemble(models).loss(*batches("M2")).isfinite().all()
    models[1].z_prior.labels += 1
    with pytest.raises(ValueError, match=r"^Models that differ in z_prior\.labels cannot be trained as one batched"):
        Ensemble(models)
