"""Raw loops: each job as an experienced PyTorch user would write it by hand, without any framework."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchvision.datasets import MNIST

from benchmarks.jobs import Job
from benchmarks.meter import Meter
from runtime.processes import configure_performance

PIXELS, CLASSES = 784, 10


def images(job: Job) -> tuple[Tensor, Tensor]:
    """Return the training images, uint8 `(N, 784)`, and their labels `(N,)`."""
    data = MNIST(job.root)
    return data.data.flatten(1), data.targets


def layers(*sizes: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    parts = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def binarized(x: Tensor) -> Tensor:
    """Return binary pixels that are 1 with probability x / 255."""
    return (torch.empty_like(x).random_(0, 255) < x).float()


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """Return log p(x|z), summed over pixels."""
    return (x * logits - softplus(logits)).sum(-1)


def bound(encoder: nn.Module, decoder: nn.Module, x: Tensor, K: int) -> Tensor:
    """Return the batch mean of the ELBO with closed-form KL for K = 1, and of the IWAE bound for K above 1."""
    mu, log_sigma = encoder(x).float().chunk(2, -1)
    sigma = log_sigma.exp()
    eps = torch.randn(K, *mu.shape)
    z = mu + sigma * eps  # (K, B, z_dim)
    log_px_z = log_bernoulli(decoder(z).float(), x)
    if K == 1:
        return (log_px_z[0] - 0.5 * (mu**2 + sigma**2 - 1 - 2 * log_sigma).sum(-1)).mean()
    log_w = log_px_z + (0.5 * (eps**2 - z**2) + log_sigma).sum(-1)
    return (log_w.logsumexp(0) - math.log(K)).mean()


def epochs(x: Tensor, batch: int):
    """Yield the indices of shuffled batches, without end; the last, smaller batch of an epoch is dropped."""
    while True:
        yield from torch.randperm(len(x)).split(batch)[:-1]


def train(meter: Meter, job: Job, compiled: bool = False) -> None:
    """Maximise the bound by Adam in an endless loop."""
    torch.set_flush_denormal(True)
    encoder = layers(PIXELS, *job.hidden, 2 * job.z_dim)
    decoder = layers(job.z_dim, *job.hidden[::-1], PIXELS)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True)
    x = images(job)[0]

    def loss(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            return -bound(encoder, decoder, batch, job.K)

    step = torch.compile(loss) if compiled else loss
    for index in epochs(x, job.batch):
        adam.zero_grad()
        step(binarized(x[index])).backward()
        adam.step()
        meter.tick(len(index))


def vae(meter: Meter, job: Job) -> None:
    """A VAE, or an IWAE if K is above 1."""
    train(meter, job)


def vae_configured(meter: Meter, job: Job) -> None:
    """The same with this project's process settings (`configure_performance`)."""
    configure_performance()
    train(meter, job)


def vae_compiled(meter: Meter, job: Job) -> None:
    """The same with a compiled loss."""
    train(meter, job, compiled=True)


def m2(meter: Meter, job: Job) -> None:
    """M2 with all classes of all images in one pass; alpha 5, and a tenth of each batch is labelled."""
    torch.set_flush_denormal(True)
    x, y = images(job)
    labelled, unlabelled = x[: job.labels], x[job.labels :]
    classifier = layers(PIXELS, *job.hidden, CLASSES)
    of_x, of_y = nn.Linear(PIXELS, job.hidden[0]), nn.Linear(CLASSES, job.hidden[0], bias=False)
    encoder = nn.Sequential(nn.Softplus(), *layers(*job.hidden, 2 * job.z_dim))
    of_z, of_class = nn.Linear(job.z_dim, job.hidden[-1]), nn.Linear(CLASSES, job.hidden[-1], bias=False)
    decoder = nn.Sequential(nn.Softplus(), *layers(*job.hidden[::-1], PIXELS))
    parts = nn.ModuleList([classifier, of_x, of_y, encoder, of_z, of_class, decoder])
    adam = torch.optim.Adam(parts.parameters(), lr=1e-3, fused=True)
    classes, some = torch.eye(CLASSES)[:, None], job.batch // 10  # (C, 1, C)
    for index in epochs(unlabelled, job.batch - some):
        known = torch.randint(job.labels, (some,))
        batch = binarized(torch.cat([labelled[known], unlabelled[index]]))
        mu, log_sigma = encoder(of_x(batch) + of_y(classes)).chunk(2, -1)  # (C, B, z_dim)
        sigma = log_sigma.exp()
        z = mu + sigma * torch.randn_like(mu)
        log_px = log_bernoulli(decoder(of_z(z) + of_class(classes)), batch)  # (C, B)
        minus_L = log_px - 0.5 * (mu**2 + sigma**2 - 1 - 2 * log_sigma).sum(-1) - math.log(CLASSES)
        log_qy = classifier(batch).log_softmax(-1).T
        U = -(log_qy.exp() * (minus_L - log_qy)).sum(0)[some:].mean()
        own = y[known][None]
        L = -minus_L[:, :some].gather(0, own).mean() - 5 * log_qy[:, :some].gather(0, own).mean()
        adam.zero_grad()
        (U + L * job.labels / len(x)).backward()
        adam.step()
        meter.tick(len(batch))


def estimate(meter: Meter, job: Job, compiled: bool = False) -> None:
    """Estimate log p(x) with K samples in an endless loop over images: the encoder once, 5000 decoder rows per pass."""
    torch.set_flush_denormal(True)
    encoder = layers(PIXELS, *job.hidden, 2 * job.z_dim)
    decoder = layers(job.z_dim, *job.hidden[::-1], PIXELS)
    x = binarized(images(job)[0][:1000])

    def log_weights(image: Tensor, mu: Tensor, log_sigma: Tensor, eps: Tensor) -> Tensor:
        z = mu + log_sigma.exp() * eps
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            logits = decoder(z)
        return log_bernoulli(logits.float(), image) + (0.5 * (eps**2 - z**2) + log_sigma).sum(-1)

    weigh = torch.compile(log_weights) if compiled else log_weights
    with torch.no_grad():
        while True:
            for image in x:
                mu, log_sigma = encoder(image).chunk(2, -1)
                sizes = [min(5000, job.K - done) for done in range(0, job.K, 5000)]
                log_w = [weigh(image, mu, log_sigma, torch.randn(size, job.z_dim)) for size in sizes]
                torch.cat(log_w).logsumexp(0)
                meter.tick(1)


def nll(meter: Meter, job: Job) -> None:
    """The NLL of one image after another."""
    estimate(meter, job)


def nll_compiled(meter: Meter, job: Job) -> None:
    """The same with compiled log weights."""
    estimate(meter, job, compiled=True)
