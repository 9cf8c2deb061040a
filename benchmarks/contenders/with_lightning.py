"""PyTorch Lightning, after its "15 minutes" guide: a LightningModule, a DataLoader over torchvision's MNIST with
ToTensor, and a Trainer with its default logger, checkpoints and progress bar."""

import tempfile
from itertools import pairwise

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor


def mlp(*sizes):
    return nn.Sequential(*[layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())][:-1])


class LitVAE(pl.LightningModule):
    def __init__(self, hidden, z_dim):
        super().__init__()
        self.encoder = mlp(784, *hidden, 2 * z_dim)
        self.decoder = mlp(z_dim, *hidden[::-1], 784)

    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        nll = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()
        loss = (nll + kl) / len(x)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Tick(pl.Callback):
    def __init__(self, meter):
        self.meter = meter

    def on_train_epoch_start(self, trainer, pl_module):
        self.meter.skip()  # exclude writing the checkpoint

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.meter.tick(len(batch[0]))


def vae(meter, job):
    data = MNIST(job.root, train=True, transform=ToTensor())
    loader = DataLoader(data, batch_size=job.batch, shuffle=True, num_workers=job.workers)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=10**6, accelerator="cpu", devices=1, default_root_dir=folder, callbacks=[Tick(meter)]
        )
        trainer.fit(LitVAE(job.hidden, job.z_dim), loader)
