"""Trains a model and reports its test likelihood: `python train.py --model VAE --data Digits`."""

import json
import logging
import shutil
import sys
import warnings
from argparse import ArgumentError
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
import evaluate
from callbacks.loggers import MetricsCSV, flat, open_wandb, wandb_logger
from callbacks.replace import replacing
from datamodules import DATAMODULES, ImageData
from models import MODELS, Model, read_checkpoint
from options import DEFAULTS, build_parser, check_numbers, chosen, explain
from tables import run_folder, tables


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
    return data, model


def claim(args: Namespace) -> tuple[Path, Path | None]:
    """The run folder and the checkpoint to resume from, if any. Refuses a folder that holds a run already."""
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed must be between 0 and {2**32 - 1}; got {args.seed}.")
    if args.run_dir and Path(args.run_dir).exists() and not Path(args.run_dir).is_dir():
        raise ValueError(f"--run_dir {args.run_dir} is a file: name a folder.")
    if args.resume == "auto" and args.run_dir is None:
        raise ValueError("--resume auto needs --run_dir, the folder of the run to go on with.")
    resume = None if args.resume in (None, "auto") else Path(args.resume)
    if resume and not resume.is_file():
        raise ValueError(f"There is no checkpoint {resume} to resume from.")
    if args.run_dir:
        folder = Path(args.run_dir)
    elif resume:
        folder = run_folder(resume)
    else:
        folder = Path("runs", f"{args.data.name}-{args.model.name}", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    last = folder / "checkpoints" / "last.ckpt"
    if args.resume == "auto" and last.is_file():
        resume = last
    # the other processes of a run find what the first has written
    if rank_zero_only.rank == 0 and args.run_dir and not args.resume and (folder / "config.yaml").exists():
        raise ValueError(f"{folder} holds a run already: choose another --run_dir, or go on with it by --resume auto.")
    return folder, resume


def make_folder(folder: Path, is_default: bool) -> tuple[Path, bool]:
    """Makes the run folder, and says whether it is new. A default name that another run has just taken is numbered."""
    if rank_zero_only.rank != 0:
        return folder, False
    if not is_default and folder.exists():
        return folder, False
    names = [folder.name, *(f"{folder.name}-{number}" for number in range(2, 1000) if is_default)]
    for name in names:
        with suppress(FileExistsError):  # by a run that started in the same second
            folder.with_name(name).mkdir(parents=True)
            return folder.with_name(name), True
    raise ValueError(f"{folder} has just been made by another run: choose another --run_dir.")


def check_resumed(resume: Path, args: Namespace, data: ImageData, model: Model) -> None:
    """ValueError, with the first difference, where the checkpoint is of another run than these options ask for."""
    checkpoint = read_checkpoint(resume)
    then = {"model": checkpoint["model"], **checkpoint.get("run", {})}
    now = {"model": args.model.name, "data": args.data.name, "protocol": data.protocol, "seed": args.seed}
    now["labels_hash"] = data.labels_hash
    old_data = checkpoint.get("datamodule_hyper_parameters", {})
    for section, old, new in (
        ("model", checkpoint["hyper_parameters"], model.hparams),
        ("data", old_data, data.hparams),
    ):
        then |= {f"--{section}.{key}": value for key, value in old.items() if key != "root"}
        now |= {f"--{section}.{key}": value for key, value in new.items()}
    for key, value in then.items():
        if json.dumps(value) != json.dumps(now.get(key)):  # as text, lists and tuples are the same
            raise ValueError(f"{resume} cannot be resumed: its {key} is {value}, not {now.get(key)}.")


def make_trainer(args: Namespace, model: Model, steps_per_epoch: int, config: dict, folder: Path) -> Trainer:
    """The Trainer, with the callbacks and loggers of this run."""
    options = args.trainer.as_dict()
    if options["accelerator"] == "mps":
        raise ValueError("mps has no float64, in which likelihoods are summed: use --trainer.accelerator cpu.")
    if options["precision"] in ("16-true", "bf16-true"):
        raise ValueError(f"{options['precision']} has too few digits for likelihoods: use 16-mixed or bf16-mixed.")
    model.check_epochs(options["max_epochs"])
    bar = options.pop("enable_progress_bar") is not False
    devices = options["devices"] if isinstance(options["devices"], int) else 1
    options["log_every_n_steps"] = options["log_every_n_steps"] or min(50, max(1, steps_per_epoch // max(1, devices)))
    loggers: list[Logger] = [MetricsCSV(folder)]
    if args.wandb != "off":
        loggers.append(wandb_logger(config, folder, offline=args.wandb == "offline"))
    watching = [*callbacks.for_model(model, args.callbacks), *([callbacks.Progress()] if bar else [])]
    return Trainer(
        **options,
        callbacks=[callbacks.StepNoise(args.seed), *watching, callbacks.RunCheckpoint(folder, args.seed)],
        logger=loggers,
        default_root_dir=folder,
        enable_progress_bar=False,  # ours shows the whole run, not an epoch
        enable_autolog_hparams=False,  # `start` logs the whole configuration
    )


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
        if isinstance(logger, WandbLogger):
            open_wandb(logger)
        elif resume:
            logger.keep_before(read_checkpoint(resume)["global_step"])
        logger.log_hyperparams(flat(config) | facts)
    labels = f", labels {data.labels_hash}" if data.labels_hash else ""
    print(
        f"{config['model']['name']} on {config['data']['name']}, protocol {data.protocol}{labels}: "
        f"{parameters:,} parameters, {len(data.train.y):,} training images, run folder {folder}"
    )


def report(trainer: Trainer, args: Namespace, data: ImageData) -> int:
    """Evaluates the best checkpoint on the test images, for the table and W&B, and returns the exit status."""
    checkpoints = trainer.checkpoint_callback
    path = Path(checkpoints.best_model_path or checkpoints.last_model_path)  # without validation there is no best
    result = {}
    if args.num_samples:
        device, samples = str(trainer.strategy.root_device), args.num_samples
        checkpoint = read_checkpoint(path)
        result = evaluate.evaluate(checkpoint, path, data, samples, args.limit, device, figures=args.callbacks)
        print(f"\n{tables([result])}")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update({f"test/{key}": value for key, value in result.items()})
            logger.experiment.finish()
    print(f"Run folder: {trainer.default_root_dir}")
    if result and result["nll"] is None and result["loss"] is None:
        print("The model has diverged: its likelihood is not finite. Try a lower --model.lr.", file=sys.stderr)
        return 1
    return 0


def quieten() -> None:
    """Leaves warnings one line each, and of Lightning's messages only warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    # Lightning 2.6 with torch 2.15: nothing that a user could change
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # the M1 of an M1M2 is in evaluation mode for good
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")


def main(argv: list[str] | None = None) -> int:
    # before any tensor: numbers too small for a normal float slow Adam and large K down several times
    torch.set_flush_denormal(True)
    quieten()
    names, known, trainer, is_new = DEFAULTS, [], None, False
    try:
        names, flags = chosen(sys.argv[1:] if argv is None else argv)
        parser = build_parser(names)
        known = [key for key in parser.get_defaults().keys(branches=False) if not key.endswith(".name")]
        args = parser.parse_args(flags)
        check_numbers(args.num_samples, args.limit, least=0)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in ("config", "run_dir", "resume")}
        folder, resume = claim(args)
        data, model = build(args)
        if resume:
            check_resumed(resume, args, data, model)
        folder, is_new = make_folder(folder, is_default=args.run_dir is None and resume is None)
        trainer = make_trainer(args, model, len(data.train_dataloader()), config, folder)
        start(trainer, data, model, config, resume)
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        if trainer.global_step == 0:
            raise ValueError(
                "Nothing was trained: raise --trainer.max_epochs, max_steps or limit_train_batches above 0."
            )
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if trainer is not None and trainer.fit_loop.epoch_progress.current.started:
            raise  # no mistake in the options
        if is_new:
            shutil.rmtree(folder)
        print(f"error: {explain(error, names, known)}", file=sys.stderr)
        return 2
    except SystemExit:  # with which Lightning ends after Ctrl-C
        if trainer is None or not trainer.interrupted:
            raise
        last = trainer.checkpoint_callback.last_model_path
        advice = f"go on with --run_dir {folder} --resume auto" if last else "there is no checkpoint yet"
        print(f"Stopped in epoch {trainer.current_epoch + 1}: {advice}.", file=sys.stderr)
        return 130
    return report(trainer, args, data) if trainer.is_global_zero else 0


if __name__ == "__main__":
    sys.exit(main())
