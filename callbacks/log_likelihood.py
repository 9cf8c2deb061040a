"""The log-likelihood of fixed validation images during training."""

import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.record import record_metrics
from callbacks.schedule import Scheduled
from models.estimators import importance

CHUNK = 100  # images per pass, times the samples of each


class LogLikelihood(Scheduled):
    """Logs `val/nll`, the importance-sampled -log p(x) (of a conditional model -log p(x|y)) of the first validation
    images in nats per image, and `val/ess`, the median effective sample size.

    Args:
        num_images: Images to estimate.
        num_samples: Samples per image.
    """

    name = "log_likelihood"
    needs = "log_weights"

    def __init__(self, num_images: int = 500, num_samples: int = 100):
        self.num_images, self.num_samples = num_images, num_samples

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("val", self.num_images, model.device)
        chunk = max(1, CHUNK // model.rows_per_sample)
        parts = [
            # a seed for each part, or all parts would share their noise
            importance(model, part, self.num_samples, chunk, *model.given(labels), seed=seed)
            for seed, (part, labels) in enumerate(zip(x.split(CHUNK), y.split(CHUNK), strict=True))
        ]
        log_px, ess = (torch.cat([getattr(part, name) for part in parts]) for name in ("log_px", "ess"))
        record_metrics(trainer, {"val/nll": -log_px.mean().item(), "val/ess": ess.median().item()})
