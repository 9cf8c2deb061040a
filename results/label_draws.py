"""Train a model on several draws of labels: `python -m results.label_draws --draws 10 --run_dir DIR [options]`.

The options are those of train.py; those of figures and of the final evaluation have no effect. The draws differ in
`--data.label_seed`, 0, 1, ..., and each equals the run of train.py with its label_seed, up to rounding. On a GPU they
are trained together as one batched model, whose steps are captured in a CUDA graph; on a CPU, where that is slower, one
after another. After an interruption, the same command continues. Each draw gets a run folder, DIR/draw0, DIR/draw1,
..., with the model after the last epoch:

    python evaluate.py 'DIR/draw*/checkpoints/last.ckpt'

reports the mean over draws.
"""

import argparse
import csv
import io
import json
import signal
import sys
import time
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import Namespace
from torch import Tensor

from cli.errors import explain_option_error
from cli.train_options import DEFAULTS, build_parser, expand_paths, option_names, split_component_flags
from datamodules.base import ImageData
from datamodules.batches import Batches, MixedBatches, seed_of
from models import MODELS, Model, evaluating
from models.ensemble import Ensemble
from runtime.atomic_write import atomic_write
from runtime.cuda_graph import capture, snapshot
from runtime.processes import configure_performance, filter_warnings
from runtime.provenance import commit, machine
from train import LAUNCH_ONLY_OPTIONS, build

# Options that this command does not support: name -> the only value
UNSUPPORTED = {
    "compile": False,
    "early_stopping": None,
    "ema": None,
    "resume": None,
    "wandb.mode": "off",
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": None,
    "trainer.max_steps": -1,
    "trainer.max_time": None,
    "trainer.limit_train_batches": None,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
}
DEVICES = {"cpu": "cpu", "cuda": "cuda:0"}  # of each --trainer.accelerator
PRECISIONS = (None, "32-true", "bf16-mixed")
SAVE_SECONDS = 120  # between two saves of the state
VALIDATE_EPOCHS = 100  # the error is measured after each of these, and after epochs 1, 2, 4, 8, ...
CHUNK = 2000  # images per pass of the classifier


class Draws(NamedTuple):
    """What is trained: one data module and one model per draw of labels, and the options as they are stored."""

    data: list[ImageData]
    models: list[Model]
    configs: list[dict[str, Any]]


class Progress(NamedTuple):
    """State of training between two epochs, other than parameters and optimizer.

    Args:
        epoch: Finished epochs.
        seconds: Time spent in training.
        errors: Rows of metrics.csv of each draw: epoch, loss, error on validation images.
    """

    epoch: int
    seconds: float
    errors: list[list[dict[str, float]]]


def own_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the others, which are those of train.py.

    Raises:
        ValueError: An option is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m results.label_draws",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--draws", type=int, default=10, help="number of draws of labels")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run folders")
    own, rest = parser.parse_known_args(argv)
    if own.draws < 1:
        raise ValueError(f"--draws must be at least 1; got {own.draws}.")
    return own, rest


def draw_options(draws: int, flags: list[str]) -> tuple[list[Namespace], list[dict[str, Any]]]:
    """Return the options of train.py for each draw of labels, and the same as config.yaml stores them.

    Args:
        draws: Number of draws.
        flags: Options of train.py.

    Raises:
        ArgumentError, ValueError: An option is unknown, out of range or not supported.
    """
    each, configs = [], []
    names, with_names = split_component_flags(flags)
    check_supported(expand_paths(build_parser(names).parse_args(with_names)))
    for draw in range(draws):
        names, with_names = split_component_flags([*flags, "--data.label_seed", str(draw)])
        parser = build_parser(names)
        args = expand_paths(parser.parse_args(with_names))
        each.append(args)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        configs.append({key: value for key, value in config.items() if key not in LAUNCH_ONLY_OPTIONS})
    return each, configs


def check_supported(args: Namespace) -> None:
    """Raise ValueError for options of train.py that do not apply to several draws."""
    for name, only in UNSUPPORTED.items():
        if args[name] != only:
            raise ValueError(f"--{name} is not supported for several draws: leave it out.")
    model = MODELS[args.model.name]
    if not model.learns_from_labels or not model.can("classify"):
        raise ValueError(f"{args.model.name} does not predict labels: use --model M2, M1M2, ADGM or SDGM.")
    if args.data.get("label_seed") is not None:
        raise ValueError(
            "--data.label_seed is not supported for several draws, which set it to 0, 1, ...: leave it out."
        )
    if args.trainer.max_epochs is None or args.trainer.max_epochs < 1:
        raise ValueError(f"--trainer.max_epochs must be at least 1; got {args.trainer.max_epochs}.")
    if args.trainer.accelerator not in DEVICES:
        raise ValueError(f"--trainer.accelerator takes {' or '.join(DEVICES)}; got {args.trainer.accelerator}.")
    if args.trainer.accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("This machine has no CUDA device: use --trainer.accelerator cpu.")
    if args.trainer.precision not in PRECISIONS:
        raise ValueError("Several draws are trained in 32-true or bf16-mixed: choose one of them.")
    if not args.data.get("num_labels"):
        raise ValueError("Draws of labels need a number of labels: add --data.num_labels.")


def check_new(folder: Path, draws: range) -> None:
    """Raise ValueError if there are run folders of these draws, which would be overwritten."""
    for draw in draws:
        if (folder / f"draw{draw}").exists():
            raise ValueError(f"{folder / f'draw{draw}'} exists: give another --run_dir.")


def build_draws(each: list[Namespace], configs: list[dict[str, Any]], device: str) -> Draws:
    """Return data and models, on the device."""
    pairs = [build(args) for args in each]
    return Draws([data for data, _ in pairs], [model.to(device) for _, model in pairs], configs)


def epoch_batches(loaders: Sequence[Batches]) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Return a function that yields the batches of an epoch for all draws: x `(D, B, ...)` and y `(D, B)`."""
    first = loaders[0]
    has_features = first.split.x.ndim == 2
    if not has_features or not isinstance(first, MixedBatches):
        return lambda epoch: sampled_batches(loaders, epoch)
    # All draws have the same features: one gather per step instead of one per draw.
    features, labels = first.split.x, torch.stack([loader.split.y for loader in loaders])

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.stack([loader.order(epoch) for loader in loaders])  # (D, N)
        for index in order.split(first.batch_size, 1):
            yield features[index], labels.gather(1, index)

    return batches


def sampled_batches(loaders: Sequence[Batches], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches x `(D, B, ...)` and y `(D, B)` that stack one batch from the loader of each draw."""
    for loader in loaders:
        loader.set_epoch(epoch)
    for batch in zip(*loaders, strict=True):
        x, y = zip(*batch, strict=True)
        yield torch.stack(x), torch.stack(y)


class Trainer:
    """Trains all draws together, an epoch at a time.

    Args:
        draws: Data and models.
        device: Where to train.
        seed: Seed of the noise, `--seed`.
        max_epochs: Number of epochs, to which the learning rate schedule refers.
        uses_bf16: Compute losses in bfloat16 where autocast permits.
    """

    def __init__(self, draws: Draws, device: str, seed: int, max_epochs: int, uses_bf16: bool = False):
        self.uses_bf16 = uses_bf16
        self.draws, self.device, self.seed, self.max_epochs = draws, torch.device(device), seed, max_epochs
        self.uses_graph = self.device.type == "cuda"
        self.ensemble = Ensemble(draws.models)
        self.optimizer = self.ensemble.make_optimizer(capturable=self.uses_graph)
        loaders = [data.train_batches(model, device) for data, model in zip(*draws[:2], strict=True)]
        self.batches, self.steps_per_epoch = epoch_batches(loaders), len(loaders[0])
        self.graphs: dict[tuple, Callable[..., Tensor]] = {}
        self.generator = torch.cuda.default_generators[0] if self.uses_graph else torch.default_generator

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Take one optimizer step of all models and return their losses `(D,)`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.uses_bf16):
            loss = self.ensemble.loss(x, y)
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        return loss.detach()

    def step_of_shape(self, x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        """Return the step, captured in a graph for each shape of batches on a GPU."""
        if not self.uses_graph:
            return self.step
        shape = (*x.shape, *y.shape)
        if shape not in self.graphs:
            restore = snapshot(self.ensemble.state().values(), [self.optimizer])
            try:
                self.graphs[shape] = capture(self.step, x, y, restore=restore)
            except RuntimeError as error:
                restore()
                reason = str(error).splitlines()[0]
                print(
                    f"warning: steps cannot be captured in a CUDA graph and run one by one: {reason}", file=sys.stderr
                )
                self.graphs[shape] = self.step
        return self.graphs[shape]

    def train_epoch(self, epoch: int) -> Tensor:
        """Train one epoch and return the mean loss of each draw, `(D,)`."""
        total, steps = torch.zeros(len(self.draws.models), device=self.device), 0
        for number, (x, y) in enumerate(self.batches(epoch)):
            if number == 0 or self.max_epochs == 1:
                self.set_learning_rate(epoch, number)
            step = self.step_of_shape(x, y)
            self.generator.manual_seed(seed_of("train", self.seed, 0, epoch, number))  # as in `StepRNG`
            total += step(x, y)
            steps += 1
        return total / steps

    def set_learning_rate(self, epoch: int, step: int) -> None:
        """Set the learning rate of an epoch, or of a step if there is only one epoch, as in train.py."""
        model = self.draws.models[0]
        done, total = (epoch, self.max_epochs) if self.max_epochs > 1 else (step, self.steps_per_epoch)
        lr = model.hparams.lr * model.scheduled_lr_factor(done, total)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def errors(self) -> list[float]:
        """Return the error of each draw on the validation images."""
        self.ensemble.write_back()
        found = []
        for data, model in zip(*self.draws[:2], strict=True):
            x, y = data.images("val", device=self.device, grey=model.classifies_grey)
            with evaluating(model):
                predicted = torch.cat([model.classify(part).argmax(1) for part in x.split(CHUNK)])
            found.append((predicted != y).float().mean().item())
        return found

    def model_options(self) -> str:
        """Return all options of the models as text: defaults may differ between versions."""
        return json.dumps(dict(self.draws.models[0].hparams), sort_keys=True, default=str)

    def save(self, path: Path, progress: Progress, options: list[str]) -> None:
        """Write everything that training needs to go on after `progress`."""
        state = {
            "models": self.ensemble.state(),
            "optimizer": self.optimizer.state_dict(),
            "progress": progress._asdict(),
            "options": options,
            "model_options": self.model_options(),
        }
        with atomic_write(path) as file:
            torch.save(state, file)

    def load(self, path: Path, options: list[str]) -> Progress:
        """Go on from a state that `save` has written.

        Raises:
            ValueError: It is damaged, or of a command with other options or on another kind of device: a GPU trains all
                draws together, a CPU one at a time.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises many types; each means that the file is damaged
            raise ValueError(f"{path} is damaged: delete it to begin again, or give another --run_dir.") from error
        if state["options"] != options:
            raise ValueError(f"{path.parent} was begun with other options: give the same, or another --run_dir.")
        if state.get("model_options") != self.model_options():
            raise ValueError(f"{path.parent} was begun by a version with other defaults: give another --run_dir.")
        progress = Progress(**state["progress"])
        if len(progress.errors) != len(self.draws.models):
            raise ValueError(
                f"{path.parent} was begun on another kind of device: continue there, or give another --run_dir."
            )
        with torch.no_grad():
            for name, value in self.ensemble.state().items():
                value.copy_(state["models"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        return progress


def is_due(epoch: int, last: int) -> bool:
    """Return whether the error is measured after an epoch, counted from 1."""
    return epoch % VALIDATE_EPOCHS == 0 or epoch & (epoch - 1) == 0 or epoch == last


def write_draws(folder: Path, trainer: Trainer, progress: Progress) -> None:
    """Write a run folder for each draw: options, metrics, and the model after the last epoch."""
    trainer.ensemble.write_back()
    for index, (data, model, config) in enumerate(zip(*trainer.draws, strict=True)):
        run = folder / f"draw{config['data']['label_seed']}"
        with atomic_write(run / "config.yaml") as file:
            file.write(yaml.safe_dump(config, sort_keys=False).encode())
        with atomic_write(run / "metrics.csv") as file:
            rows = io.StringIO()
            writer = csv.DictWriter(rows, progress.errors[index][0])
            writer.writeheader()
            writer.writerows(progress.errors[index])
            file.write(rows.getvalue().encode())
        with atomic_write(run / "checkpoints" / "last.ckpt") as file:
            torch.save(checkpoint_of(data, model, config, trainer, progress), file)


def checkpoint_of(data: ImageData, model: Model, config: dict, trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """Return a checkpoint as train.py writes it, without the state of the optimizer."""
    return {
        "state_dict": {name: value.cpu() for name, value in model.state_dict().items()},
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": dict(data.hparams),
        type(data).__name__: data.state_dict(),
        "epoch": progress.epoch - 1,
        "global_step": progress.epoch * trainer.steps_per_epoch,
        "model": type(model).__name__,
        "run": {
            "data": type(data).__name__,
            "protocol": data.protocol,
            "seed": config["seed"],
            "labels_hash": data.labels_hash,
            "processes": 1,
        },
        "training": {},
        "made": {
            "commit": [text] if (text := commit()) else [],
            "machine": [machine(trainer.device)],
            "seconds": progress.seconds,
        },
    }


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop, SIGTERM and SIGINT, instead of stopping."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(trainer: Trainer, state: Path, options: list[str], stop: list[int]) -> Progress:
    """Train to the last epoch, or to the end of an epoch in which a signal is received, and return the progress.

    Args:
        trainer: What to train.
        state: File of the state; if it exists, training goes on from it.
        options: The command line, stored in the file.
        stop: Signals received.
    """
    draws = len(trainer.draws.models)
    progress = trainer.load(state, options) if state.is_file() else Progress(0, 0.0, [[] for _ in range(draws)])
    saved_when = time.monotonic()
    while progress.epoch < trainer.max_epochs:
        begun = time.monotonic()
        losses = trainer.train_epoch(progress.epoch)
        epoch, errors = progress.epoch + 1, progress.errors
        if is_due(epoch, trainer.max_epochs) or stop:
            found = trainer.errors()
            rows = [
                {"epoch": epoch, "train/loss": loss, "val/error": error}
                for loss, error in zip(losses.tolist(), found, strict=True)
            ]
            errors = [[*before, row] for before, row in zip(errors, rows, strict=True)]
            mean = sum(found) / len(found)
            print(f"epoch {epoch}: loss {losses.mean().item():.2f}, val/error {mean:.2%}", flush=True)
        progress = Progress(epoch, progress.seconds + time.monotonic() - begun, errors)
        if stop:
            break
        if time.monotonic() - saved_when > SAVE_SECONDS:
            trainer.save(state, progress, options)
            saved_when = time.monotonic()
    trainer.save(state, progress, options)
    return progress


def main(argv: list[str] | None = None) -> int:
    """Parse the options, train all draws, and write their run folders."""
    argv = sys.argv[1:] if argv is None else argv
    configure_performance()
    filter_warnings()
    names, known = DEFAULTS, []  # set in the `try` block, used in error messages
    try:
        own, rest = own_options(argv)
        names, _ = split_component_flags(rest)
        known = option_names(build_parser(names))
        each, configs = draw_options(own.draws, rest)
        device = DEVICES[each[0].trainer.accelerator]
        print(f"{own.draws} draws of labels: {each[0].model.name} on {each[0].data.name}, {device}", flush=True)
        together = own.draws if device != "cpu" else 1
        for first in range(0, own.draws, together):
            part = slice(first, first + together)
            state = own.run_dir / f"state{first}.pt"
            if not state.is_file():
                check_new(own.run_dir, range(first, own.draws))
            draws = build_draws(each[part], configs[part], device)
            uses_bf16 = each[0].trainer.precision == "bf16-mixed"
            trainer = Trainer(draws, device, each[0].seed, each[0].trainer.max_epochs, uses_bf16)
            with collect_signals() as stop:
                progress = train(trainer, state, argv, stop)
                write_draws(own.run_dir, trainer, progress)
            if stop:
                print(f"Stopped after epoch {progress.epoch}. The same command continues.", file=sys.stderr)
                return 128 + stop[0]
    except (ArgumentError, ValueError, OSError) as error:
        print(f"error: {explain_option_error(error, names, known)}", file=sys.stderr)
        return 2
    print(f"python evaluate.py '{own.run_dir}/draw*/checkpoints/last.ckpt' reports the mean over draws.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
