"""Probes: simple classifiers on posterior means, fitted with the labels of all training images."""

import torch
from torch import Tensor

from evaluation.baselines import array, error
from models import Model, evaluating

CHUNK = 1000  # images per pass
NEIGHBOURS = 5


def can_be_probed(model: Model, y: Tensor) -> bool:
    """Return whether the model encodes images without labels, and the training labels `y` are all known and differ."""
    return model.can("encode") and not model.is_conditional and bool((y >= 0).all()) and len(y.unique()) > 1


def codes(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the posterior means of the images `x`, `(N, d)`."""
    with evaluating(model):
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        return (
            torch.cat([model.encode(part, *model.condition_args(labels)) for part, labels in parts]).flatten(1).double()
        )


def probes(model: Model, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return test errors of 5 nearest neighbours and of logistic regression on posterior means.

    Nearest neighbours use the codes unscaled: under N(0, I) all dimensions have the same scale, and under a learned
    prior distances are those of its latent space. For the regression each dimension is standardised.

    Args:
        model: A model with `can_be_probed`.
        train: All training images and their labels.
        test: Test images and their labels, -1 if unknown. Images of classes that no training image has are left out:
            no classifier could predict them.

    Returns:
        Fields of `Evaluation`; none if codes are not finite or no test image is left.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = torch.isin(test[1], train[1])
    z, z_test = codes(model, *train), codes(model, test[0][known], test[1][known])
    if not len(z_test) or not z.isfinite().all() or not z_test.isfinite().all():
        return {}
    fitted, tested = (array(z), array(train[1])), (array(z_test), array(test[1][known]))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return {
        "knn_error": error(KNeighborsClassifier(min(NEIGHBOURS, len(z))), fitted, tested),
        "probe_error": error(linear, fitted, tested),
    }
