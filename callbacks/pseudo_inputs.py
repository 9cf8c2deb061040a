"""The pseudo-inputs of a VampPrior with their weights, during training."""

from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.titles import class_names, subject
from figures import grids
from models import Model
from models.priors import VampPrior

MASS = 0.99  # the title says how many components have this share of the weight


def percent(weight: float) -> str:
    """Return a weight as a percentage with two digits."""
    if weight < 1e-5:
        return "< 0.001%"
    return f"{100 * weight:.0f}%" if weight >= 0.095 else f"{100 * weight:#.2g}%"


def number_with_mass(weights: Tensor, mass: float = MASS) -> int:
    """Return how many of the largest weights it takes for their sum to be `mass`."""
    total = weights.double().sort(descending=True).values.cumsum(0)
    return min(len(weights), int((total < mass * total[-1]).sum()) + 1)


def weights_text(weights: Tensor, shown: int, noun: str) -> str:
    """Return which of the components are shown, and how many of them have most of the weight, for a title."""
    count, enough = len(weights), number_with_mass(weights)
    which = f"All {count}" if shown == count else f"{shown} of {count}"
    return (
        f"{which} {noun}, largest weights first; {enough} {'has' if enough == 1 else 'have'} {MASS:.0%} of the weight"
    )


class PseudoInputs(FigureCallback):
    """Draw the pseudo-inputs of a VampPrior, sorted by weight, with their weights and, if they have them, labels.

    Args:
        num_images: Maximum number of pseudo-inputs, ten per row.
    """

    name = "pseudo_inputs"
    required_method = "prior"

    def __init__(self, num_images: int = 100):
        self.num_images = num_images

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        if isinstance(getattr(model, "z_prior", None), VampPrior):
            return super().unsupported_reason(model)
        return (
            f"Pseudo-inputs belong to --model.prior vamp, which this {type(model).__name__} does not have: leave "
            f"{cls.name} out, or choose this prior."
        )

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        prior: Any = model.z_prior  # a VampPrior
        weights = prior.weight_logits.float().softmax(0)
        if not weights.isfinite().all():
            return {}
        order = weights.argsort(descending=True, stable=True)[: self.num_images]
        captions = [percent(weight) for weight in weights[order].tolist()]
        if prior.labels is not None:
            names = class_names(data, model.hparams.num_classes)
            labels = [names[label][:8] for label in prior.labels[order].tolist()]
            captions = [f"{label}: {weight}" for label, weight in zip(labels, captions, strict=True)]
        title = f"{weights_text(weights, len(order), 'pseudo-inputs')}\n{subject(model, data)}"
        return {"pseudo_inputs": grids.captioned(prior.pseudo_inputs[order], captions, title)}
