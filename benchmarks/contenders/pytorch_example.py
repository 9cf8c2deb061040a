"""The VAE of pytorch/examples: probabilities and their binary cross entropy summed over the batch, a DataLoader over
torchvision's MNIST with ToTensor, and a line of progress every ten batches."""

from itertools import pairwise

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

LOG_INTERVAL = 10


def layers(*sizes):
    return nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))


class VAE(nn.Module):
    def __init__(self, hidden, z_dim):
        super().__init__()
        self.encoder = layers(784, *hidden)
        self.mean = nn.Linear(hidden[-1], z_dim)
        self.log_var = nn.Linear(hidden[-1], z_dim)
        self.decoder = layers(z_dim, *hidden[::-1])
        self.pixels = nn.Linear(hidden[0], 784)

    def forward(self, x):
        h = x.view(-1, 784)
        for layer in self.encoder:
            h = F.relu(layer(h))
        mean, log_var = self.mean(h), self.log_var(h)
        h = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        for layer in self.decoder:
            h = F.relu(layer(h))
        return torch.sigmoid(self.pixels(h)), mean, log_var


def loss_function(probs, x, mean, log_var):
    bce = F.binary_cross_entropy(probs, x.view(-1, 784), reduction="sum")
    return bce - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())


def vae(meter, job):
    data = datasets.MNIST(job.root, train=True, transform=transforms.ToTensor())
    loader = DataLoader(data, batch_size=job.batch, shuffle=True, num_workers=job.workers)
    model = VAE(job.hidden, job.z_dim)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    while True:
        train_loss = 0.0
        for i, (x, _) in enumerate(loader):
            optimizer.zero_grad()
            probs, mean, log_var = model(x)
            loss = loss_function(probs, x, mean, log_var)
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
            if i % LOG_INTERVAL == 0:
                print(f"[{i * len(x)}/{len(data)}]\tLoss: {loss.item() / len(x):.6f}")
            meter.tick(len(x))
        print(f"====> Average loss: {train_loss / len(data):.4f}")
