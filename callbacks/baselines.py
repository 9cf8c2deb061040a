"""Classifiers of scikit-learn on the latents of an M1: what a semi-supervised model has to beat."""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from models import M1M2, VAE, Model, evaluating
from models.m1m2 import used_latents

CHUNK = 1000  # images per pass


def has_m1(kind: type[Model]) -> bool:
    """Whether models of this class are an M1, a VAE that is given no labels, or hold one."""
    return issubclass(kind, M1M2) or (issubclass(kind, VAE) and not kind.is_conditional)


def wants_baselines(kind: type[Model], asked: bool | None) -> bool:
    """Whether to look at the M1 of models of this class: by default only where a model was trained on one."""
    return issubclass(kind, M1M2) if asked is None else asked and has_m1(kind)


def baselines(model: M1M2 | VAE, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The test error of each classifier, fitted on M1's posterior means of the labelled training images.

    Latents that M1 does not use are left out: standardised, their noise would count as much as the others. Nothing is
    left to say, and the result is empty, where it uses none, or where the labels known are of less than two classes.

    Args:
        model: An M1, or a model that holds one.
        train: All training images and their labels, -1 where unknown.
        test: The test images and their labels.
    """
    m1 = model.m1 if isinstance(model, M1M2) else model
    kept = used_latents(m1, train[0])
    labelled, tested = ([part[y >= 0] for part in (x, y)] for x, y in (train, test))
    if not kept or len(labelled[1].unique()) < 2 or not len(tested[1]):
        return {}
    with evaluating(m1):
        z, z_test = (
            torch.cat([m1.encode(part) for part in x.split(CHUNK)])[:, kept].double().cpu().numpy()
            for x, _ in (labelled, tested)
        )
    y, y_test = labelled[1].cpu().numpy(), tested[1].cpu().numpy()
    classifiers = {
        "M1+SVM": SVC(),  # with an RBF kernel
        "M1+logreg": LogisticRegression(max_iter=5000),
        "M1+5-NN": KNeighborsClassifier(min(5, len(y))),
    }
    return {
        name: float((make_pipeline(StandardScaler(), classifier).fit(z, y).predict(z_test) != y_test).mean())
        for name, classifier in classifiers.items()
    }
