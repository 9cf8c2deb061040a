"""Pyro, after its examples vae.py (with --jit) and ss_vae_M2.py (with --aux-loss): SVI, and a DataLoader over one
tensor of digits."""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.optim import Adam
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import MNIST


def mlp(activation, *sizes):
    return nn.Sequential(*[layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), activation())][:-1])


def cached_mnist(job):
    data = MNIST(job.root, train=True)
    return data.data.flatten(1) / 255, F.one_hot(data.targets, 10).float()


def loader(job, *tensors):
    return DataLoader(TensorDataset(*tensors), batch_size=job.batch, shuffle=True, num_workers=job.workers)


def standard_normal(x, z_dim):
    return dist.Normal(x.new_zeros(x.shape[0], z_dim), x.new_ones(x.shape[0], z_dim)).to_event(1)


def bernoulli(probs):
    # Without validation, as in the examples: grey pixels are outside the support of a Bernoulli distribution.
    return dist.Bernoulli(probs, validate_args=False).to_event(1)


class VAE(nn.Module):
    def __init__(self, hidden, z_dim):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = mlp(nn.ReLU, 784, *hidden, 2 * z_dim)
        self.decoder = nn.Sequential(mlp(nn.ReLU, z_dim, *hidden[::-1], 784), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", standard_normal(x, self.z_dim))
            pyro.sample("obs", bernoulli(self.decoder(z)), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


class M2(nn.Module):
    def __init__(self, hidden, z_dim, aux_weight=46):  # the example's weight of the classifier's loss
        super().__init__()
        self.z_dim, self.aux_weight = z_dim, aux_weight
        self.encoder_y = nn.Sequential(mlp(nn.Softplus, 784, *hidden, 10), nn.Softmax(-1))
        self.encoder_z = mlp(nn.Softplus, 784 + 10, *hidden, 2 * z_dim)
        self.decoder = nn.Sequential(mlp(nn.Softplus, z_dim + 10, *hidden[::-1], 784), nn.Sigmoid())

    @staticmethod
    def join(a, y):
        """Concatenate `a` and `y`, expanding `a` over the leading dimension of enumerated classes that `y` may have."""
        shape = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
        return torch.cat([a.expand(*shape, -1), y.expand(*shape, -1)], -1)

    def model(self, x, y=None):
        pyro.module("m2", self)
        with pyro.plate("data"):
            z = pyro.sample("z", standard_normal(x, self.z_dim))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_full((x.shape[0], 10), 0.1)), obs=y)
            pyro.sample("x", bernoulli(self.decoder(self.join(z, y))), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data"):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(x)))
            loc, log_scale = self.encoder_z(self.join(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model_classify(self, x, y=None):
        pyro.module("m2", self)
        with pyro.plate("data"):
            if y is not None:
                with pyro.poutine.scale(scale=self.aux_weight):
                    pyro.sample("y_aux", dist.OneHotCategorical(self.encoder_y(x)), obs=y)

    def guide_classify(self, x, y=None):
        pass


def vae(meter, job):
    pyro.enable_validation(False)  # recommended by Pyro for speed
    x, y = cached_mnist(job)
    batches = loader(job, x, y)
    net = VAE(job.hidden, job.z_dim)
    svi = SVI(net.model, net.guide, Adam({"lr": 1e-3}), loss=JitTrace_ELBO())
    while True:
        total = 0.0
        for x, _ in batches:
            total += svi.step(x)
            meter.tick(len(x))
        print(f"average training loss {total / len(batches.dataset):.4f}")


def split(job):
    """Return loaders of the labelled images (the same number of each class) and of the unlabelled ones."""
    x, y = cached_mnist(job)
    labelled = torch.zeros(len(x), dtype=torch.bool)
    for is_class in y.T:
        labelled[is_class.nonzero()[: job.labels // 10]] = True
    return loader(job, x[labelled], y[labelled]), loader(job, x[~labelled], y[~labelled])


def m2(meter, job):
    pyro.enable_validation(False)
    sup, unsup = split(job)
    every = (len(sup.dataset) + len(unsup.dataset)) // job.labels
    net, optimizer = M2(job.hidden, job.z_dim), Adam({"lr": 1e-3})
    guide = config_enumerate(net.guide, "parallel", expand=True)
    # With --aux-loss, as in the example's command line: without it the classifier is not trained on labels. Without
    # --jit, which fails on the unlabelled batches of that loss and does not speed up the other loss.
    losses = [
        SVI(net.model, guide, optimizer, loss=TraceEnum_ELBO(max_plate_nesting=1)),
        SVI(net.model_classify, net.guide_classify, optimizer, loss=Trace_ELBO()),
    ]
    while True:
        labelled, unlabelled, seen = iter(sup), iter(unsup), 0
        for i in range(len(sup) + len(unsup)):
            if i % every == 1 and seen < len(sup):
                batch, seen = next(labelled), seen + 1
            else:
                batch = next(unlabelled)[:1]
            for svi in losses:
                svi.step(*batch)
            meter.tick(len(batch[0]))
