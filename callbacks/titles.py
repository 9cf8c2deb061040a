"""What figures call a model and the classes of its data."""

from collections.abc import Sequence
from typing import Any

from callbacks.record import finished_epochs
from figures.text import has_glyphs
from models import Model


def trained_epochs(model: Model) -> int | None:
    """Epochs that a model has been trained for: during training, and from a checkpoint; None where it is not known."""
    trainer = model._trainer  # the property `trainer` raises without one
    return finished_epochs(trainer) if trainer is not None else model.trained_epochs


def subject(model: Model, data: Any) -> str:
    """The model, its data and the epoch, for titles: "VAE on MNIST, epoch 4"."""
    epochs = trained_epochs(model)
    return f"{type(model).__name__} on {type(data).__name__}" + (f", epoch {epochs}" if epochs else "")


def class_names(data: Any, count: int) -> list[str]:
    """The names of classes 0, 1, ..., `count` - 1; the number of a class without a name that the font can show."""
    names = getattr(data, "class_names", None) or []
    found = [" ".join(str(name).split()) for name in names[:count]]
    found += [""] * (count - len(found))
    return [name if name and has_glyphs(name) else str(index) for index, name in enumerate(found)]


def class_name(data: Any, label: int) -> str:
    """The name of one class within a sentence: "class 3" where classes have numbers only."""
    name = class_names(data, label + 1)[label]
    return f"class {name}" if name.lstrip("-").isdigit() else f'"{name}"'


def many_classes(count: int, shown: Sequence[int]) -> str:
    """For titles of figures that show some of many classes: " (20 of 50 classes)"."""
    return f" ({len(shown)} of {count} classes)" if len(shown) < count else ""
