"""Trains a model and reports its test likelihood: `python train.py --model VAE --data Digits`.

The options below are those of the model and the data set named on the command line or in a --config file; name others
together with --help to see theirs. Flags win over --config files, wherever they stand.
"""

import argparse
import difflib
import logging
import re
import sys
import warnings
from argparse import ArgumentError
from datetime import datetime
from pathlib import Path
from typing import Literal

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
import datamodules
import evaluate
import models
from callbacks.loggers import MetricsCSV, flat, wandb_logger
from models.networks import lookup, start_at_mean

DEFAULTS = {"model": "VAE", "data": "Digits"}
# set by this script itself, or without effect on models that bring their own batches
NOT_OFFERED = {"callbacks", "logger", "plugins", "default_root_dir", "enable_checkpointing", "fast_dev_run", "barebones",
               "model_registry", "use_distributed_sampler", "enable_autolog_hparams", "reload_dataloaders_every_n_epochs",
               "overfit_batches"}  # fmt: skip


def names_in(config: str) -> dict[str, str]:
    """The names of model and data in a YAML file of options."""
    try:
        options = yaml.safe_load(Path(config).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{config} cannot be read as a YAML file of options: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{config} is no YAML file of options such as 'seed: 0'.")
    for key in DEFAULTS.keys() & options.keys():
        if not isinstance(options[key], dict):
            raise ValueError(
                f"In {config}, {key} must be a section with a name: write '{key}: {{name: {options[key]}}}'."
            )
    return {key: options[key]["name"] for key in DEFAULTS if "name" in options.get(key, {})}


def chosen(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The names of model and data, and the other arguments with all --config files first, so that flags win over them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--model", "--data"):
        first.add_argument(flag)
    first.add_argument("--config", action="append", default=[])
    known, flags = first.parse_known_args(argv)
    names = dict(DEFAULTS)
    for config in known.config:
        names |= names_in(config)
    names |= {key: value for key in DEFAULTS if (value := getattr(known, key)) is not None}
    lookup(models.MODELS, names["model"], "model")
    lookup(datamodules.DATAMODULES, names["data"], "data set")
    configs = [f"--config={config}" for config in known.config]
    return names, [*configs, *(f"--{key}.name={name}" for key, name in names.items()), *flags]


def build_parser(names: dict[str, str]) -> ArgumentParser:
    """The options of the script and, from the signatures, of this model, this data set and the Trainer."""
    parser = ArgumentParser(prog="train.py", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of options; several are read in order.")
    parser.add_argument(
        "--seed", type=int, default=0, help="Of initialisation, order and noise (--data.seed: of splits)."
    )
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Run folder; runs/<data>-<model>/<time> by default."
    )
    parser.add_argument(
        "--resume", type=str | None, default=None, help="Checkpoint to go on from; auto: the run folder's last."
    )
    parser.add_argument(
        "--wandb", type=Literal["off", "offline", "online"], default="off", help="Mirror the run in W&B."
    )
    parser.add_argument("--callbacks", type=list[str] | None, default=None,
                        help=f"Of {', '.join(callbacks.CALLBACKS)}; by default those that the model supports.")  # fmt: skip
    parser.add_argument("--num_samples", type=int, default=1000, help="K of the final evaluation; 0 skips it.")
    parser.add_argument(
        "--limit", type=int | None, default=None, help="Evaluate the likelihood on the first N test images."
    )
    for key, table in (("model", models.MODELS), ("data", datamodules.DATAMODULES)):
        parser.add_argument(f"--{key}.name", type=str, help=f"One of {', '.join(table)}; --{key} for short.")
        parser.add_class_arguments(table[names[key]], key, skip={"image_shape"}, as_group=False)
    parser.add_class_arguments(Trainer, "trainer", skip=NOT_OFFERED, as_group=False)
    parser.set_defaults({"trainer.accelerator": "cuda" if torch.cuda.is_available() else "cpu", "trainer.devices": 1,
                         "trainer.max_epochs": datamodules.DATAMODULES[names["data"]].default_epochs, "trainer.num_sanity_val_steps": 0,
                         "trainer.enable_model_summary": False})  # fmt: skip
    return parser


WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list such as [400,400]", "Sequence": "a list such as [100,50]",
         "str": "text", "NoneType": "null"}  # fmt: skip


def explain(error: Exception, names: dict[str, str], options: list[str]) -> str:
    """What went wrong, what is allowed and what to do, in one sentence."""
    text = str(error)
    if unknown := re.match(r"unrecognized arguments: (?:--)?([^\s=]+)|Option '([^']+)' is not accepted", text):
        option = unknown[1] or unknown[2]
        section = option.partition(".")[0] + "." if "." in option else ""
        known = [name for name in options if name.startswith(section) and ("." in name) == bool(section)] or options
        close = difflib.get_close_matches(option, known, n=1)
        guess = f", did you mean --{close[0]}?" if close else "."
        owner = f"{names[section[:-1]]} takes" if section[:-1] in names else "There are"
        return f"Unknown option --{option}{guess} {owner} {', '.join('--' + name for name in known)}."
    if wrong := re.match(r'Parser key "([^"]+)":\s+(?:Expected|Does not validate)', text):
        allowed = [WORDS.get(a, a) or f"one of {b}".replace("'", "") for a, b in
                   re.findall(r"Expected (?:a )?(?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])", text)]  # fmt: skip
        value = re.findall(r"(?:Got|Given) value: (.*)", text)[-1]
        return f"--{wrong[1]} takes {' or '.join(dict.fromkeys(allowed))}; got {value}."
    return text


def build(args: Namespace) -> tuple[datamodules.ImageData, models.Model]:
    """The data, read and checked, and the model that fits it."""
    options = args.data.as_dict()
    data = datamodules.DATAMODULES[options.pop("name")](**options)
    data.prepare_data()
    data.setup()
    data.run_seed = args.seed
    seed_everything(args.seed, verbose=False)
    options = args.model.as_dict()
    model = models.MODELS[options.pop("name")](image_shape=data.image_shape, **options)
    model.check_protocol(data.protocol)
    start_at_mean(model.decoder, data.train_mean())
    return data, model


def claim(args: Namespace, names: dict[str, str]) -> tuple[Path, Path | None]:
    """The run folder and the checkpoint to resume from, if any. Refuses a folder that holds a run already."""
    if args.resume == "auto" and args.run_dir is None:
        raise ValueError("--resume auto needs --run_dir, the folder of the run to go on with.")
    resume = None if args.resume in (None, "auto") else Path(args.resume)
    if resume and not resume.is_file():
        raise ValueError(f"There is no checkpoint {resume} to resume from.")
    default = (
        evaluate.run_folder(resume)
        if resume
        else Path("runs", f"{names['data']}-{names['model']}", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    )
    folder = Path(args.run_dir) if args.run_dir else default
    last = folder / "checkpoints" / "last.ckpt"
    if args.resume == "auto" and last.is_file():
        resume = last
    if (folder / "config.yaml").exists() and args.resume is None:
        raise ValueError(
            f"{folder} holds a run already: choose another --run_dir, or add --resume auto to go on with it."
        )
    return folder, resume


def make_trainer(args: Namespace, model: models.Model, steps_per_epoch: int, config: dict, folder: Path) -> Trainer:
    """The Trainer, with the callbacks and loggers of this run."""
    options = args.trainer.as_dict()
    if options["accelerator"] == "mps":
        raise ValueError("mps has no float64, in which likelihoods are summed: use --trainer.accelerator cpu.")
    bar = options.pop("enable_progress_bar") is not False
    options["log_every_n_steps"] = options["log_every_n_steps"] or min(50, steps_per_epoch)
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
        enable_autolog_hparams=False,  # log_config logs the whole configuration
    )


def start(
    trainer: Trainer, data: datamodules.ImageData, model: models.Model, config: dict, resume: Path | None
) -> None:
    """Makes the run folder, with the complete configuration in it, and tells the loggers."""
    if not trainer.is_global_zero:
        return
    folder = Path(trainer.default_root_dir)
    with evaluate.replacing(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config, sort_keys=False).encode())
    facts = {
        "protocol": data.protocol,
        "labels_hash": data.labels_hash,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    for logger in trainer.loggers:
        logger.log_hyperparams(flat(config) | facts)
        if isinstance(logger, WandbLogger):
            logger.experiment.define_metric("val/*", step_metric="epoch")
        elif resume:
            logger.keep_before(models.read_checkpoint(resume)["global_step"])
    labels = f", labels {data.labels_hash}" if data.labels_hash else ""
    print(f"{config['model']['name']} on {config['data']['name']}, protocol {data.protocol}{labels}: "
          f"{facts['parameters']:,} parameters, {len(data.train.y):,} training images, run folder {folder}")  # fmt: skip


def report(trainer: Trainer, args: Namespace, data: datamodules.ImageData) -> None:
    """Evaluates the best checkpoint on the test images, prints the table and mirrors it in W&B."""
    checkpoints = trainer.checkpoint_callback
    path = Path(checkpoints.best_model_path or checkpoints.last_model_path)  # without validation there is no best
    if args.num_samples:
        device = str(trainer.strategy.root_device)
        result = evaluate.evaluate(models.read_checkpoint(path), path, data, args.num_samples, args.limit, device)
        print(f"\n{evaluate.tables([result])}")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if args.num_samples:
                logger.experiment.summary.update({f"test/{key}": value for key, value in result.items()})
            logger.experiment.finish()
    print(f"Run folder: {trainer.default_root_dir} (figures in figures/, numbers in metrics.csv and evaluation.json)")


def quieten() -> None:
    """Leaves warnings one line each, and of Lightning's messages only warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    # Lightning 2.6 with torch 2.15: nothing that a user could change
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def main(argv: list[str] | None = None) -> int:
    # before any tensor: numbers too small for a normal float slow Adam and large K down several times
    torch.set_flush_denormal(True)
    quieten()
    names, options = dict(DEFAULTS), []
    try:
        names, flags = chosen(sys.argv[1:] if argv is None else argv)
        parser = build_parser(names)
        options = [key for key in parser.get_defaults().keys(branches=False) if not key.endswith(".name")]
        args = parser.parse_args(flags)
        evaluate.check_numbers(args.num_samples, args.limit, least=0)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in ("config", "run_dir", "resume")}
        folder, resume = claim(args, names)
        data, model = build(args)
        trainer = make_trainer(args, model, len(data.train_dataloader()), config, folder)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        print(f"error: {' '.join(explain(error, names, options).split())}", file=sys.stderr)
        return 2
    start(trainer, data, model, config, resume)
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.is_global_zero:
        report(trainer, args, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
