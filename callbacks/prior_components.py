"""The components of a mixture prior, decoded, with their weights, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.pseudo_inputs import percent, weights_text
from callbacks.titles import class_names, many_classes, subject
from figures import grids
from figures.subsets import evenly_spaced
from models import HierarchicalVAE, Model
from models.priors import MixturePrior

MAX_ROWS = 10  # components of a conditional model, one row each


def as_codes(model: Model, z: Tensor) -> Tensor:
    """Return codes that `decode` takes for latents `(n, d)` of the prior; in a hierarchy, with the means of z_1."""
    return model.first_layer_mean(z) if isinstance(model, HierarchicalVAE) else z


class PriorComponents(FigureCallback):
    """Draw the decoded means of the Gaussians of a mixture prior, sorted by weight, with their weights.

    A conditional model decodes each mean with every label, one row each.

    Args:
        num_images: Maximum number of components.
    """

    name = "prior_components"
    required_method = "decode"

    def __init__(self, num_images: int = 100):
        self.num_images = num_images

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        if isinstance(getattr(model, "z_prior", None), MixturePrior):
            return super().unsupported_reason(model)
        return (
            f"Components with means belong to --model.prior mixture, which this {type(model).__name__} does not have: "
            f"leave {cls.name} out, or choose this prior."
        )

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        prior: Any = model.z_prior  # a MixturePrior
        weights = prior.weight_logits.float().softmax(0)
        if not weights.isfinite().all():
            return {}
        most = min(self.num_images, MAX_ROWS) if model.is_conditional else self.num_images
        order = weights.argsort(descending=True, stable=True)[:most]
        z, captions = as_codes(model, prior.means[order]), [percent(weight) for weight in weights[order].tolist()]
        text = weights_text(weights, len(order), "component means of the prior")
        if not model.is_conditional:
            title = f"{text}\n{subject(model, data)}"
            return {"prior_components": grids.captioned(model.decode(z), captions, title)}
        count = model.hparams.num_classes
        shown = evenly_spaced(count, grids.MAX_CLASSES)
        # one component at a time bounds memory
        images = torch.cat([model.decode(part[:, None], shown[None].to(part.device)) for part in z.split(1)])
        classes = class_names(data, count)
        title = f"{text}{many_classes(count, shown.tolist())}\n{subject(model, data)}"
        columns = [classes[label] for label in shown.tolist()]
        return {"prior_components": grids.image_grid(images, captions, columns, title)}
