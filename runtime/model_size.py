"""Check before a model is built whether it fits into the memory of this machine."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch

from datamodules import ImageData
from datamodules.memory import total_memory
from models import Model, posteriors, priors

COPIES_PER_WEIGHT = 4  # in training: weight, gradient and the two moments of Adam
BYTES_PER_FLOAT = 4
SIZE_OPTIONS = "--model.z_dim or --model.hidden"  # the options that determine the size of most models
PART_OPTIONS = {  # and of their parts, if most of the weights are there
    "z_prior": "--model.prior_components, --model.prior_transforms or --model.prior_hidden",
    "z_posterior": "--model.posterior_transforms or --model.posterior_hidden",
}


def machine_memory(device: str) -> int | None:
    """Return the memory that this job may use on the machine or on its GPU, in bytes; None if unknown."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return total_memory()


def size_text(size: float) -> str:
    """Return a number of bytes as text in GB or TB."""
    return f"{size / 2**40:,.0f} TB" if size >= 2**40 else f"{size / 2**30:,.1f} GB"


def flow_weights(hidden: Sequence[int], transforms: int) -> int:
    """Return a lower bound of the weights of a normalizing flow: those between its hidden layers, and their biases."""
    return transforms * (sum(hidden) + sum(a * b for a, b in pairwise(hidden)))


def check_flows(options: dict[str, Any], memory: int) -> None:
    """Raise ValueError if the weights of a normalizing flow exceed the memory.

    The masks of its layers are allocated when weights are counted, so its size is checked first.
    """
    for part, default in (("prior", priors.FLOW_HIDDEN), ("posterior", posteriors.HIDDEN)):
        weights = flow_weights(options.get(f"{part}_hidden") or default, options.get(f"{part}_transforms") or 1)
        if (size := BYTES_PER_FLOAT * COPIES_PER_WEIGHT * weights) > memory:
            raise ValueError(
                f"Training this model takes {size_text(size)} or more for the weights of its {part}, and this machine "
                f"has {size_text(memory)}: lower --model.{part}_hidden or --model.{part}_transforms."
            )


def size_options(model: Model) -> str:
    """Return the options that determine most of the weights of a model, for messages."""
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    return PART_OPTIONS.get(max(sizes, key=lambda name: sizes[name]), SIZE_OPTIONS)


def check_model_size(kind: type[Model], data: ImageData, options: dict[str, Any], device: str) -> None:
    """Raise ValueError if the weights of a model or the activations of a training batch exceed the memory.

    Weights are counted without allocating them. Both sizes are lower bounds; for activations only the widest layer is
    counted, for each image and sample.

    Args:
        kind: The model class.
        data: The data module, set up.
        options: The model's options of the command line.
        device: The device type of the training.

    Raises:
        ValueError: The machine has too little memory.
    """
    memory = machine_memory(device)
    if memory is None or kind.checkpoint_args:  # the sizes of an M1M2 depend on its M1 checkpoint
        return
    check_flows(options, memory)
    has = f"this machine has {size_text(memory)}"
    try:
        with torch.device("meta"):
            model = kind(**{name: getattr(data, name) for name in kind.data_args}, **options)
    except (RuntimeError, OverflowError, TypeError) as error:
        numbers = [part for value in options.values() for part in (value if isinstance(value, list) else [value])]
        if any(isinstance(number, int) and number > 2**31 for number in numbers):  # overflow in torch
            raise ValueError(f"The weights of this model exceed any memory: lower {SIZE_OPTIONS}.") from error
        raise
    weights = BYTES_PER_FLOAT * COPIES_PER_WEIGHT * sum(parameter.numel() for parameter in model.parameters())
    if weights > memory:
        raise ValueError(
            f"Training this model takes {size_text(weights)} for its weights, and {has}: lower {size_options(model)}."
        )
    widths = [layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    K, images = options.get("num_samples") or 1, min(data.batch_size, len(data.train.y))
    activations = BYTES_PER_FLOAT * images * K * max([prod(data.image_shape), *widths])
    if activations > memory:
        raise ValueError(
            f"A batch of {images} images with {K:,} samples each takes {size_text(activations)} or more, and {has}: "
            "lower --model.num_samples, --data.batch_size or the widths of --model.hidden."
        )
