"""Trains a model and reports its test likelihood: `python train.py --model VAE --data Digits`."""

import gc
import shlex
import sys
from argparse import ArgumentError
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # imports make half a million objects that stay: to search them for garbage takes half a second

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
import evaluate
from callbacks.divergence import Diverged
from callbacks.interruption import Interrupted
from callbacks.loggers import MetricsCSV, WandbRun, close_wandb, flat
from callbacks.replace import replacing
from callbacks.wandb_environment import mode as wandb_mode
from datamodules import DATAMODULES, ImageData
from differences import beside
from folders import claim, owned
from launch import check_tasks, cluster_plugins, hasten, is_lost, leave, quieten, speaker
from models import MODELS, Model, read_checkpoint
from options import DEFAULTS, build_parser, check_numbers, chosen, explain
from resume import check_resumed, evaluated
from tables import tables

# Options that say nothing about the run
OF_THIS_START = ("config", "run_dir", "resume", "allow_changes")


def build(args: Namespace) -> tuple[ImageData, Model]:
    """The data, read and checked, and the model that fits it."""
    options = args.data.as_dict()
    data = DATAMODULES[options.pop("name")](**options)
    data.prepare_data()
    data.setup()
    data.run_seed = args.seed
    seed_everything(args.seed, verbose=False)
    options = args.model.as_dict()
    model = MODELS[options.pop("name")].for_data(data, **options)
    if args.compile:
        # with the noise of the eager loss, so that one can be held against the other
        model.loss = torch.compile(model.loss, options={"fallback_random": True})
    return data, model


def make_trainer(args: Namespace, model: Model, steps_per_epoch: int, config: dict, folder: Path) -> Trainer:
    """The Trainer, with the callbacks and loggers of this run; ValueError for what it or the model cannot do."""
    options = args.trainer.as_dict()
    if options["accelerator"] == "mps":
        raise ValueError("mps has no float64, in which likelihoods are summed: use --trainer.accelerator cpu.")
    if options["precision"] in ("16-true", "bf16-true"):
        raise ValueError(f"{options['precision']} has too few digits for likelihoods: use 16-mixed or bf16-mixed.")
    if options["strategy"] not in ("auto", "ddp"):
        raise ValueError(f"--trainer.strategy must be auto or ddp; got {options['strategy']}.")
    model.check_epochs(options["max_epochs"])
    bar = options.pop("enable_progress_bar") is not False
    interval = options.pop("log_every_n_steps")
    loggers: list[Logger] = [MetricsCSV(folder)]
    if (wandb := wandb_mode(args.wandb)) != "off":
        loggers.append(WandbRun(config, folder, offline=wandb == "offline"))
    watching = [*callbacks.for_model(model, args.callbacks), *([callbacks.Progress()] if bar else [])]
    try:
        trainer = Trainer(
            **options,
            callbacks=[
                callbacks.StepNoise(args.seed),
                callbacks.Divergence(),
                *watching,
                callbacks.Interruption(),
                callbacks.RunCheckpoint(folder, args.seed, args.save_every_steps, args.save_every_minutes),
            ],
            logger=loggers,
            plugins=[callbacks.FileIO(), *cluster_plugins()],
            default_root_dir=folder,
            enable_progress_bar=False,  # ours shows the whole run, not an epoch
            enable_autolog_hparams=False,  # `start` logs the whole configuration
            sync_batchnorm=True,  # on several GPUs; it does nothing on one
        )
    except TypeError as error:  # for devices that the accelerator does not have
        raise ValueError(str(error)) from error
    trainer.log_every_n_steps = interval or min(50, max(1, steps_per_epoch // trainer.world_size))
    if trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu" and model.has_batch_norm:
        raise ValueError(
            "Batch norm on several processes needs GPUs, to see all of a batch: add --model.batch_norm false, or use "
            "--trainer.devices 1."
        )
    return trainer


def set_calls(trainer: Trainer, data: ImageData, model: Model, size: int) -> None:
    """Lets each call of the trainer take so many steps, where nothing is asked for that needs a call for each.

    Raises:
        ValueError: It is no number of steps.
    """
    if size < 1:
        raise ValueError(f"--steps_per_call must be at least 1; got {size}.")
    needing = {
        "--trainer.devices": trainer.world_size > 1,
        "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
        "--trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "--trainer.precision 16-mixed": trainer.precision == "16-mixed",  # scales gradients
        "--trainer.limit_train_batches": trainer.limit_train_batches != 1.0,
        "--trainer.val_check_interval": trainer.val_check_interval != 1.0,
    }
    if size > 1 and any(needing.values()):
        names = ", ".join(name for name, needed in needing.items() if needed)
        print(f"warning: one step per call, for the sake of {names}.", file=sys.stderr)
        size = 1
    data.steps_per_call, model.automatic_optimization = size, size == 1
    trainer.log_every_n_steps = max(1, trainer.log_every_n_steps // size)


def start(trainer: Trainer, data: ImageData, model: Model, config: dict, resume: Path | None) -> None:
    """Writes the complete configuration into the run folder and tells the loggers."""
    if not trainer.is_global_zero:
        return
    folder = Path(trainer.default_root_dir)
    with replacing(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config, sort_keys=False).encode())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"protocol": data.protocol, "labels_hash": data.labels_hash, "parameters": parameters}
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun):
            logger.open()
        else:
            logger.keep_before(read_checkpoint(resume)["global_step"] if resume else 0)
        logger.log_hyperparams(flat(config) | facts)
    labels = f", labels {data.labels_hash}" if data.labels_hash else ""
    print(
        f"{config['model']['name']} on {config['data']['name']}, protocol {data.protocol}{labels}: "
        f"{parameters:,} parameters, {len(data.train.y):,} training images, run folder {folder}"
    )


def report(trainer: Trainer, args: Namespace, data: ImageData) -> int:
    """Evaluates the best checkpoint on the test images, for the table and W&B, and returns the exit status.

    Where it has been evaluated already, by the same command that was given again, the result stands.

    Raises:
        ValueError: No step was trained, now or before.
    """
    if trainer.global_step == 0:
        raise ValueError("Nothing was trained: raise --trainer.max_epochs, max_steps or limit_train_batches above 0.")
    checkpoints = trainer.checkpoint_callback
    path = checkpoints.best_model_path or checkpoints.last_model_path  # without validation there is no best
    path = Path(trainer.strategy.broadcast(path))
    result = trainer.strategy.broadcast(evaluated(path, args.num_samples, args.limit))
    if args.num_samples and not result:
        device, samples = str(trainer.strategy.root_device), args.num_samples
        checkpoint = read_checkpoint(path)
        wanted = evaluate.Wanted(samples, args.limit, figures=args.callbacks)
        result = evaluate.evaluate(checkpoint, path, data, wanted, device)
    if not trainer.is_global_zero:
        return 0
    if result:
        print(f"\n{tables(beside([result], [read_checkpoint(path)]))}")
    close_wandb(trainer, {f"test/{key}": value for key, value in result.items()})
    print(f"Run folder: {trainer.default_root_dir}")
    if result and result["nll"] is None and result["loss"] is None:
        print("The model has diverged: its likelihood is not finite. Try a lower --model.lr.", file=sys.stderr)
        return 1
    return 0


def stopped(error: Exception, trainer: Trainer, argv: list[str]) -> int:
    """Says why training has ended and how to go on, and returns the exit status: 128 + the signal's number, or 1."""
    lost = is_lost(error)
    if not lost and not isinstance(error, Interrupted | Diverged | OSError):
        raise error  # no mistake in the options
    folder, last = trainer.default_root_dir, trainer.checkpoint_callback.last_model_path
    if isinstance(error, Interrupted | Diverged) and not trainer.is_global_zero:
        return 0  # all processes stop together, and the first one speaks for them
    if lost:
        print(f"{speaker()}error: Another process of this run has ended: see what it has said.", file=sys.stderr)
    elif isinstance(error, OSError):
        print(f"{speaker()}error: {explain(error, {}, [])} The checkpoints are as they were.", file=sys.stderr)
    elif isinstance(error, Diverged):
        kept = f"; {last} holds the last finite state" if last else ""
        print(f"error: {error}: the model has diverged. Try a lower --model.lr{kept}.", file=sys.stderr)
    elif last:
        more = [
            *(() if "--run_dir" in argv else ("--run_dir", str(folder))),
            *(() if "auto" in argv else ("--resume", "auto")),
        ]
        command = shlex.join(["python", "train.py", *argv, *more])
        print(f"Stopped by {error} after step {trainer.global_step}. Go on with: {command}", file=sys.stderr)
    else:
        print(f"Stopped by {error} after step {trainer.global_step}: there is no checkpoint yet.", file=sys.stderr)
    status = 128 + error.number if isinstance(error, Interrupted) else 1
    close_wandb(trainer, status=status)
    return status


def main(argv: list[str] | None = None) -> int:
    hasten()
    quieten()
    argv = sys.argv[1:] if argv is None else argv
    names, known, trainer = DEFAULTS, [], None
    try:
        names, flags = chosen(argv)
        parser = build_parser(names)
        known = [key for key in parser.get_defaults().keys(branches=False) if not key.endswith(".name")]
        args = parser.parse_args(flags)
        check_numbers(args.num_samples, args.limit, least=0)
        check_tasks(args.trainer.devices, args.trainer.num_nodes)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in OF_THIS_START}
        folder, resume = claim(args)
        data, model = build(args)
        with owned(folder, is_default=args.run_dir is None and resume is None) as folder:
            trainer = make_trainer(args, model, len(data.train.y) // data.batch_size, config, folder)
            set_calls(trainer, data, model, args.steps_per_call)
            if resume:
                check_resumed(resume, args, data, model, trainer)
            start(trainer, data, model, config, resume)
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            return report(trainer, args, data)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if trainer is not None and trainer.checkpoint_callback.began:
            return stopped(error, trainer, argv)
        close_wandb(trainer, status=2)
        print(f"{speaker()}error: {explain(error, names, known)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as error:  # with which Lightning ends after a Ctrl-C before the first step
        if isinstance(error, SystemExit) and (trainer is None or not trainer.interrupted):
            raise
        trained = trainer is not None and trainer.checkpoint_callback.began
        when = "after training: the same command with --resume auto evaluates" if trained else "before the first step"
        print(f"Stopped {when}.", file=sys.stderr)
        return 130
    except (Interrupted, Diverged, RuntimeError) as error:
        return stopped(error, trainer, argv)


if __name__ == "__main__":
    gc.freeze()  # and thawed at once they count as old, so that the first search leaves them out too;
    gc.unfreeze()  # if they stayed frozen, libraries would report them as leaks when the process ends
    gc.enable()
    sys.exit(leave(main()))
