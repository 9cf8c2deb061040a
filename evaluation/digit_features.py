"""Features of images for Fréchet and kernel distances: a small classifier of the data's own classes.

The usual features are those of an Inception network, trained on natural images, whose weights are not part of this
project. Distances in other features are not comparable with published FID or KID values.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.base import evaluating

FEATURES = 64
CHANNELS = (16, 32)
EPOCHS = 3
BATCH = 100
MAX_TRAIN_IMAGES = 30_000
LEARNING_RATE = 2e-3
IMAGES_PER_PASS = 500


class DigitClassifier(nn.Module):
    """Classifier: two strided convolutions, a hidden layer of `FEATURES` units, and one logit for each class.

    Args:
        image_shape: Channels, height and width.
        num_classes: Number of classes.
    """

    def __init__(self, image_shape: tuple[int, ...], num_classes: int):
        super().__init__()
        channels, height, width = image_shape
        first, second = CHANNELS
        cells = ((height + 3) // 4) * ((width + 3) // 4)
        self.body = nn.Sequential(
            nn.Conv2d(channels, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * cells, FEATURES),
            nn.BatchNorm1d(FEATURES, affine=False),  # features of training images have mean 0 and variance 1
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all classes, `(B, num_classes)`."""
        return self.head(self.body(x))


class Features(nn.Module):
    """The feature extractor that the metrics of torchmetrics take: features in float64, `(B, FEATURES)`.

    Features are the standardised units of the last hidden layer before its ReLU: units that are 0 for all images would
    make the covariance singular, and the kernel distance depends on their scale.
    """

    num_features = FEATURES  # torchmetrics would otherwise pass an image of 299 x 299 pixels to find it

    def __init__(self, classifier: DigitClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.classifier.body(part) for part in x.split(IMAGES_PER_PASS)]).double()


def train_classifier(x: Tensor, y: Tensor, num_classes: int, seed: int = 0) -> DigitClassifier:
    """Return a classifier trained on images, the same bits for the same images and labels.

    It is trained on the CPU in one thread, because the number of threads changes the rounding.

    Args:
        x: Training images `(N, C, H, W)`; at most `MAX_TRAIN_IMAGES` of them are used.
        y: Their labels `(N,)`.
        num_classes: Number of classes.
        seed: Seed of the weights and of the order of images.
    """
    x, y = x[:MAX_TRAIN_IMAGES].cpu(), y[:MAX_TRAIN_IMAGES].cpu()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([]), torch.enable_grad():
            torch.manual_seed(seed)
            model = DigitClassifier(tuple(x.shape[1:]), num_classes)
            fit(model, x, y)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def fit(model: DigitClassifier, x: Tensor, y: Tensor) -> None:
    """Train with Adam for `EPOCHS`, or at least 500 steps, with a learning rate that falls to 0 as a cosine."""
    steps_per_epoch = -(-len(x) // BATCH)
    epochs = max(EPOCHS, -(-500 // steps_per_epoch))
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs * steps_per_epoch)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = cross_entropy(model(x[batch]), y[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()


def to_arrays(model: DigitClassifier) -> dict[str, np.ndarray]:
    """Return the weights of a classifier as arrays, for the cache."""
    return {name: values.numpy() for name, values in model.state_dict().items()}


def from_arrays(arrays: dict[str, np.ndarray], image_shape: tuple[int, ...], num_classes: int) -> DigitClassifier:
    """Return the classifier with weights from `to_arrays`."""
    model = DigitClassifier(image_shape, num_classes)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()})
    return model.eval()


def predicted_classes(model: DigitClassifier, x: Tensor) -> Tensor:
    """Return the most probable class of each image, `(B,)`."""
    with evaluating(model):
        return torch.cat([model(part).argmax(1) for part in x.split(IMAGES_PER_PASS)])
