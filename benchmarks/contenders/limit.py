"""Upper limit of the speed: only the matrix products of a training step or of an evaluation."""

from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.jobs import Job
from benchmarks.meter import Meter
from models.estimators.passes import MAX_DECODER_ROWS

PIXELS, CLASSES = 784, 10
Product = tuple[Tensor, Tensor]


def forward(rows: int, sizes: list[int], dtype: torch.dtype) -> list[Product]:
    """Return the matrix products of linear layers of these sizes, for an input of `rows` rows."""
    return [(torch.randn(rows, a).to(dtype), torch.randn(b, a).to(dtype).T) for a, b in pairwise(sizes)]


def training(rows: int, sizes: list[int], dtype: torch.dtype, of_data: bool) -> list[Product]:
    """Return the matrix products of a training step: forward, weight gradients and input gradients.

    Args:
        rows: Rows of the input.
        sizes: Sizes of the layers.
        dtype: Type of all matrices.
        of_data: Whether the input is data, which needs no gradient.
    """
    products = forward(rows, sizes, dtype)
    for layer, (x, w) in enumerate(list(products)):
        gradient = torch.randn(rows, w.shape[1]).to(dtype)
        products.append((gradient.T, x))
        if layer or not of_data:
            products.append((gradient, w.T))
    return products


def repeat(meter: Meter, products: list[Product], images: int) -> None:
    """Compute the products in an endless loop."""
    torch.set_flush_denormal(True)
    outputs = [x @ w for x, w in products]
    while True:
        for (x, w), out in zip(products, outputs, strict=True):
            torch.mm(x, w, out=out)
        meter.tick(images)


def number_type(job: Job) -> torch.dtype:
    """Return the dtype of a job's matrices."""
    return torch.bfloat16 if job.precision == "bf16" else torch.float32


def vae(meter: Meter, job: Job) -> None:
    """A training step of a VAE, or of an IWAE if K is above 1: the encoder once per image, the decoder K times."""
    dtype = number_type(job)
    encoder = training(job.batch, [PIXELS, *job.hidden, 2 * job.z_dim], dtype, of_data=True)
    decoder = training(job.batch * job.K, [job.z_dim, *job.hidden[::-1], PIXELS], dtype, of_data=False)
    repeat(meter, encoder + decoder, job.batch)


def m2(meter: Meter, job: Job) -> None:
    """A training step of M2: layers with input x once per image, the others once per image and class."""
    dtype, rows = number_type(job), job.batch * CLASSES
    classifier = training(job.batch, [PIXELS, *job.hidden, CLASSES], dtype, of_data=True)
    first = training(job.batch, [PIXELS, job.hidden[0]], dtype, of_data=True)
    encoder = training(rows, [*job.hidden, 2 * job.z_dim], dtype, of_data=False)
    decoder = training(rows, [job.z_dim, *job.hidden[::-1], PIXELS], dtype, of_data=False)
    repeat(meter, classifier + first + encoder + decoder, job.batch)


def nll(meter: Meter, job: Job) -> None:
    """The decoder on K samples of z per image, with as many rows per pass as in evaluate.py."""
    rows = MAX_DECODER_ROWS
    decoder = forward(rows, [job.z_dim, *job.hidden[::-1], PIXELS], number_type(job))
    repeat(meter, decoder * (job.K // rows), 1)
