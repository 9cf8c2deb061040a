"""The log-likelihood of fixed validation images during training."""

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.base import PowersOfTwoCallback
from callbacks.record import record_metrics
from models.estimators.importance import MAX_DECODER_ROWS, importance
from runtime.collectives import map_across_ranks

IMAGES = 100  # per pass


class LogLikelihood(PowersOfTwoCallback):
    """Logs `val/nll`, the importance-sampled -log p(x) (of a conditional model -log p(x|y)) of the first validation
    images in nats per image, and `val/ess`, the median effective sample size.

    Args:
        num_images: Images to estimate.
        num_samples: Samples per image.
    """

    name = "log_likelihood"
    required_method = "log_weights"
    on_all_ranks = True

    def __init__(self, num_images: int = 500, num_samples: int = 100):
        self.num_images, self.num_samples = num_images, num_samples

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("val", self.num_images, model.device)
        parts = list(zip(x.split(IMAGES), y.split(IMAGES), strict=True))
        chunk = max(1, MAX_DECODER_ROWS // IMAGES // model.decoder_cost)

        def estimate(part: int) -> dict[str, Tensor]:
            images, labels = parts[part]
            # a seed for each part, or all parts would share their noise
            return importance(
                model, images, self.num_samples, chunk, *model.condition_args(labels), seed=part
            )._asdict()

        found = map_across_ranks(estimate, len(parts))
        record_metrics(trainer, {"val/nll": -found["log_px"].mean().item(), "val/ess": found["ess"].median().item()})
