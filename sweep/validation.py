"""Check all runs of a sweep before the first one starts, and find those that are finished."""

import json
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
import train
from cli.errors import explain_option_error
from cli.train_options import DEFAULTS, build_parser, expand_paths, option_names, split_component_flags
from datamodules import ImageData
from runtime.run_folder import resolve_run_dir
from sweep.finished import is_finished
from sweep.runs import Run

CACHED_DATA_SETS = 4  # loaded data sets that are kept: runs may differ in options of the data


def check_runs(runs: Sequence[Run], for_this_machine: bool) -> list[bool]:
    """Check the options of all runs as train.py does before training, and return which of them are finished.

    Args:
        runs: The runs.
        for_this_machine: Whether they will run here; otherwise accelerator and number of devices are not checked.

    Raises:
        ValueError: An option does not exist or has an invalid value, or two runs have the same options.
    """
    names: dict[str, str] = {}  # of the runs, by their options

    @lru_cache(CACHED_DATA_SETS)
    def load_cached(options: str) -> ImageData:
        return train.load_data(Namespace(data=Namespace(**json.loads(options))))

    def load_data(args: Namespace) -> ImageData:
        return load_cached(json.dumps(args.data.as_dict()))

    finished = []
    for run in runs:
        config, is_run_finished = check_run(run, load_data, for_this_machine)
        other = names.setdefault(json.dumps(config, sort_keys=True, default=str), run.name)
        if other != run.name:
            raise ValueError(f"{other} and {run.name} have the same options: remove one of these values.")
        finished.append(is_run_finished)
    return finished


def check_run(
    run: Run, load_data: Callable[[Namespace], ImageData], for_this_machine: bool
) -> tuple[dict[str, Any], bool]:
    """Check the options of a run, and return all of them and whether it is finished.

    Args:
        run: The run.
        load_data: Returns the data that parsed options describe.
        for_this_machine: As for `check_runs`.

    Raises:
        ValueError: An option does not exist or has an invalid value.
    """
    names: dict[str, str] = DEFAULTS
    known: list[str] = []
    try:
        names, flags = split_component_flags([*run.options, "--run_dir", str(run.folder), "--resume", "auto"])
        parser = build_parser(names, flags)
        known = option_names(parser)
        args = expand_paths(parser.parse_args(flags))
        train.check_options(args)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in train.LAUNCH_ONLY_OPTIONS}
        resolve_run_dir(args)
        data = load_data(args)
        data.run_seed = args.seed
        model = train.build_model(args, data)
        check_trainer(args, model, run, for_this_machine)
        return config, is_finished(run.folder, args, config, data)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        raise ValueError(f"{run.name}: {explain_option_error(error, names, known)}") from error


def check_trainer(args: Namespace, model: Any, run: Run, for_this_machine: bool) -> None:
    """Raise ValueError if train.py could not build the Trainer of a run."""
    args = args.clone()
    if not for_this_machine:
        args.trainer.accelerator, args.trainer.devices, args.trainer.num_nodes = "cpu", 1, 1
    trainer = train.make_trainer(args, model, 1, run.folder, callbacks.RunStart(lambda trainer: None))
    train.check_own_steps(trainer, model)
