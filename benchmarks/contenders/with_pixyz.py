"""Pixyz, after its notebooks vae_with_vae_class and m2: distributions as classes, its VAE or Model, and a DataLoader
with one worker over torchvision's MNIST."""

from itertools import pairwise

import torch
from pixyz.distributions import Bernoulli, Normal, RelaxedCategorical
from pixyz.losses import ELBO, KullbackLeibler
from pixyz.models import VAE, Model
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, SubsetRandomSampler
from torchvision import transforms
from torchvision.datasets import MNIST


def layers(*sizes):
    return nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))


def forward(body, *inputs):
    h = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
    for layer in body:
        h = F.relu(layer(h))
    return h


class Inference(Normal):
    def __init__(self, job, *given):
        super().__init__(cond_var=list(given), var=["z"], name="q")
        self.body = layers(784 + 10 * ("y" in given), *job.hidden)
        self.loc_, self.scale_ = (nn.Linear(job.hidden[-1], job.z_dim) for _ in range(2))

    def forward(self, x, y=None):
        h = forward(self.body, x) if y is None else forward(self.body, x, y)
        return {"loc": self.loc_(h), "scale": F.softplus(self.scale_(h))}


class Generator(Bernoulli):
    def __init__(self, job, *given):
        super().__init__(cond_var=list(given), var=["x"], name="p")
        self.body = layers(job.z_dim + 10 * ("y" in given), *job.hidden[::-1])
        self.last = nn.Linear(job.hidden[0], 784)

    def forward(self, z, y=None):
        h = forward(self.body, z) if y is None else forward(self.body, z, y)
        return {"probs": torch.sigmoid(self.last(h))}


class Classifier(RelaxedCategorical):
    def __init__(self, job):
        super().__init__(cond_var=["x"], var=["y"], name="p")
        self.body = layers(784, *job.hidden)
        self.last = nn.Linear(job.hidden[-1], 10)

    def forward(self, x):
        return {"probs": F.softmax(self.last(forward(self.body, x)), dim=1)}


def standard_normal(job):
    return Normal(
        loc=torch.tensor(0.0), scale=torch.tensor(1.0), var=["z"], features_shape=[job.z_dim], name="p_{prior}"
    )


def loader(job, labels=None):
    """Return batches of all digits, or of `labels` digits with the same number of each class."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Lambda(torch.flatten)])
    data = MNIST(job.root, train=True, transform=transform)
    options = {"batch_size": job.batch, "num_workers": job.workers or 1}
    if labels is None:
        return DataLoader(data, shuffle=True, **options)
    of_each = [(data.targets == digit).nonzero()[: labels // 10, 0] for digit in range(10)]
    return DataLoader(data, sampler=SubsetRandomSampler(torch.cat(of_each)), **options)


def vae(meter, job):
    q, p = Inference(job, "x"), Generator(job, "z")
    kl = KullbackLeibler(q, standard_normal(job))
    model = VAE(encoder=q, decoder=p, regularizer=kl, optimizer=optim.Adam, optimizer_params={"lr": 1e-3})
    batches = loader(job)
    while True:
        total = 0.0
        for x, _ in batches:
            total += model.train({"x": x}).item()
            meter.tick(len(x))
        print(f"train loss {total / len(batches):.4f}")


def semi_supervised(job, rate):
    p, q, f, prior = Generator(job, "z", "y"), Inference(job, "x", "y"), Classifier(job), standard_normal(job)
    p_u, q_u, f_u = (d.replace_var(x="x_u", y="y_u") for d in (p, q, f))
    loss = -ELBO(p_u * prior, q_u * f_u).mean() - ELBO(p * prior, q).mean() + (rate * -f.log_prob()).mean()
    return Model(loss, distributions=[p, q, f], optimizer=optim.Adam, optimizer_params={"lr": 1e-3})


def forever(batches):
    while True:
        yield from batches


def m2(meter, job):
    unlabelled, labelled = loader(job), loader(job, job.labels)
    model = semi_supervised(job, (len(unlabelled) + len(labelled)) / len(labelled))
    # The notebook calls iter(labelled) in every step, which starts a worker process each time. That is so slow that it
    # cannot be intended; here one iterator runs on.
    labelled_batches = forever(labelled)
    while True:
        for x_u, _ in unlabelled:
            x, y = next(labelled_batches)
            model.train({"x": x, "y": torch.eye(10)[y], "x_u": x_u})
            meter.tick(len(x) + len(x_u))
