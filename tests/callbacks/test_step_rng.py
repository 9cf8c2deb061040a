from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

from callbacks import RunCheckpoint, StepRNG
from models import VAE


class NoiseRecorder(VAE):
    """Record one random number in each batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noise_values = defaultdict(list)  # epoch: numbers

    def training_step(self, batch, batch_idx):
        self.noise_values["train", self.current_epoch].append(torch.rand(1).item())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.noise_values["val", self.current_epoch].append(torch.rand(1).item())
        super().validation_step(batch, batch_idx)


class Disturber(Callback):
    """Draw random numbers in many hooks."""

    def draw(self, *args):
        torch.rand(3)

    on_train_epoch_start = on_train_batch_end = on_validation_start = on_validation_end = on_train_epoch_end = draw


@pytest.fixture
def listen(fit, make_model):
    def run(*callbacks, seed=0, **options):
        model = make_model(kind=NoiseRecorder)
        fit(model, [*callbacks, StepRNG(seed)], **options)
        return model.noise_values

    return run


def test_noise_of_a_step_does_not_depend_on_what_ran_before(listen):
    assert listen() == listen(Disturber())


def test_every_training_batch_has_its_own_noise(listen):
    noise_values = listen(accumulate_grad_batches=3)  # batches of one step as well
    train = noise_values["train", 0] + noise_values["train", 1]
    assert len(set(train)) == len(train) == 6


def test_validation_noise_is_the_same_in_every_epoch_and_its_own(listen):
    noise_values = listen()
    assert noise_values["val", 0] == noise_values["val", 1]
    assert len(set(noise_values["val", 0])) == len(noise_values["val", 0]) == 5
    assert not set(noise_values["val", 0]) & set(noise_values["train", 0])


def test_seeds_differ(listen):
    first, second = listen(seed=0), listen(seed=1)
    for key in first:
        assert not set(first[key]) & set(second[key])


def test_a_resumed_run_has_the_noise_of_an_uninterrupted_run(fit, make_model, listen, tmp_path):
    whole = listen(max_epochs=3)
    fit(make_model(kind=NoiseRecorder), [StepRNG(0), RunCheckpoint(tmp_path, 0)], max_epochs=2)
    resumed = listen(RunCheckpoint(tmp_path, 0), max_epochs=3, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert resumed["train", 2] == whole["train", 2]


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
def test_ranks_differ(hook):
    noise_values = []
    for rank in range(4):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        trainer = SimpleNamespace(global_rank=rank, current_epoch=0, strategy=strategy)
        noise = StepRNG(seed=0)
        noise.setup(trainer, None, "fit")
        getattr(noise, hook)(trainer, None, None, 0)
        noise_values.append(torch.rand(1).item())
    assert len(set(noise_values)) == 4


@pytest.mark.gpu
def test_reseeds_the_generator_of_the_gpu():
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer = SimpleNamespace(global_rank=0, current_epoch=0, strategy=strategy)
    noise = StepRNG(seed=0)
    noise.setup(trainer, None, "fit")
    noise_values = []
    for _ in range(2):
        noise.on_train_batch_start(trainer, None, None, 0)
        noise_values.append(torch.rand(5, device="cuda"))
    assert torch.equal(*noise_values)
