"""How many samples an estimator draws in one pass through the decoder: what a CPU cache or a GPU's memory holds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.layer_sums import sum_over_layers
from models.likelihoods import PIXEL_TENSORS

MAX_DECODER_ROWS = 2500  # of a fully connected decoder per pass on a CPU: bounds memory, and more rows are slower
GPU_ROWS = 2**18  # 5000 samples of 50 images: the time of a pass is then that of its arithmetic, not of its launches
MEMORY_SHARE = 0.5  # of the free memory of a GPU that a pass may take
BYTES_PER_FLOAT = 4


def samples_per_pass(model, x: Tensor, y: Tensor | None, images: int) -> int:
    """Return the number of samples per image for one pass through the decoder, at least 1.

    On a CPU it is a function of the model alone. On a GPU it is halved until the pass fits into the free memory. The
    noise on a GPU depends on this number, as it depends on the GPU: estimates then differ within their Monte Carlo
    error.

    Args:
        model: A model on any device.
        x: Images `(N, C, H, W)`, one or more.
        y: Their labels, for conditional models, or None.
        images: Number of images per pass.
    """
    if x.device.type != "cuda":
        return max(1, MAX_DECODER_ROWS // images // model.decoder_cost)
    bytes_per_sample = images * activation_bytes(model, x[:1], None if y is None else y[:1])
    return halved_to_fit(GPU_ROWS // images // model.decoder_cost, bytes_per_sample, free_memory(x.device))


def halved_to_fit(number: int, bytes_each: int, free: int) -> int:
    """Return `number`, halved until that many take at most `MEMORY_SHARE` of the free memory; at least 1.

    By halves, so that a small change of the free memory rarely changes the number.
    """
    while number > 1 and number * bytes_each > MEMORY_SHARE * free:
        number //= 2
    return max(1, number)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on a GPU, with those that torch's allocator holds."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def activation_bytes(model, x: Tensor, y: Tensor | None) -> int:
    """Return the bytes of the outputs of all layers, and of the density of the pixels, for one sample of one image.

    It is an upper limit without gradients, as most outputs are freed at once.

    Args:
        model: A model with `log_weights`, or with `ais_log_px`.
        x: One image `(1, C, H, W)`.
        y: Its label `(1,)`, for a conditional model, or None.
    """
    samples = 16  # many, so that the encoder, which runs once per image, has little weight

    def compute() -> Any:
        if model.can("log_weights"):
            return model.log_weights(x, samples, y)
        return model.ais_log_px(x, model.ais_prior().sample((samples, 1)), y)

    likelihood = model.pixel_likelihood
    tensors = PIXEL_TENSORS if likelihood is None else likelihood.pixel_tensors
    pixels = tensors * x[0].numel() * model.decoder_cost
    return BYTES_PER_FLOAT * (output_elements(model, compute) // samples + pixels)


def output_elements(model: nn.Module, compute: Callable[[], Any]) -> int:
    """Return the number of elements of the outputs of all layers in `compute()`; model and random state are kept."""
    leaves = [module for module in model.modules() if not any(module.children())]

    def elements(layer: nn.Module, inputs: Any, output: Any) -> int:
        return output.numel() if isinstance(output, Tensor) else 0

    return sum_over_layers(model, leaves, elements, compute)
