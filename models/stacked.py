"""Several models of the same architecture, trained together as one batched model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.base import Model


class Loss(nn.Module):
    """The loss of a model as a module, for `functional_call`."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model.loss(x, y)


class StackedModels:
    """Models that differ in the values of their trained parameters only, with one pass for all of them.

    Small models do not keep a GPU busy: a step of D of them takes hardly longer than a step of one. Each model has its
    own batches and its own gradient; all share the noise, which is that of a model trained alone with the same random
    state. So each equals the model trained alone, up to rounding.

    Args:
        models: D models of the same class and options, on one device.

    Raises:
        ValueError: If the models cannot be trained together.
    """

    def __init__(self, models: Sequence[Model]):
        if models[0].has_batch_norm:
            raise ValueError("Models with batch norm cannot be trained together: train them one by one.")
        self.models = models
        self.module = Loss(models[0]).train()
        named = [dict(Loss(model).named_parameters()) for model in models]
        self.parameters = {
            name: torch.stack([each[name].detach() for each in named]).requires_grad_()  # (D, ...)
            for name, parameter in named[0].items()
            if parameter.requires_grad
        }

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each model on its batch, `(D,)`. The gradient of the sum is the gradient of each.

        Args:
            x: Images or features, `(D, B, ...)`.
            y: Labels `(D, B)`.
        """
        return vmap(self._loss_of_one, randomness="same")(self.parameters, x, y)

    def _loss_of_one(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional_call(self.module, parameters, (x, y))

    def make_optimizer(self, capturable: bool = False) -> torch.optim.Adam:
        """Return Adam for the parameters of all models, with the options of the models.

        Args:
            capturable: Allow steps to be captured in a CUDA graph; the learning rate is then a tensor.
        """
        options = self.models[0].hparams
        parameters = list(self.parameters.values())
        lr = torch.tensor(options.lr, device=parameters[0].device) if capturable else options.lr
        return torch.optim.Adam(
            parameters,
            lr=lr,
            eps=options.adam_eps,
            weight_decay=options.weight_decay,
            fused=True,
            capturable=capturable,
        )

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the parameters into the models."""
        for index, model in enumerate(self.models):
            for name, parameter in Loss(model).named_parameters():
                if name in self.parameters:
                    parameter.copy_(self.parameters[name][index])
