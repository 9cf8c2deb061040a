"""scikit-learn classifiers on pixels and on the latents of an M1, as baselines of semi-supervised models.

scikit-learn is imported inside functions: its import takes 0.2 s, which most commands do not need.
"""

import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from models import M1M2, VAE, Model, evaluating
from models.m1m2 import used_latents

CHUNK = 1000  # images per pass


def has_m1(kind: type[Model]) -> bool:
    """Return whether models of this class are an M1 (a VAE that is not conditional) or contain one."""
    return issubclass(kind, M1M2) or (issubclass(kind, VAE) and not kind.is_conditional)


def can_have_baselines(kind: type[Model]) -> bool:
    """Return whether baselines apply to this class: it classifies, or has latents to fit a classifier on."""
    return has_m1(kind) or kind.can("classify")


def wants_baselines(kind: type[Model], y: Tensor, asked: bool | None) -> bool:
    """Return whether to fit baselines; by default only for classifiers that were trained with few labels.

    Args:
        kind: Class of the model.
        y: Labels of all training images, -1 if unknown.
        asked: The user's choice; None for the default.
    """
    if asked is None:
        return kind.can("classify") and bool((y < 0).any())
    return asked and can_have_baselines(kind)


def on_pixels() -> dict[str, Any]:
    """Return a supervised network of the size of M2's classifier."""
    from sklearn.neural_network import MLPClassifier

    return {"MLP": MLPClassifier((500,), random_state=0)}


def on_latents(labels: int) -> dict[str, Any]:
    """Return classifiers for the latents of an M1.

    Args:
        labels: Number of labelled training images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    return {
        "M1+SVM": SVC(),  # with an RBF kernel
        "M1+logreg": LogisticRegression(max_iter=5000),
        "M1+5-NN": KNeighborsClassifier(min(5, labels)),
    }


def baselines(model: Model, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the test error of each classifier, fitted on the labelled training images only.

    Classifiers on latents use M1's posterior means unscaled: the prior gives all dimensions the same scale, and
    standardising would amplify dimensions that hardly vary. Latents that M1 does not use are left out.

    Args:
        model: An M1, a model that contains one, or any other model, which only gets the classifier on pixels.
        train: All training images and their labels, -1 if unknown.
        test: Test images and their labels, -1 if unknown. Images of classes that no labelled training image has are
            left out: no classifier could predict them.

    Returns:
        Errors by the name of the classifier. There are none on latents if M1 uses no latent, and none at all if fewer
        than two classes are labelled or no test image is left.
    """
    x, y = (part[train[1] >= 0] for part in train)
    x_test, y_test = (part[torch.isin(test[1], y)] for part in test)
    if len(y.unique()) < 2 or not len(y_test):
        return {}
    tasks: list[tuple[dict[str, Any], Tensor, Tensor]] = [(on_pixels(), x.flatten(1), x_test.flatten(1))]
    if has_m1(type(model)):
        m1 = model.m1 if isinstance(model, M1M2) else cast(VAE, model)
        if kept := used_latents(m1, train[0]):
            tasks.append((on_latents(len(y)), latents(m1, x)[:, kept], latents(m1, x_test)[:, kept]))
    return {
        name: error(classifier, (array(fitted), array(y)), (array(tested), array(y_test)))
        for classifiers, fitted, tested in tasks
        for name, classifier in classifiers.items()
    }


def latents(m1: VAE, x: Tensor) -> Tensor:
    """Return the posterior means of the images `x`, `(N, z_dim)`."""
    with evaluating(m1):
        return torch.cat([m1.encode(part) for part in x.split(CHUNK)]).double()


def array(values: Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array for scikit-learn."""
    return values.cpu().numpy()


def error(classifier, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Fit a classifier on the training images and return its error on the test images, a fraction."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the 200 epochs of MLPClassifier may be too few
        classifier.fit(*train)
    return float((classifier.predict(test[0]) != test[1]).mean())
