"""Several models of the same architecture, trained together as one batched model."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.base import OPTIMIZERS, Model


class Loss(nn.Module):
    """The loss of a model as a module, for `functional_call`."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model.loss(x, y)


def norm_statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the running statistics of the batch norm layers that are trained, by name."""
    for prefix, layer in module.named_modules():
        is_trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and is_trained:
            for name, buffer in layer.named_buffers(recurse=False):
                yield f"{prefix}.{name}", buffer


def check_same_buffers(models: Sequence[Model], statistics: Iterable[str]) -> None:
    """Raise ValueError if the models differ in a buffer other than the given statistics of batch norm."""
    first, *others = [dict(Loss(model).named_buffers()) for model in models]
    for name in first.keys() - set(statistics):
        if not all(torch.equal(first[name], other[name]) for other in others):
            raise ValueError(
                f"Models that differ in {name.removeprefix('model.')} cannot be trained as one batched model: train "
                "them one at a time."
            )


class Ensemble:
    """Models that differ in the values of their trained parameters only, with one pass for all of them.

    Small models do not keep a GPU busy: a step of D of them takes hardly longer than a step of one. Each model has its
    own batches and its own gradient; all share the noise, which is that of a model trained alone with the same random
    state. So each equals the model trained alone, up to rounding.

    Args:
        models: D models of the same class and options, on one device.
    """

    def __init__(self, models: Sequence[Model]):
        self.models = models
        self.module = Loss(models[0]).train()
        named = [dict(Loss(model).named_parameters()) for model in models]
        self.parameters = {
            name: torch.stack([each[name].detach() for each in named]).requires_grad_()  # (D, ...)
            for name, parameter in named[0].items()
            if parameter.requires_grad
        }
        # Training changes not only parameters but also the running statistics of batch norm.
        statistics = [dict(norm_statistics(Loss(model))) for model in models]
        check_same_buffers(models, statistics[0])
        self.statistics = {name: torch.stack([each[name] for each in statistics]) for name in statistics[0]}

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each model on its batch, `(D,)`. The gradient of the sum is the gradient of each.

        Args:
            x: Images or features, `(D, B, ...)`.
            y: Labels `(D, B)`.
        """
        return vmap(self._loss_of_one, randomness="same")(self.parameters, self.statistics, x, y)

    def _loss_of_one(
        self, parameters: dict[str, Tensor], statistics: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        return functional_call(self.module, (parameters, statistics), (x, y))

    def make_optimizer(self, capturable: bool = False) -> torch.optim.Adam:
        """Return the optimizer of the parameters of all models, with the options of the models.

        Args:
            capturable: Allow steps to be captured in a CUDA graph; the learning rate is then a tensor.
        """
        options = self.models[0].hparams
        parameters = list(self.parameters.values())
        lr = torch.tensor(options.lr, device=parameters[0].device) if capturable else options.lr
        return OPTIMIZERS[options.optimizer](
            parameters,
            lr=lr,
            eps=options.adam_eps,
            weight_decay=options.weight_decay,
            fused=True,
            capturable=capturable,
        )

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy parameters and running statistics into the models."""
        for index, model in enumerate(self.models):
            loss = Loss(model)
            for name, value in [*loss.named_parameters(), *norm_statistics(loss)]:
                if name in self.state():
                    value.copy_(self.state()[name][index])

    def state(self) -> dict[str, Tensor]:
        """Return parameters and running statistics of all models, `(D, ...)`, by name."""
        return self.parameters | self.statistics
