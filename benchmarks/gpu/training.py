"""Rates of training: `train.py` as a user runs it, a raw loop, and Lightning with torchvision's data loading."""

import gzip
import io
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import callbacks
import train
from benchmarks.gpu.session import Session
from cli.train_options import DEFAULTS, build_parser, option_names
from datamodules import MNIST
from models import VAE
from runtime.cuda_graph import capture

WARM_UP = 20  # steps of a raw loop that are not counted
LOADER_STEPS = 200  # of Lightning with a DataLoader
MNIST_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# 640 training images, two batches for validation and small layers, for a rehearsal on a CPU
TINY = ("--data.val_size", "59360", "--trainer.limit_val_batches", "2", "--model.hidden", "[16]")


def without_graph(steps: int) -> tuple[str, ...]:
    """Return the options of train.py for so many steps per call, without a CUDA graph."""
    known = option_names(build_parser(DEFAULTS))
    return ("--steps_per_call", str(steps), *(("--cuda_graph", "false") if "cuda_graph" in known else ()))


class EpochClock(pl.Callback):
    """Time the training steps of each epoch, and the whole epochs.

    Args:
        synchronize: Waits for the device.
    """

    def __init__(self, synchronize: Callable[[], None]):
        self.synchronize = synchronize
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.images = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.images = len(trainer.datamodule.train.y)
        self.synchronize()
        self.starts.append(time.perf_counter())

    def _end(self) -> None:
        if len(self.ends) < len(self.starts):
            self.synchronize()
            self.ends.append(time.perf_counter())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def rates(self) -> dict[str, Any]:
        """Return images per second, of the second and later epochs."""
        steps = [end - start for start, end in zip(self.starts, self.ends, strict=True)][1:]
        whole = (self.starts[-1] - self.starts[1]) / (len(self.starts) - 2)
        return {
            "images_per_s": round(self.images / statistics.median(steps)),
            "whole_epoch_images_per_s": round(self.images / whole),
            "first_epoch_s": round(self.ends[0] - self.starts[0], 2),
        }


class Trained(NamedTuple):
    """A finished run of train.py."""

    folder: Path
    clock: EpochClock
    output: str


@contextmanager
def with_callback(callback: pl.Callback) -> Iterator[None]:
    """Add a callback to the runs of train.py in this process."""
    for_model = callbacks.for_model

    def extended(*args: Any) -> list[pl.Callback]:
        return [*for_model(*args), callback]

    callbacks.for_model = extended
    try:
        yield
    finally:
        callbacks.for_model = for_model


def mnist_options(session: Session) -> list[str]:
    """Return the options of train.py that all runs share."""
    options = ["--data", "MNIST", "--data.root", str(session.root), "--num_samples", "0", "--callbacks", "[]"]
    return [*options, "--trainer.enable_progress_bar", "false", *(TINY if session.is_tiny else ())]


def run_train(session: Session, *options: str, folder: Path | None = None) -> Trained:
    """Run train.py in this process.

    Raises:
        RuntimeError: It ended with another status than 0.
    """
    folder = session.new_folder("run") if folder is None else folder
    clock, output = EpochClock(session.synchronize), io.StringIO()
    with with_callback(clock), redirect_stdout(output), redirect_stderr(output):
        status = train.main([*mnist_options(session), *options, "--run_dir", str(folder)])
    if status != 0:
        raise RuntimeError(f"train.py ended with status {status}: {output.getvalue()[-600:]}")
    return Trained(folder, clock, output.getvalue())


def rate(*options: str, batch: int, epochs: int, tf32: bool = False) -> Callable[[Session], dict[str, Any]]:
    """Return a job that measures train.py on MNIST.

    Args:
        options: Options of train.py.
        batch: Images per batch.
        epochs: Number of epochs, at least 3.
        tf32: Compute products of float32 matrices in TF32, as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does.
    """

    def measure(session: Session) -> dict[str, Any]:
        if tf32:
            torch.set_float32_matmul_precision("high")
        number = 3 if session.is_tiny else epochs
        size = min(batch, 64) if session.is_tiny else batch
        shown = ["--data.batch_size", str(size), *options]
        trained = run_train(session, *shown, "--trainer.max_epochs", str(number))
        session.shared.setdefault("trained", trained.folder)
        return {**trained.clock.rates(), "options": " ".join(shown)}

    return measure


def raw_loop(batch: int, *, graph: bool, bf16: bool = False, tf32: bool = False) -> Callable[[Session], dict[str, Any]]:
    """Return a job that measures a loop written by hand around the loss of the default VAE.

    Images are indexed and binarized on the device, the optimizer is fused.

    Args:
        batch: Images per batch.
        graph: Capture the whole step, with the binarization, in a CUDA graph.
        bf16: Compute matrix products in bf16.
        tf32: Compute products of float32 matrices in TF32.
    """

    def measure(session: Session) -> dict[str, Any]:
        if tf32:
            torch.set_float32_matmul_precision("high")
        size = min(batch, 64) if session.is_tiny else batch
        steps = 3 if session.is_tiny else max(200, min(4000, 1_000_000 // size))
        step, images = raw_step(session, size, bf16)
        if graph and not session.is_tiny:
            step = capture(step, torch.arange(size, device=session.device), restore=lambda: None)
        indices = batch_indices(images, size, session.device)
        for _ in range(2 if session.is_tiny else WARM_UP):
            step(next(indices))
        session.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step(next(indices))
        session.synchronize()
        return {"images_per_s": round(size * steps / (time.perf_counter() - start))}

    return measure


def raw_step(session: Session, batch: int, bf16: bool) -> tuple[Callable[[Tensor], Tensor], int]:
    """Return a training step on the images of an index, and the number of images."""
    data = MNIST(root=str(session.root))
    data.setup()
    images, labels = data.train.to(session.device)
    torch.manual_seed(0)
    model = VAE.for_data(data).to(session.device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=not session.is_tiny)

    def step(index: Tensor) -> Tensor:
        pixels = images.index_select(0, index)
        x = (torch.empty_like(pixels).random_(0, 255) < pixels).float()
        with torch.autocast(session.device, torch.bfloat16, enabled=bf16):
            loss = model.loss(x, labels.index_select(0, index))
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.detach()

    return step, len(labels)


def batch_indices(images: int, batch: int, device: str) -> Iterator[Tensor]:
    """Yield the indices of shuffled batches without end; the last, smaller batch of an epoch is left out."""
    while True:
        order = torch.randperm(images, device=device)
        for start in range(0, images - batch + 1, batch):
            yield order[start : start + batch]


def unpacked_mnist(session: Session) -> Path:
    """Return a folder with MNIST as torchvision reads it: torchvision does not unpack files that it did not load."""
    folder = session.work / "torchvision" / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name in MNIST_FILES:
        file, target = session.root / "MNIST" / "raw" / f"{name}-ubyte", folder / f"{name}-ubyte"
        if file.exists():
            shutil.copyfile(file, target)
        else:
            with gzip.open(f"{file}.gz") as packed, target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    return session.work / "torchvision"


class StepClock(pl.Callback):
    """Time the steps of a Trainer after the first ones.

    Args:
        synchronize: Waits for the device.
        skipped: Number of steps that are not counted.
    """

    def __init__(self, synchronize: Callable[[], None], skipped: int):
        self.synchronize, self.skipped = synchronize, skipped
        self.images, self.start, self.seconds = 0, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if batch_idx < self.skipped:
            return
        if batch_idx == self.skipped:
            self.synchronize()
            self.start = time.perf_counter()
        else:
            self.images += len(batch[0])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.synchronize()
        self.seconds = time.perf_counter() - self.start


def with_lightning(batch: int, workers: int) -> Callable[[Session], dict[str, Any]]:
    """Return a job that measures Lightning with a DataLoader over torchvision's MNIST, as in Lightning's guide.

    Args:
        batch: Images per batch.
        workers: Worker processes of the DataLoader.
    """

    def measure(session: Session) -> dict[str, Any]:
        from torchvision.datasets import MNIST as TorchvisionMNIST
        from torchvision.transforms import ToTensor

        from benchmarks.contenders.with_lightning import LitVAE

        steps, skipped = (4, 1) if session.is_tiny else (LOADER_STEPS, WARM_UP)
        data = TorchvisionMNIST(str(unpacked_mnist(session)), train=True, transform=ToTensor())
        size = min(batch, 64) if session.is_tiny else batch
        loader = DataLoader(
            data,
            batch_size=size,
            shuffle=True,
            num_workers=min(workers, 1) if session.is_tiny else workers,
            pin_memory=session.device == "cuda",
        )
        clock, output = StepClock(session.synchronize, skipped), io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            trainer = pl.Trainer(
                max_epochs=1,
                limit_train_batches=steps,
                accelerator=session.device,
                devices=1,
                default_root_dir=session.new_folder("lightning"),
                callbacks=[clock],
            )
            trainer.fit(LitVAE((400, 400), 20), loader)
        return {"images_per_s": round(clock.images / clock.seconds)}

    return measure
