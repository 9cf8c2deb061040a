"""Classifiers of scikit-learn, on pixels and on the latents of an M1: what a semi-supervised model has to beat.

scikit-learn is imported where it is used: a fifth of a second that most commands need not wait.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from models import M1M2, VAE, Model, evaluating
from models.m1m2 import used_latents

CHUNK = 1000  # images per pass


def has_m1(kind: type[Model]) -> bool:
    """Whether models of this class are an M1, a VAE that is given no labels, or hold one."""
    return issubclass(kind, M1M2) or (issubclass(kind, VAE) and not kind.is_conditional)


def can_have_baselines(kind: type[Model]) -> bool:
    """Whether models of this class classify images, or make latents of them that a classifier can be fitted on."""
    return has_m1(kind) or kind.can("classify")


def wants_baselines(kind: type[Model], y: Tensor, asked: bool | None) -> bool:
    """Whether to compare with a model of this class; by default with one that was to classify from few labels.

    Args:
        kind: The class.
        y: Labels of all its training images, -1 where unknown.
        asked: What the user said, if anything.
    """
    if asked is None:
        return kind.can("classify") and bool((y < 0).any())
    return asked and can_have_baselines(kind)


def on_pixels() -> dict:
    """A supervised network of the size of M2's classifier, which sees nothing but the labelled images."""
    from sklearn.neural_network import MLPClassifier

    return {"MLP": MLPClassifier((500,), random_state=0)}


def on_latents(labels: int) -> dict:
    """Classifiers for the latents of an M1, with so many labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    return {
        "M1+SVM": SVC(),  # with an RBF kernel
        "M1+logreg": LogisticRegression(max_iter=5000),
        "M1+5-NN": KNeighborsClassifier(min(5, labels)),
    }


def baselines(model: Model, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The test error of each classifier, fitted on the labelled training images alone.

    Those on latents see M1's posterior means as they are: the prior has put them on one scale, and to standardise them
    would raise those that hardly vary to the level of the others. Latents that M1 does not use are left out; where it
    uses none, so are the classifiers. The result is empty where the labels known are of less than two classes, or no
    test label is known.

    Args:
        model: An M1, a model that holds one, or any other, which gets the classifier on pixels alone.
        train: All training images and their labels, -1 where unknown.
        test: The test images and their labels.
    """
    (x, y), (x_test, y_test) = ([part[labels >= 0] for part in (images, labels)] for images, labels in (train, test))
    if len(y.unique()) < 2 or not len(y_test):
        return {}
    tasks = [(on_pixels(), x.flatten(1), x_test.flatten(1))]
    if has_m1(type(model)):
        m1 = model.m1 if isinstance(model, M1M2) else model
        if kept := used_latents(m1, train[0]):
            tasks.append((on_latents(len(y)), *(latents(m1, images)[:, kept] for images in (x, x_test))))
    return {
        name: error(classifier, (array(fitted), array(y)), (array(tested), array(y_test)))
        for classifiers, fitted, tested in tasks
        for name, classifier in classifiers.items()
    }


def latents(m1: VAE, x: Tensor) -> Tensor:
    """The posterior means of the images `x`, `(N, z_dim)`."""
    with evaluating(m1):
        return torch.cat([m1.encode(part) for part in x.split(CHUNK)]).double()


def array(values: Tensor) -> np.ndarray:
    """A tensor for scikit-learn."""
    return values.cpu().numpy()


def error(classifier, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of test images that a classifier fitted on the training images takes for another class."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs may be too few, and are what it gets
        classifier.fit(*train)
    return float((classifier.predict(test[0]) != test[1]).mean())
