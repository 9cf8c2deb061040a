"""Pythae, after its README: custom encoder and decoder, TrainingPipeline with a BaseTrainerConfig, data as one float
tensor; and `get_nll`, its estimate of the test likelihood."""

import tempfile
from itertools import pairwise

import torch
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import nn
from torchvision.datasets import MNIST

SHAPE = (1, 28, 28)


def relu_layers(*sizes):
    return nn.Sequential(*(layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())))


class Encoder(BaseEncoder):
    def __init__(self, job):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), relu_layers(784, *job.hidden))
        self.mean = nn.Linear(job.hidden[-1], job.z_dim)
        self.log_var = nn.Linear(job.hidden[-1], job.z_dim)

    def forward(self, x):
        h = self.body(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    def __init__(self, job):
        super().__init__()
        # Probabilities instead of logits: its "bce" applies F.binary_cross_entropy to the output of the decoder.
        self.body = nn.Sequential(
            relu_layers(job.z_dim, *job.hidden[::-1]),
            nn.Linear(job.hidden[0], 784),
            nn.Sigmoid(),
            nn.Unflatten(1, SHAPE),
        )

    def forward(self, z):
        return ModelOutput(reconstruction=self.body(z))


class Tick(TrainingCallback):
    def __init__(self, meter):
        self.meter = meter

    def on_train_step_begin(self, training_config, train_loader=None, **kwargs):  # called once per epoch
        self.left = len(train_loader.dataset)
        self.meter.skip()  # exclude the copy of the best model

    def on_train_step_end(self, training_config, **kwargs):
        n = min(training_config.per_device_train_batch_size, self.left)  # the last batch is smaller
        self.left -= n
        self.meter.tick(n)


def images(job, train):
    return MNIST(job.root, train=train).data[:, None] / 255


def build(cls, config_cls, job, **options):
    config = config_cls(input_dim=SHAPE, latent_dim=job.z_dim, reconstruction_loss="bce", **options)
    return cls(model_config=config, encoder=Encoder(job), decoder=Decoder(job))


def train(model, meter, job):
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=10**6,
            learning_rate=1e-3,
            per_device_train_batch_size=job.batch,
            train_dataloader_num_workers=job.workers,
            no_cuda=True,
        )
        pipeline = TrainingPipeline(model=model, training_config=config)
        pipeline(train_data=images(job, train=True), callbacks=[Tick(meter)])


def vae(meter, job):
    train(build(VAE, VAEConfig, job), meter, job)


def iwae(meter, job):
    train(build(IWAE, IWAEConfig, job, number_samples=job.K), meter, job)


def iwae_flushed(meter, job):
    torch.set_flush_denormal(True)
    iwae(meter, job)


def nll(meter, job):
    estimate(meter, job, 100)  # its default


def nll_large_batches(meter, job):
    # About 20 % faster; larger batches gain nothing. At most K, because get_nll draws at least one whole batch.
    estimate(meter, job, min(1000, job.K))


def estimate(meter, job, batch_size):
    model = build(VAE, VAEConfig, job).eval()
    data = images(job, train=False)
    with torch.no_grad():  # get_nll does not disable autograd
        while True:
            for i in range(len(data)):
                model.get_nll(data[i : i + 1], n_samples=job.K, batch_size=batch_size)
                meter.tick(1)
