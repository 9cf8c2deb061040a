"""Independent Bernoulli pixels, with a fast density on CPUs."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import binary_cross_entropy_with_logits

from models.distributions.outputs import at_least_float32

MAX_FACTORS = 120  # max. number of factors in [1, 2] whose product fits float32
CHUNK_SIZE = 2**19  # elements per chunk: 2 MiB of float32, which fits a CPU cache
LARGE_SIZE = 2**19  # number of pixels from which the chunked Bernoulli likelihood is faster than torch's


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """Return log p(x) = sum_i x_i l_i - log(1 + e^l_i) over pixels i with logits l, `(..., P) -> (...)`, in nats.

    Uses log(1 + e^l) = max(l, 0) + log(1 + e^-|l|). The factors 1 + e^-|l| lie in [1, 2], so the logarithms of up to
    120 pixels are computed as one logarithm of a product, without overflow of float32.
    """
    positive = logits.relu()
    factors = torch.sub(logits, positive, alpha=2).exp_().add_(1)  # 1 + e^-|l|
    P = logits.shape[-1]
    size = next(size for size in range(min(P, MAX_FACTORS), 0, -1) if P % size == 0)
    logs = factors.unflatten(-1, (-1, size)).prod(-1).log_()
    return -(positive.addcmul_(x, logits, value=-1).sum(-1) + logs.sum(-1))


def cache_sized_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors `(..., P)` along the same leading dimension into chunks of about `CHUNK_SIZE` elements."""
    batch = tensors[0].shape[:-1]
    dim = next((dim for dim, size in enumerate(batch) if size > 1), 0)  # the first dimension that can be split
    size = max(1, CHUNK_SIZE * batch[dim] // max(1, tensors[0].numel()))
    return zip(*(tensor.split(size, dim) for tensor in tensors), strict=True)


class LogBernoulli(Function):
    """`log_bernoulli` with its gradient x - sigmoid(l), computed in chunks that fit a CPU cache."""

    @staticmethod
    def forward(ctx, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        log_p = torch.empty(logits.shape[:-1], dtype=logits.dtype)
        for logits_chunk, x_chunk, out in cache_sized_chunks(logits, x, log_p[..., None]):
            out[..., 0] = log_bernoulli(logits_chunk, x_chunk)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for logits_chunk, x_chunk, grad_chunk, out in cache_sized_chunks(logits, x, grad[..., None], grad_logits):
            torch.sub(x_chunk, torch.sigmoid(logits_chunk, out=out), out=out).mul_(grad_chunk)
        return grad_logits, None


class BernoulliImage(Independent):
    """Independent Bernoulli pixels with logits `(..., C, H, W)`, with a fast `log_prob` for large inputs on a CPU."""

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.base_dist.logits
        is_small = max(logits.numel(), value.numel()) < LARGE_SIZE or max(logits.ndim, value.ndim) == 3
        is_transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if is_small or value.requires_grad or logits.device.type != "cpu" or is_transformed:
            logits, value = torch.broadcast_tensors(logits, value)
            # torch's Bernoulli negates each pixel, a sixth of the time; negating the sum gives the same bits
            return -binary_cross_entropy_with_logits(logits, value, reduction="none").flatten(-3).sum(-1)
        shape = torch.broadcast_shapes(logits.shape, value.shape)  # slow, hence only for large inputs
        return LogBernoulli.apply(logits.expand(shape).flatten(-3), value.to(logits.dtype).expand(shape).flatten(-3))


def bernoulli_image(logits: Tensor) -> Independent:
    """Return independent Bernoulli pixels with logits `(..., C, H, W)`, batch shape `(...)`."""
    return BernoulliImage(Bernoulli(logits=at_least_float32(logits)), 3)
