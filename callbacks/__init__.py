"""What happens around training: figures, estimates, checkpoints, noise, progress. `CALLBACKS` knows those that look at
the model by name; `for_model` picks the ones that a model supports."""

from collections.abc import Sequence

from callbacks.active_units import LatentSpace
from callbacks.analogies import Analogies
from callbacks.attributes import Attributes
from callbacks.base import FigureCallback, PowersOfTwoCallback
from callbacks.canonical import Canonical
from callbacks.checkpoint import RunCheckpoint
from callbacks.class_samples import ClassSamples
from callbacks.confusion_matrix import ConfusionMatrix
from callbacks.early_stopping import EarlyStopping
from callbacks.error_curve import ErrorCurve
from callbacks.graceful_stop import Interruption
from callbacks.interpolations import Interpolations
from callbacks.latent_codes import LatentCodes
from callbacks.latent_codes_tsne import LatentCodesTSNE
from callbacks.latent_plane import LatentPlane
from callbacks.log_likelihood import LogLikelihood
from callbacks.nan_guard import Divergence
from callbacks.progress import Progress
from callbacks.reconstructions import Reconstructions
from callbacks.samples import Samples
from callbacks.start import RunStart
from callbacks.step_rng import StepNoise
from callbacks.traversals import Traversals
from models import Model
from runtime.checkpoint_io import FileIO

__all__ = [
    "CALLBACKS",
    "Analogies",
    "Attributes",
    "Canonical",
    "ClassSamples",
    "ConfusionMatrix",
    "Divergence",
    "EarlyStopping",
    "ErrorCurve",
    "FigureCallback",
    "FileIO",
    "Interpolations",
    "Interruption",
    "LatentCodes",
    "LatentCodesTSNE",
    "LatentPlane",
    "LatentSpace",
    "LogLikelihood",
    "PowersOfTwoCallback",
    "Progress",
    "Reconstructions",
    "RunCheckpoint",
    "RunStart",
    "Samples",
    "StepNoise",
    "Traversals",
    "for_model",
]  # fmt: skip

CALLBACKS: dict[str, type[PowersOfTwoCallback]] = {
    callback.name: callback
    for callback in (
        Reconstructions,
        Samples,
        Interpolations,
        LatentSpace,
        LogLikelihood,
        LatentCodes,
        LatentCodesTSNE,
        LatentPlane,
        Traversals,
        Attributes,
        Canonical,
        Analogies,
        ClassSamples,
        ConfusionMatrix,
        ErrorCurve,
    )
}


def for_model(model: Model, names: Sequence[str] | None = None) -> list[PowersOfTwoCallback]:
    """The callbacks called `names`; without names, every one that the model supports and that is one by default.

    Raises:
        ValueError: A name is unknown, or its callback cannot serve the model.
    """
    if names is None:
        return [kind() for kind in CALLBACKS.values() if kind.by_default and kind.unsupported_reason(model) is None]
    for name in names:
        if name not in CALLBACKS:
            raise ValueError(f"Unknown callback '{name}': choose from {', '.join(CALLBACKS)}.")
        if objection := CALLBACKS[name].unsupported_reason(model):
            raise ValueError(objection)
    return [CALLBACKS[name]() for name in names]
