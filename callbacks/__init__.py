"""Trainer callbacks: figures, estimates, checkpoints, noise, progress.

`CALLBACKS` is the registry of the callbacks that `--callbacks` selects by name; `for_model` returns those that a model
supports.
"""

from collections.abc import Sequence

from callbacks.active_units import ActiveUnits
from callbacks.analogies import Analogies
from callbacks.attributes import Attributes
from callbacks.base import FigureCallback, PowersOfTwoCallback
from callbacks.canonical import Canonical
from callbacks.canvas_steps import CanvasSteps
from callbacks.checkpoint import RunCheckpoint
from callbacks.class_samples import ClassSamples
from callbacks.confusion_matrix import ConfusionMatrix
from callbacks.early_stopping import EarlyStopping
from callbacks.ema import EMA
from callbacks.error_curve import ErrorCurve
from callbacks.graceful_stop import GracefulStop
from callbacks.interpolations import Interpolations
from callbacks.latent_codes import LatentCodes
from callbacks.latent_codes_tsne import LatentCodesTSNE
from callbacks.latent_plane import LatentPlane
from callbacks.layer_samples import LayerSamples
from callbacks.log_likelihood import LogLikelihood
from callbacks.mode_collapse import ModeCollapse
from callbacks.nan_guard import NaNGuard
from callbacks.nearest_neighbours import NearestNeighbours
from callbacks.prior_components import PriorComponents
from callbacks.progress import Progress
from callbacks.pseudo_inputs import PseudoInputs
from callbacks.reconstructions import Reconstructions
from callbacks.samples import Samples
from callbacks.start import RunStart
from callbacks.step_rng import StepRNG
from callbacks.traversals import Traversals
from models import Model
from runtime.checkpoint_io import FileIO

__all__ = [
    "CALLBACKS",
    "EMA",
    "ActiveUnits",
    "Analogies",
    "Attributes",
    "Canonical",
    "CanvasSteps",
    "ClassSamples",
    "ConfusionMatrix",
    "EarlyStopping",
    "ErrorCurve",
    "FigureCallback",
    "FileIO",
    "GracefulStop",
    "Interpolations",
    "LatentCodes",
    "LatentCodesTSNE",
    "LatentPlane",
    "LayerSamples",
    "LogLikelihood",
    "ModeCollapse",
    "NaNGuard",
    "NearestNeighbours",
    "PowersOfTwoCallback",
    "PriorComponents",
    "Progress",
    "PseudoInputs",
    "Reconstructions",
    "RunCheckpoint",
    "RunStart",
    "Samples",
    "StepRNG",
    "Traversals",
    "for_model",
]

CALLBACKS: dict[str, type[PowersOfTwoCallback]] = {
    callback.name: callback
    for callback in (
        Reconstructions,
        Samples,
        LayerSamples,
        CanvasSteps,
        NearestNeighbours,
        Interpolations,
        ActiveUnits,
        ModeCollapse,
        LogLikelihood,
        LatentCodes,
        LatentCodesTSNE,
        LatentPlane,
        Traversals,
        PseudoInputs,
        PriorComponents,
        Attributes,
        Canonical,
        Analogies,
        ClassSamples,
        ConfusionMatrix,
        ErrorCurve,
    )
}


def for_model(model: Model, names: Sequence[str] | None = None) -> list[PowersOfTwoCallback]:
    """Return the callbacks for a model.

    Args:
        model: The model.
        names: Keys of `CALLBACKS`; by default every default callback that the model supports.

    Raises:
        ValueError: A name is unknown, or the model does not support its callback.
    """
    if names is None:
        return [
            callback()
            for callback in CALLBACKS.values()
            if callback.is_default_for(model) and callback.unsupported_reason(model) is None
        ]
    for name in names:
        if name not in CALLBACKS:
            raise ValueError(f"Unknown callback '{name}': choose from {', '.join(CALLBACKS)}.")
        if reason := CALLBACKS[name].unsupported_reason(model):
            raise ValueError(reason)
    return [CALLBACKS[name]() for name in names]
