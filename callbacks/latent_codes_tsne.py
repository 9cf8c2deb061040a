"""A t-SNE plot of the latent codes of test images."""

from typing import Any

import torch
from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.codes import are_constant, codes_of_test_images
from callbacks.latent_codes import MIN_POINTS
from callbacks.titles import class_names, subject
from figures import charts
from models import Model


class LatentCodesTSNE(FigureCallback):
    """Draw the latent codes of up to 2000 test images, coloured by label, by t-SNE (van der Maaten & Hinton 2008).

    t-SNE preserves neighbourhoods, not distances. It takes longer than all other figures, so it runs only on request.
    """

    name = "latent_codes_tsne"
    required_method = "encode"
    by_default = False

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        if (reason := super().unsupported_reason(model)) or model.latent_dim > 2:
            return reason
        return (
            f"t-SNE needs a code of more than 2 dimensions; this {type(model).__name__} has {model.latent_dim}: "
            f"leave {cls.name} out, and use latent_codes, which plots 2 dimensions directly."
        )

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        if len(z) < MIN_POINTS or are_constant(z):
            return {}
        from sklearn.manifold import TSNE  # imported here for a fast start: see `in_plane`

        tsne = TSNE(init="pca", perplexity=min(30, (len(z) - 1) / 3), random_state=0)
        points = torch.from_numpy(tsne.fit_transform(z.cpu().numpy()))
        panel = charts.Panel(points, f"Codes of {len(z):,} test images by t-SNE", "t-SNE 1", "t-SNE 2", ticks=False)
        return {
            "latent_codes_tsne": charts.scatter([panel], y, class_names(data, int(y.max()) + 1), subject(model, data))
        }
