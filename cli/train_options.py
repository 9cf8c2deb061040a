"""The command lines of train.py and evaluate.py: options from signatures, configuration files, mistakes explained."""

import argparse
import os
import sys
from pathlib import Path
from typing import Literal

import torch
import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

from callbacks import CALLBACKS
from cli.suggestions import in_other_letters
from datamodules import DATAMODULES
from models import MODELS
from models.networks.layers import lookup
from runtime.figure_files import FigureStyle
from runtime.processes import launcher_world

MAX_SAMPLES = 10_000_000  # of one image, which take minutes; all of MNIST takes weeks by then
PROFILERS = ("simple", "advanced", "pytorch")  # of Lightning, by their names
DEFAULTS = {"model": "VAE", "data": "Digits"}
COMPONENT_TITLES = {"model": "model", "data": "data set"}
REGISTRIES = {"model": MODELS, "data": DATAMODULES}
# Options of the Trainer that train.py sets itself, or that do nothing to data that bring their own batches
NOT_OFFERED = {
    "barebones",
    "callbacks",
    "default_root_dir",
    "enable_autolog_hparams",
    "enable_checkpointing",
    "fast_dev_run",
    "logger",
    "model_registry",
    "overfit_batches",
    "plugins",
    "reload_dataloaders_every_n_epochs",
    "sync_batchnorm",
    "use_distributed_sampler",
}
# Options of the Trainer that do nothing here: files of earlier runs may name them, at these values
NO_EFFECT = {
    "limit_test_batches": (None, "tests are the work of --num_samples and --limit"),
    "limit_predict_batches": (None, "train.py predicts nothing"),
    "inference_mode": (True, "validation computes no gradients in either mode"),
}


def expand_user(path: str) -> str:
    """A path with a leading `~` or `~name` replaced by that user's home folder; `./~name` means such a name itself.

    Raises:
        ValueError: There is no such user.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: no home folder of that user is known: write the path out, or ./{path}.")
    return expanded


def expand_paths(args: Namespace) -> Namespace:
    """Expands `~` in all options, from the command line and from configuration files alike.

    Only here, so that all that read an option mean the same folder. The text of no option but a path begins with `~`.
    Environment variables are not expanded: a shell does that.
    """
    for key, value in args.items(branches=False):
        if isinstance(value, str):
            args[key] = expand_user(value)
        elif isinstance(value, list):
            args[key] = [expand_user(part) if isinstance(part, str) else part for part in value]
    return args


def names_in(config: str) -> dict[str, str]:
    """The names of model and data in a YAML file of options."""
    try:
        options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"--config {config} was not found.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{config} cannot be read as a YAML file of options: {why}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{config} is no YAML file of options such as 'seed: 0'.")
    for key in REGISTRIES.keys() & options.keys():
        if not isinstance(options[key], dict):
            raise ValueError(
                f"In {config}, {key} must be a section with a name: write '{key}: {{name: {options[key]}}}'."
            )
    return {key: options[key]["name"] for key in REGISTRIES if "name" in options.get(key, {})}


def named_by_flag(flags: argparse.Namespace, key: str) -> str | None:
    """The model or the data that the command line names, by --model or --model.name; ValueError for two names."""
    short, long = getattr(flags, key), getattr(flags, f"{key}_name")
    if short is not None and long is not None and short != long:
        raise ValueError(f"--{key} {short} and --{key}.name {long} disagree: give one of them.")
    return long if short is None else short


def warn_of_other_names(config: str, names: dict[str, str], flags: list[str]) -> None:
    """Says which options of a file made for another model, or other data, stay in force.

    Args:
        config: The file.
        names: The model and the data that are used.
        flags: Of the command line, which win over the file.
    """
    options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    given = {flag.partition("=")[0] for flag in flags}
    for key, name in names.items():
        section = options.get(key, {})
        if section.get("name", name) == name or rank_zero_only.rank != 0:
            continue
        kept = [f"{k}={v}" for k, v in section.items() if k != "name" and f"--{key}.{k}" not in given]
        stay = (
            f"its options of the {COMPONENT_TITLES[key]} stay in force: {', '.join(kept)}"
            if kept
            else "none of its options stay"
        )
        print(f"warning: {config} is made for {section['name']}, and {name} is used; {stay}.", file=sys.stderr)


def split_component_flags(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The names of model and data, and the arguments with all --config files first, so that flags win over them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for key in REGISTRIES:
        first.add_argument(f"--{key}")
        first.add_argument(f"--{key}.name", dest=f"{key}_name")
    first.add_argument("--config", action="append", default=[])
    known, flags = first.parse_known_args(argv)
    names = dict(DEFAULTS)
    known.config = [expand_user(config) for config in known.config]
    for config in known.config:
        names |= names_in(config)
    names |= {key: value for key in REGISTRIES if (value := named_by_flag(known, key)) is not None}
    for key, what in COMPONENT_TITLES.items():
        if names[key] not in REGISTRIES[key] and (meant := in_other_letters(REGISTRIES[key], names[key])):
            raise ValueError(f"Unknown {what} '{names[key]}', did you mean {meant}?")
        lookup(REGISTRIES[key], names[key], what)
    for config in known.config:
        warn_of_other_names(config, names, flags)
    configs = [f"--config={config}" for config in known.config]
    return names, [*configs, *(f"--{key}.name={name}" for key, name in names.items()), *flags]


def build_parser(names: dict[str, str]) -> ArgumentParser:
    """The options of train.py and, from the signatures, of this model, this data set and Lightning's Trainer."""
    description = (
        "Trains a model and reports its test likelihood. "
        f"--model MODEL: one of {', '.join(MODELS)}. --data DATA: one of {', '.join(DATAMODULES)}. "
        f"Below are the options of --model {names['model']} --data {names['data']}; name others beside --help to see "
        "theirs. Flags win over --config files, wherever they stand."
    )
    usage = "python train.py [--model MODEL] [--data DATA] [--config FILE] [options]"
    parser = ArgumentParser(
        prog="train.py", usage=usage, description=description, exit_on_error=False, allow_abbrev=False
    )
    add_run_options(parser)
    for key, table in REGISTRIES.items():
        parser.add_argument(f"--{key}.name", type=str, help=f"What --{key} gives.")
        chosen_class = table[names[key]]
        skip = {*chosen_class.data_args, *chosen_class.checkpoint_args} if key == "model" else set()
        parser.add_class_arguments(chosen_class, key, skip=skip, as_group=False)
    parser.add_class_arguments(Trainer, "trainer", skip=NOT_OFFERED, as_group=False)
    parser.set_defaults(
        {
            # Lightning's own choice would take Apple's mps, which has no float64, and all GPUs of a machine
            "trainer.accelerator": "cuda" if torch.cuda.is_available() else "cpu",
            "trainer.devices": launcher_world()[0],
            "trainer.num_nodes": launcher_world()[1],
            "trainer.max_epochs": min(table[names[key]].default_epochs for key, table in REGISTRIES.items()),
            "trainer.num_sanity_val_steps": 0,
            "trainer.enable_model_summary": False,
        }
    )
    for action in parser._actions:
        if action.dest.removeprefix("trainer.") in NO_EFFECT:
            action.help = argparse.SUPPRESS
    return parser


def option_names(parser: ArgumentParser) -> list[str]:
    """All options that train.py offers, without dashes."""
    idle = [f"trainer.{name}" for name in NO_EFFECT]
    keys = parser.get_defaults().keys(branches=False)
    return [key for key in keys if not key.endswith(".name") and key not in idle]


def add_run_options(parser: ArgumentParser) -> None:
    """The options that belong to the run, whatever the model and the data."""
    add = parser.add_argument
    add("--config", action="config", help="YAML file of options; several are read in order.")
    add("--seed", type=int, default=0, help="Of initialisation, order and noise (--data.seed: of splits).")
    add("--run_dir", type=str | None, default=None, help="Run folder; runs/<data>-<model>/<time> by default.")
    add("--resume", type=str | None, default=None, help="Checkpoint to go on from; auto: the run folder's last.")
    changes = "Resume although options of the model, the data or the steps have changed; those are named."
    add("--allow_changes", action=ActionYesNo, default=False, help=changes)
    add("--save_every_steps", type=int | None, default=None, help="Write last.ckpt also every so many steps.")
    add("--save_every_minutes", type=float | None, default=None, help="Write last.ckpt also every so many minutes.")
    threads = (
        "Threads of the processor, on which last digits depend; by default OMP_NUM_THREADS or by the size of the "
        "model, and those of a run that goes on."
    )
    add("--threads", type=int | None, default=None, help=threads)
    early = (
        "Stop after so many validations in a row without a higher val/bound; never by default. lr_final stays that of "
        "the last epoch or step that the limits allow."
    )
    add("--early_stopping", type=int | None, default=None, help=early)
    steps = (
        "Optimiser steps per call of the trainer, whose own work then costs less; signals and checkpoints wait for the "
        "end of a call. 1, saying so, where the trainer has to see each step, as on several devices."
    )
    add("--steps_per_call", type=int, default=1, help=steps)
    add(
        "--compile",
        action=ActionYesNo,
        default=False,
        help="Compile the loss, within half a minute; changes the last digits. Measure whether it pays.",
    )
    add("--wandb", type=Literal["off", "offline", "online"], default="off", help="Mirror the run in W&B.")
    usual = "by default those that the model supports, but for latent_codes_tsne."
    supported = f"Of {', '.join(CALLBACKS)}; {usual}"
    add("--callbacks", type=list[str] | None, default=None, help=supported)
    add_figure_options(parser)
    add("--num_samples", type=int, default=1000, help="K of the final evaluation; 0 skips it.")
    limit = "Evaluate the likelihood on the first N test images; by default on all, M2, M1M2 and AffineVAE on 1000."
    add("--limit", type=int | None, default=None, help=limit)


def add_figure_options(parser: ArgumentParser) -> None:
    """How figures are written: options of both train.py and evaluate.py."""
    add, defaults = parser.add_argument, FigureStyle()
    kinds = "Format of figures; W&B gets pixels in any case."
    add("--figure_format", type=Literal["png", "pdf", "svg"], default=defaults.format, help=kinds)
    add("--figure_dpi", type=int, default=defaults.dpi, help="Dots per inch of figures, from 50 to 600.")


def check_trainer(trainer: Namespace) -> None:
    """ValueError, in a sentence, for options of the Trainer that would do nothing or mean nothing."""
    for name, (idle, why) in NO_EFFECT.items():
        if trainer[name] != idle:
            raise ValueError(f"--trainer.{name} would do nothing: {why}. Leave it out.")
    if trainer.gradient_clip_algorithm is not None and trainer.gradient_clip_val is None:
        raise ValueError(
            "--trainer.gradient_clip_algorithm would do nothing without --trainer.gradient_clip_val: add it."
        )
    if trainer.profiler is not None and trainer.profiler not in PROFILERS:
        raise ValueError(f"--trainer.profiler must be one of {', '.join(PROFILERS)}; got {trainer.profiler}.")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps", "gradient_clip_val"):
        if trainer[name] is not None and not trainer[name] > 0:
            raise ValueError(f"--trainer.{name} must be above 0; got {trainer[name]}.")
    for name in ("max_epochs", "max_steps"):
        if trainer[name] is not None and trainer[name] < -1:
            raise ValueError(f"--trainer.{name} must be -1, for no limit, or more; got {trainer[name]}.")


def check_numbers(num_samples: int, limit: int | None, least: int = 1) -> None:
    """ValueError, in a sentence, for numbers of samples or images that mean nothing."""
    if num_samples < least:
        raise ValueError(f"--num_samples must be at least {least}; got {num_samples}.")
    if num_samples > MAX_SAMPLES:
        raise ValueError(
            f"--num_samples must be at most {MAX_SAMPLES:,}; got {num_samples:,}, which would not end; 5000 is usual."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1; got {limit}.")
