"""Whether a model fits into the memory of this machine, known before it is built."""

import os
from math import prod
from typing import Any

import torch

from datamodules import ImageData
from models import Model

COPIES = 4  # of each weight in training: itself, its gradient and the two moments of Adam
FLOAT = 4  # bytes
NAMED = "--model.z_dim or --model.hidden"  # what a model's size depends on


def machine_memory(device: str) -> int | None:
    """Bytes of memory of the machine, or of its GPU; none where the system does not say."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # of Windows
        return None


def size_text(size: float) -> str:
    """A number of bytes as text."""
    return f"{size / 2**40:,.0f} TB" if size >= 2**40 else f"{size / 2**30:,.1f} GB"


def check_model_size(kind: type[Model], data: ImageData, options: dict[str, Any], device: str) -> None:
    """Counts the weights of a model without allocating them, and the activations of a training batch.

    Both counts are lower bounds: for activations that of the widest layer, for each image and sample.

    Args:
        kind: The model's class.
        data: Set up.
        options: Of the command line, for the model.
        device: Where it is to be trained, its type.

    Raises:
        ValueError: The machine has too little memory for either.
    """
    memory = machine_memory(device)
    if memory is None or kind.checkpoint_args:  # its sizes are in another checkpoint
        return
    has = f"this machine has {size_text(memory)}"
    try:
        with torch.device("meta"):
            model = kind(**{name: getattr(data, name) for name in kind.data_args}, **options)
    except (RuntimeError, OverflowError, TypeError) as error:
        numbers = [part for value in options.values() for part in (value if isinstance(value, list) else [value])]
        if any(isinstance(number, int) and number > 2**31 for number in numbers):  # sizes that torch cannot count
            raise ValueError(f"This model's weights would fill more than any memory: lower {NAMED}.") from error
        raise
    weights = FLOAT * COPIES * sum(parameter.numel() for parameter in model.parameters())
    if weights > memory:
        raise ValueError(f"Training this model's weights takes {size_text(weights)}, and {has}: lower {NAMED}.")
    widths = [layer.out_features for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    K, images = options.get("num_samples") or 1, min(data.batch_size, len(data.train.y))
    activations = FLOAT * images * K * max([prod(data.image_shape), *widths])
    if activations > memory:
        raise ValueError(
            f"A batch of {images} images with {K:,} samples each takes {size_text(activations)} or more, and {has}: "
            "lower --model.num_samples, --data.batch_size or the widths of --model.hidden."
        )
