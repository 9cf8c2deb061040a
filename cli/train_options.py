"""Options of train.py: from signatures of classes and from configuration files, with validation."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace, get_loader, set_loader
from pytorch_lightning import Trainer

from callbacks import CALLBACKS
from callbacks.wandb_environment import PROJECT
from cli.errors import explain_yaml_error
from cli.suggestions import match_ignoring_case
from cli.yaml_files import read_yaml_file
from datamodules import DATAMODULES
from models import MODELS, Model
from models.likelihoods import LIKELIHOODS
from models.networks.layers import lookup
from runtime.figure_files import FigureStyle
from runtime.processes import global_rank, launcher_world

MAX_SAMPLES = 10_000_000  # per image; takes minutes for one image and weeks for all of MNIST
PROFILERS = ("simple", "advanced", "pytorch")  # names in Lightning
DEFAULTS = {"model": "VAE", "data": "MNISTSubset"}
COMPONENT_TITLES = {"model": "model", "data": "data set"}
REGISTRIES: dict[str, dict[str, Any]] = {"model": MODELS, "data": DATAMODULES}
# Arguments of the Trainer that train.py sets itself, or that have no effect with our batch iterator
EXCLUDED_TRAINER_OPTIONS = {
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
# Arguments of the Trainer without effect, as option -> (default, reason). Configuration files of earlier runs contain
# them with their defaults, so that they must be accepted.
NO_EFFECT = {
    "limit_test_batches": (None, "use --num_samples and --limit for tests"),
    "limit_predict_batches": (None, "train.py does not predict"),
    "inference_mode": (True, "validation never computes gradients"),
}
MAX_WANDB_NAME, MAX_WANDB_TAG = 128, 64  # characters that W&B permits
WANDB_RESERVED = "/\\#?%:"  # characters that W&B does not permit in names of projects
OPTION_FILE = "option_file"  # name of the loader below


def load_options(text: str) -> Any:
    """Return the content of a YAML file of options; `wandb: offline`, the short form, becomes `wandb: {mode: offline}`.

    The parser also calls this for single values from the command line.
    """
    options = get_loader("yaml")(text)
    if not isinstance(options, dict) or "wandb" not in options:
        return options
    section = options["wandb"] if isinstance(options["wandb"], dict) else {"mode": options["wandb"]}
    if "mode" in section and not section["mode"]:  # in YAML, off without quotes means false; null is none
        section["mode"] = "off"
    return options | {"wandb": section}


set_loader(OPTION_FILE, load_options, exceptions=(yaml.YAMLError,))


def expand_user(path: str) -> str:
    """Return a path with a leading `~` or `~name` replaced by that user's home folder.

    Raises:
        ValueError: If there is no such user.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: that user has no home folder: write the full path, or ./{path} for a file name.")
    return expanded


def expand_paths(args: Namespace) -> Namespace:
    """Expand `~` in all options, whether from the command line or from configuration files.

    This is the only place that does, so that all code uses the same folder. Only paths can begin with `~`. Environment
    variables are left to the shell.
    """
    for key, value in args.items(branches=False):
        if isinstance(value, str):
            args[key] = expand_user(value)
        elif isinstance(value, list):
            args[key] = [expand_user(part) if isinstance(part, str) else part for part in value]
    return args


def component_names_in_config(config: str) -> dict[str, str]:
    """Return the names of the model and the data set in a YAML file of options, as far as it contains them.

    Raises:
        ValueError: If the file cannot be read or is not a file of options.
    """
    try:
        options = read_yaml_file(config)
    except FileNotFoundError as error:
        raise ValueError(f"--config {config} was not found.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{config} cannot be read as a YAML file of options: {explain_yaml_error(error)}.") from error
    if not isinstance(options, dict):
        raise ValueError(f"{config} is not a YAML file of options such as 'seed: 0'.")
    for key in REGISTRIES.keys() & options.keys():
        if not isinstance(options[key], dict):
            raise ValueError(
                f"In {config}, {key} must be a section with a name: write '{key}: {{name: {options[key]}}}'."
            )
    return {key: options[key]["name"] for key in REGISTRIES if "name" in options.get(key, {})}


def value_of_either_form(flags: argparse.Namespace, key: str, long_key: str) -> str | None:
    """Return the value of an option with a short and a long form, such as --model and --model.name, or None.

    Raises:
        ValueError: If both are given and differ.
    """
    short, long = getattr(flags, key), getattr(flags, f"{key}_{long_key}")
    if short is not None and long is not None and short != long:
        raise ValueError(f"--{key} {short} and --{key}.{long_key} {long} disagree: give one of them.")
    return long if short is None else short


def warn_if_config_is_for_other_component(config: str, names: dict[str, str], flags: list[str]) -> None:
    """Print a warning if a file was written for another model or data set, with the options that still apply.

    Args:
        config: The file.
        names: Names of the chosen model and data set.
        flags: Command line, which overrides the file.
    """
    options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    given = {flag.partition("=")[0] for flag in flags}
    for key, name in names.items():
        section = options.get(key, {})
        if section.get("name", name) == name or global_rank() != 0:
            continue
        applied = [f"{k}={v}" for k, v in section.items() if k != "name" and f"--{key}.{k}" not in given]
        effect = (
            f"its options of the {COMPONENT_TITLES[key]} still apply: {', '.join(applied)}"
            if applied
            else "none of its options apply"
        )
        print(f"warning: {config} was written for {section['name']}, but {name} is used; {effect}.", file=sys.stderr)


def split_component_flags(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the names of the model and the data set, and the arguments for the parser that these names determine.

    The arguments begin with all --config files, so that flags override them wherever they stand.

    Raises:
        ValueError: If a name is unknown, or a file cannot be read.
    """
    first_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for key in REGISTRIES:
        first_parser.add_argument(f"--{key}")
        first_parser.add_argument(f"--{key}.name", dest=f"{key}_name")
    first_parser.add_argument("--wandb")
    first_parser.add_argument("--wandb.mode", dest="wandb_mode")
    first_parser.add_argument("--config", action="append", default=[])
    first_args, flags = first_parser.parse_known_args(argv)
    configs = [expand_user(config) for config in first_args.config]

    names = dict(DEFAULTS)
    for config in configs:
        names |= component_names_in_config(config)
    given = {key: value_of_either_form(first_args, key, "name") for key in REGISTRIES}
    names |= {key: name for key, name in given.items() if name is not None}
    for key, title in COMPONENT_TITLES.items():
        if names[key] not in REGISTRIES[key] and (match := match_ignoring_case(REGISTRIES[key], names[key])):
            raise ValueError(f"Unknown {title} '{names[key]}', did you mean {match}?")
        lookup(REGISTRIES[key], names[key], title)
    for config in configs:
        warn_if_config_is_for_other_component(config, names, flags)

    config_flags = [f"--config={config}" for config in configs]
    name_flags = [f"--{key}.name={name}" for key, name in names.items()]
    wandb_mode = value_of_either_form(first_args, "wandb", "mode")
    wandb_flags = [] if wandb_mode is None else [f"--wandb.mode={wandb_mode}"]
    return names, [*config_flags, *name_flags, *wandb_flags, *flags]


def chosen_likelihood(flags: Sequence[str]) -> str | None:
    """Return the value of --model.likelihood in the arguments or else in their --config files, or None.

    Args:
        flags: Arguments that `split_component_flags` returned, so that all files are readable.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--model.likelihood", dest="likelihood", nargs="?")
    args, _ = parser.parse_known_args(flags)
    found = None
    for config in args.config:
        options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        found = options.get("model.likelihood", options.get("model", {}).get("likelihood", found))
    return args.likelihood or found


def default_binarization(model: type[Model], flags: Sequence[str]) -> str | None:
    """Return the default of --data.binarization, or None to keep the data set's own default.

    A model may name one. Otherwise, it is the first protocol of the likelihood that the arguments choose.
    """
    if model.default_binarization is not None:
        return model.default_binarization
    likelihood = LIKELIHOODS.get(str(chosen_likelihood(flags)))
    return None if likelihood is None else likelihood.protocols[0]


def build_parser(names: dict[str, str], flags: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser of train.py, with options from the signatures of the model, the data set and the Trainer.

    Args:
        names: Names of the model and the data set.
        flags: The arguments, both as `split_component_flags` returns them. The default of --data.binarization depends
            on the likelihood that they choose.
    """
    description = (
        "Train a model and report its test likelihood. "
        f"--model MODEL: one of {', '.join(MODELS)}. --data DATA: one of {', '.join(DATAMODULES)}. "
        f"The options below are those of --model {names['model']} --data {names['data']}; add other names to --help to "
        "see theirs. Flags override --config files, in any order."
    )
    usage = "python train.py [--model MODEL] [--data DATA] [--config FILE] [options]"
    parser = ArgumentParser(
        prog="train.py",
        usage=usage,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=OPTION_FILE,
    )
    add_run_options(parser)
    for key, table in REGISTRIES.items():
        parser.add_argument(f"--{key}.name", type=str, help=f"Long form of --{key}.")
        chosen_class = table[names[key]]
        skip = {*chosen_class.data_args, *chosen_class.checkpoint_args} if key == "model" else set()
        parser.add_class_arguments(chosen_class, key, skip=skip, as_group=False)
    parser.add_class_arguments(Trainer, "trainer", skip=EXCLUDED_TRAINER_OPTIONS, as_group=False)
    parser.set_defaults(
        {
            # Lightning's defaults would use Apple's mps, which lacks float64, and all GPUs of a machine.
            "trainer.accelerator": "cuda" if torch.cuda.is_available() else "cpu",
            "trainer.devices": launcher_world()[0],
            "trainer.num_nodes": launcher_world()[1],
            "trainer.max_epochs": min(table[names[key]].default_epochs for key, table in REGISTRIES.items()),
            "trainer.num_sanity_val_steps": 0,
            "trainer.enable_model_summary": False,
        }
    )
    binarization = default_binarization(MODELS[names["model"]], flags)
    if binarization is not None and "data.binarization" in parser.get_defaults():
        parser.set_defaults({"data.binarization": binarization})
    for action in parser._actions:
        if action.dest.removeprefix("trainer.") in NO_EFFECT:
            action.help = argparse.SUPPRESS
    return parser


def option_names(parser: ArgumentParser) -> list[str]:
    """Return all options of train.py that have an effect, without leading dashes."""
    no_effect = [f"trainer.{name}" for name in NO_EFFECT]
    keys = ["wandb" if key == "wandb.mode" else key for key in parser.get_defaults().keys(branches=False)]
    return [key for key in keys if not key.endswith(".name") and key not in no_effect]


def add_run_options(parser: ArgumentParser) -> None:
    """Add the options that do not depend on the model and the data set."""
    add = parser.add_argument
    add("--config", action="config", help="YAML file of options; several files are read in order.")
    add(
        "--seed",
        type=int,
        default=0,
        help="Seed of initialisation, order and noise (--data.seed is that of the splits).",
    )
    add("--run_dir", type=str | None, default=None, help="Run folder; runs/<data>-<model>/<time> by default.")
    add(
        "--resume",
        type=str | None,
        default=None,
        help="Checkpoint to resume from; auto is the last one in the run folder, if there is one.",
    )
    add(
        "--allow_changes",
        action=ActionYesNo,
        default=False,
        help="Resume even if options of the model, the data or the steps have changed; the changes are printed.",
    )
    add("--save_every_steps", type=int | None, default=None, help="Also write last.ckpt every N steps.")
    add("--save_every_minutes", type=float | None, default=None, help="Also write last.ckpt every N minutes.")
    add(
        "--threads",
        type=int | None,
        default=None,
        help="CPU threads; their number affects rounding. By default that of the resumed run, OMP_NUM_THREADS, or one "
        "chosen by the size of the model.",
    )
    add(
        "--early_stopping",
        type=int | None,
        default=None,
        help="Stop after N consecutive validations without a higher val/bound; off by default. The learning rate "
        "schedule (lr_final) still refers to the last epoch or step that the limits allow.",
    )
    add(
        "--ema",
        type=float | None,
        default=None,
        help="Decay of an exponential moving average of the weights, such as 0.999; none by default. Validation, "
        "figures and evaluation use the average, and checkpoints hold it. In the first steps the decay is lower.",
    )
    add(
        "--steps_per_call",
        type=int | Literal["auto"],
        default="auto",
        help="Optimizer steps per training_step, to reduce the overhead of the Trainer. Signals and checkpoints are "
        "handled after the last of them. On a CPU, results do not depend on the number. auto chooses it by the size of "
        "the model, and 1 where the Trainer must see each step, as on several devices.",
    )
    add(
        "--cuda_graph",
        type=bool,
        default=True,
        help="Capture an optimizer step as a CUDA graph and replay it, on one GPU with several steps per call. Affects "
        "rounding. If the step cannot be captured, a warning is printed and its kernels are launched one by one.",
    )
    add(
        "--compile",
        action=ActionYesNo,
        default=False,
        help="Compile the loss, which takes up to half a minute and affects rounding. Measure whether it is faster.",
    )
    add_wandb_options(parser)
    add(
        "--callbacks",
        type=list[str] | None,
        default=None,
        help=f"Any of {', '.join(CALLBACKS)}; by default all that the model supports except latent_codes_tsne.",
    )
    add_figure_options(parser)
    add("--num_samples", type=int, default=1000, help="Importance samples K of the final evaluation; 0 skips it.")
    add(
        "--evaluate",
        type=Literal["best", "last"],
        default="best",
        help="Checkpoint of the final evaluation: that with the highest val/bound, or that of the last epoch.",
    )
    add_limit_option(parser)


def add_wandb_options(parser: ArgumentParser) -> None:
    """Add the options of W&B. `--wandb MODE` is short for `--wandb.mode MODE`."""
    add = parser.add_argument
    add(
        "--wandb.mode",
        type=Literal["off", "offline", "online"],
        default="off",
        help="Mirror the run in W&B; offline writes to the run folder only. --wandb MODE is the short form. "
        "Environment variables of W&B take precedence over these options.",
    )
    add(
        "--wandb.project",
        type=str | None,
        default=None,
        help=f"W&B project; by default that of the resumed run, or {PROJECT}.",
    )
    add(
        "--wandb.entity",
        type=str | None,
        default=None,
        help="W&B user or team; by default that of the resumed run, or the default of the account.",
    )
    add("--wandb.tags", type=list[str] | None, default=None, help="Tags of the W&B run, such as [baseline,long].")
    add("--wandb.notes", type=str | None, default=None, help="Notes on the W&B run.")


def add_limit_option(parser: ArgumentParser) -> None:
    """Add --limit, which train.py and evaluate.py share."""
    parser.add_argument(
        "--limit",
        type=int | None,
        default=None,
        help="Evaluate the likelihood on the first N test images; by default on all (M2, M1M2, ADGM, SDGM, "
        "AffineVAE, DRAW: on 1000).",
    )


def add_figure_options(parser: ArgumentParser) -> None:
    """Add the options of figure files, which train.py and evaluate.py share."""
    add, defaults = parser.add_argument, FigureStyle()
    add(
        "--figure_format",
        type=Literal["png", "pdf", "svg"],
        default=defaults.format,
        help="File format of figures; W&B always gets PNG.",
    )
    add("--figure_dpi", type=int, default=defaults.dpi, help="Resolution of figures in dots per inch, 50 to 600.")


def check_trainer(trainer: Namespace) -> None:
    """Raise ValueError if options of the Trainer are invalid or have no effect."""
    for name, (default, reason) in NO_EFFECT.items():
        if trainer[name] != default:
            raise ValueError(f"--trainer.{name} has no effect: {reason}. Leave it out.")
    if trainer.gradient_clip_algorithm is not None and trainer.gradient_clip_val is None:
        raise ValueError("--trainer.gradient_clip_algorithm has no effect without --trainer.gradient_clip_val: add it.")
    if trainer.profiler is not None and trainer.profiler not in PROFILERS:
        raise ValueError(f"--trainer.profiler must be one of {', '.join(PROFILERS)}; got {trainer.profiler}.")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps", "gradient_clip_val"):
        if trainer[name] is not None and not trainer[name] > 0:
            raise ValueError(f"--trainer.{name} must be above 0; got {trainer[name]}.")
    for name in ("max_epochs", "max_steps"):
        if trainer[name] is not None and trainer[name] < -1:
            raise ValueError(f"--trainer.{name} must be -1 (no limit) or at least 0; got {trainer[name]}.")


def check_wandb(options: Namespace) -> None:
    """Raise ValueError if an option of W&B is invalid. Print a warning if options are given although W&B is off."""
    for name in ("project", "entity"):
        value = options[name]
        if value is None:
            continue
        if not value.strip() or len(value) > MAX_WANDB_NAME or any(mark in value for mark in WANDB_RESERVED):
            raise ValueError(
                f"--wandb.{name} must have 1 to {MAX_WANDB_NAME} characters, none of them {' '.join(WANDB_RESERVED)}; "
                f"got {value!r}."
            )
    for tag in options.tags or ():
        if not 1 <= len(tag) <= MAX_WANDB_TAG:
            raise ValueError(f"--wandb.tags must each have 1 to {MAX_WANDB_TAG} characters; got {tag!r}.")
    given = [f"--wandb.{name}" for name, value in options.items() if name != "mode" and value is not None]
    if given and options.mode == "off" and global_rank() == 0:
        print(f"warning: {', '.join(given)} has no effect: --wandb is off.", file=sys.stderr)


def check_numbers(num_samples: int, limit: int | None, least: int = 1) -> None:
    """Raise ValueError if --num_samples or --limit is out of range; `least` is the minimum of --num_samples."""
    if num_samples < least:
        raise ValueError(f"--num_samples must be at least {least}; got {num_samples}.")
    if num_samples > MAX_SAMPLES:
        raise ValueError(
            f"--num_samples must be at most {MAX_SAMPLES:,}; got {num_samples:,}. 5000 is a common choice."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1; got {limit}.")
