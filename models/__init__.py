"""Models, their networks, bounds and estimators. `load` opens a checkpoint; `MODELS` is the registry of models."""

from pathlib import Path

from models import checkpoints
from models.adgm import ADGM, SDGM
from models.ae import AE
from models.affine import AffineVAE
from models.base import Model, evaluating
from models.cvae import CVAE
from models.draw import DRAW
from models.gan import GAN
from models.gmmn import GMMN
from models.hierarchical import HierarchicalVAE
from models.implicit import ImplicitModel
from models.iwae import IWAE
from models.ladder import LadderVAE
from models.latent_variable import LatentVariableModel
from models.m1m2 import M1M2
from models.m2 import M2
from models.networks import DECODERS, ENCODERS
from models.vae import VAE

__all__ = [
    "ADGM",
    "AE",
    "CVAE",
    "DECODERS",
    "DRAW",
    "ENCODERS",
    "GAN",
    "GMMN",
    "IWAE",
    "M1M2",
    "M2",
    "MODELS",
    "SDGM",
    "VAE",
    "AffineVAE",
    "HierarchicalVAE",
    "ImplicitModel",
    "LadderVAE",
    "LatentVariableModel",
    "Model",
    "evaluating",
    "from_checkpoint",
    "load",
    "read_checkpoint",
]

MODELS: dict[str, type[Model]] = {
    model.__name__: model
    for model in (
        AE,
        VAE,
        IWAE,
        AffineVAE,
        HierarchicalVAE,
        LadderVAE,
        DRAW,
        CVAE,
        M2,
        M1M2,
        ADGM,
        SDGM,
        GMMN,
        GAN,
    )
}


def read_checkpoint(path: str | Path) -> dict:
    """Return the contents of a checkpoint of this project, without running any code from it.

    Raises:
        ValueError: If there is no such file, or it is no checkpoint of this project.
    """
    checkpoint = checkpoints.read(path)
    if str(checkpoint.get("model")) not in MODELS:
        raise ValueError(
            f"{path} is not a checkpoint of this project: it names none of the models {', '.join(MODELS)}."
        )
    return checkpoint


def load(path: str | Path) -> Model:
    """Return the trained model in a checkpoint, in evaluation mode, on the CPU.

    >>> model = models.load("runs/my-run")  # its best.ckpt
    >>> images = model.sample(16)  # (16, C, H, W) in [0, 1]

    Args:
        path: A .ckpt file, a run folder, or a W&B artifact, wandb:ENTITY/PROJECT/ARTIFACT:ALIAS.

    Raises:
        ValueError: If there is no such file or artifact, or it is no checkpoint of this project.
    """
    path = checkpoints.find(path)
    return from_checkpoint(read_checkpoint(path), path)


def from_checkpoint(checkpoint: dict, path: str | Path = "The checkpoint") -> Model:
    """Return the model in the contents of a checkpoint.

    Args:
        checkpoint: Contents, from `read_checkpoint`.
        path: Where it comes from, for messages.

    Raises:
        ValueError: If options or weights do not fit this version of the model, or weights are not finite.
    """
    name = checkpoint["model"]
    try:
        if lacking := [key for key in checkpoints.WEIGHTS if key not in checkpoint]:
            raise ValueError(f"it lacks {' and '.join(lacking)}")
        checkpoints.check_image_shape(checkpoint["hyper_parameters"])
        model = MODELS[name](**MODELS[name].older_defaults | checkpoint["hyper_parameters"])
        checkpoints.check_weights(checkpoint["state_dict"], model.state_dict())
        model.load_state_dict(checkpoint["state_dict"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} does not fit this version of {name}: {reason}.") from error
    model.trained_epochs = checkpoint["epoch"] + 1 if "epoch" in checkpoint else None  # for titles of figures
    return model.eval()
