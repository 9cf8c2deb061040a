"""The importance-sampled log-likelihood of fixed validation images during training."""

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.base import PowersOfTwoCallback
from callbacks.record import record_metrics
from models.estimators.importance import importance
from models.estimators.passes import samples_per_pass
from runtime.collectives import map_across_ranks

IMAGES = 100  # per pass


class LogLikelihood(PowersOfTwoCallback):
    """Log `val/nll`, the importance-sampled -log p(x) of the first validation images in nats per image, and `val/ess`,
    the median effective sample size.

    Conditional models estimate -log p(x|y).

    Args:
        num_images: Number of validation images.
        num_samples: Number of importance samples per image, K.
    """

    name = "log_likelihood"
    required_method = "log_weights"
    on_all_ranks = True

    def __init__(self, num_images: int = 500, num_samples: int = 100):
        self.num_images, self.num_samples = num_images, num_samples

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("val", self.num_images, model.device)
        parts = list(zip(x.split(IMAGES), y.split(IMAGES), strict=True))
        chunk = samples_per_pass(model, x, *(model.condition_args(y) or (None,)), IMAGES)

        def estimate(part: int) -> dict[str, Tensor]:
            images, labels = parts[part]
            # one seed per part; with a common seed all parts would share their noise
            args = model.condition_args(labels)
            return importance(model, images, self.num_samples, chunk, *args, seed=part)._asdict()

        estimates = map_across_ranks(estimate, len(parts))
        nll, ess = -estimates["log_px"].mean().item(), estimates["ess"].median().item()
        record_metrics(trainer, {"val/nll": nll, "val/ess": ess})
