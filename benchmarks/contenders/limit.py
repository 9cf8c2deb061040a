"""The limit: the matrix products of a training step or an evaluation and nothing else."""

from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.jobs import Job
from benchmarks.meter import Meter
from models.estimators.importance import MAX_DECODER_ROWS

PIXELS, CLASSES = 784, 10
Product = tuple[Tensor, Tensor]


def forward(rows: int, sizes: list[int], dtype: torch.dtype) -> list[Product]:
    """The products of linear layers of these sizes, for so many rows."""
    return [(torch.randn(rows, a).to(dtype), torch.randn(b, a).to(dtype).T) for a, b in pairwise(sizes)]


def training(rows: int, sizes: list[int], dtype: torch.dtype, of_data: bool) -> list[Product]:
    """The products of a training step: forward, gradients of the weights, and of what each layer is given.

    Args:
        rows: Of each matrix.
        sizes: Of the layers.
        dtype: Of all numbers.
        of_data: Whether the first layer is given data, whose gradient nobody needs.
    """
    products = forward(rows, sizes, dtype)
    for layer, (x, w) in enumerate(list(products)):
        gradient = torch.randn(rows, w.shape[1]).to(dtype)
        products.append((gradient.T, x))
        if layer or not of_data:
            products.append((gradient, w.T))
    return products


def repeat(meter: Meter, products: list[Product], images: int) -> None:
    """Computes the products again and again."""
    torch.set_flush_denormal(True)
    outputs = [x @ w for x, w in products]
    while True:
        for (x, w), out in zip(products, outputs, strict=True):
            torch.mm(x, w, out=out)
        meter.tick(images)


def number_type(job: Job) -> torch.dtype:
    """What a job computes with."""
    return torch.bfloat16 if job.precision == "bf16" else torch.float32


def vae(meter: Meter, job: Job) -> None:
    """A step of a VAE or, with K above 1, of an IWAE: the encoder once per image, the decoder K times."""
    dtype = number_type(job)
    encoder = training(job.batch, [PIXELS, *job.hidden, 2 * job.z_dim], dtype, of_data=True)
    decoder = training(job.batch * job.K, [job.z_dim, *job.hidden[::-1], PIXELS], dtype, of_data=False)
    repeat(meter, encoder + decoder, job.batch)


def m2(meter: Meter, job: Job) -> None:
    """A step of M2, all classes: the layers that are given x once per image, the others once per image and class."""
    dtype, rows = number_type(job), job.batch * CLASSES
    classifier = training(job.batch, [PIXELS, *job.hidden, CLASSES], dtype, of_data=True)
    first = training(job.batch, [PIXELS, job.hidden[0]], dtype, of_data=True)
    encoder = training(rows, [*job.hidden, 2 * job.z_dim], dtype, of_data=False)
    decoder = training(rows, [job.z_dim, *job.hidden[::-1], PIXELS], dtype, of_data=False)
    repeat(meter, classifier + first + encoder + decoder, job.batch)


def nll(meter: Meter, job: Job) -> None:
    """K samples of z through the decoder, as many rows at a time as evaluate.py takes, for one image after another."""
    rows = MAX_DECODER_ROWS
    decoder = forward(rows, [job.z_dim, *job.hidden[::-1], PIXELS], number_type(job))
    repeat(meter, decoder * (job.K // rows), 1)
