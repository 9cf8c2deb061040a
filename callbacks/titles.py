"""Text for the titles of figures: the model, its data, the epoch, and names of classes."""

from collections.abc import Sequence
from typing import Any

from callbacks.record import finished_epochs
from figures.text import has_glyphs
from models import Model


def trained_epochs(model: Model) -> int | None:
    """Return how many epochs a model was trained for, during training or from a checkpoint; None if unknown."""
    trainer = getattr(model, "_trainer", None)  # the property `trainer` raises if there is none
    return finished_epochs(trainer) if trainer is not None else getattr(model, "trained_epochs", None)


def subject(model: Model, data: Any) -> str:
    """Return the model, its data and the epoch for a title: "VAE on MNIST, epoch 4"."""
    epochs = trained_epochs(model)
    return f"{type(model).__name__} on {type(data).__name__}" + (f", epoch {epochs}" if epochs else "")


def class_names(data: Any, count: int) -> list[str]:
    """Return the names of classes 0, ..., `count` - 1, or the number of a class without a name in the font's glyphs."""
    names = getattr(data, "class_names", None) or []
    printed = [" ".join(str(name).split()) for name in names[:count]]
    printed += [""] * (count - len(printed))
    return [name if name and has_glyphs(name) else str(index) for index, name in enumerate(printed)]


def class_name(data: Any, label: int) -> str:
    """Return the name of one class for use in a sentence; "class 3" if it has only a number."""
    name = class_names(data, label + 1)[label]
    return f"class {name}" if name.lstrip("-").isdigit() else f'"{name}"'


def many_classes(count: int, shown: Sequence[int]) -> str:
    """Return " (20 of 50 classes)" for a title if only some classes are shown, else an empty string."""
    return f" ({len(shown)} of {count} classes)" if len(shown) < count else ""
