"""What happens around training: figures, estimates, checkpoints, noise, progress. `CALLBACKS` knows those that look at
the model by name; `for_model` picks the ones that a model supports."""

from collections.abc import Sequence

from callbacks.analogies import Analogies
from callbacks.checkpoint import RunCheckpoint
from callbacks.class_samples import ClassSamples
from callbacks.confusion_matrix import ConfusionMatrix
from callbacks.error_curve import ErrorCurve
from callbacks.interpolations import Interpolations
from callbacks.latent_space import LatentSpace
from callbacks.log_likelihood import LogLikelihood
from callbacks.noise import StepNoise
from callbacks.progress import Progress
from callbacks.reconstructions import Reconstructions
from callbacks.samples import Samples
from callbacks.schedule import Scheduled
from models import Model

__all__ = ["CALLBACKS", "Analogies", "ClassSamples", "ConfusionMatrix", "ErrorCurve", "Interpolations", "LatentSpace",
           "LogLikelihood", "Progress", "Reconstructions", "RunCheckpoint", "Samples", "Scheduled", "StepNoise",
           "for_model"]  # fmt: skip

CALLBACKS: dict[str, type[Scheduled]] = {
    "reconstructions": Reconstructions,
    "samples": Samples,
    "interpolations": Interpolations,
    "latent_statistics": LatentSpace,
    "log_likelihood": LogLikelihood,
    "analogies": Analogies,
    "class_samples": ClassSamples,
    "confusion_matrix": ConfusionMatrix,
    "error": ErrorCurve,
}


def for_model(model: Model, names: Sequence[str] | None = None) -> list[Scheduled]:
    """The callbacks called `names`; without names, every one that the model supports.

    Raises:
        ValueError: A name is unknown, or the model lacks the method that the callback needs.
    """
    if names is None:
        return [callback() for callback in CALLBACKS.values() if hasattr(model, callback.needs)]
    for name in names:
        if name not in CALLBACKS:
            raise ValueError(f"Unknown callback '{name}': choose from {', '.join(CALLBACKS)}.")
        if not hasattr(model, CALLBACKS[name].needs):
            raise ValueError(
                f"{type(model).__name__} has no {name.replace('_', ' ')}: it defines no {CALLBACKS[name].needs}(); "
                f"leave {name} out of --callbacks, or choose another model."
            )
    return [CALLBACKS[name]() for name in names]
