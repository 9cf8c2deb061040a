"""Read a sweep file in W&B's format and expand its grid."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cli.errors import explain_yaml_error
from cli.yaml_files import read_yaml_file

KEYS = ("program", "method", "parameters", "command", "name", "description", "metric", "project", "entity")
MACROS = ("${env}", "${interpreter}", "${program}", "${args}")  # placeholders in `command` that W&B's agent replaces


class Sweep(NamedTuple):
    """A grid of options of train.py.

    Args:
        file: The YAML file.
        fixed: Options with one `value`, by name without leading dashes.
        swept: Options with several `values`, by name, in the order of the file.
        command: Further command-line words that all runs share, from the section `command`.
    """

    file: Path
    fixed: dict[str, Any]
    swept: dict[str, list[Any]]
    command: list[str]

    @property
    def name(self) -> str:
        """Return the name of the file without its extension."""
        return self.file.stem

    def points(self) -> list[dict[str, Any]]:
        """Return all combinations of the swept options; the last option of the file changes fastest."""
        return [dict(zip(self.swept, values, strict=True)) for values in itertools.product(*self.swept.values())]


def read_sweep(file: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        ValueError: The file cannot be read, or it needs W&B: only grids of listed values run without it.
    """
    content = read_yaml(file)
    if content.get("program") != "train.py":
        raise ValueError(f"{file}: program must be train.py; it is {content.get('program')}.")
    if content.get("method") != "grid":
        raise ValueError(
            f"{file}: without W&B only 'method: grid' is supported, not {content.get('method')}: use 'wandb sweep'."
        )
    if "early_terminate" in content:
        raise ValueError(f"{file}: early_terminate is only supported by W&B: remove it, or use 'wandb sweep'.")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{file}: {unknown[0]} is not supported without W&B: remove it, or use 'wandb sweep'.")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"{file} needs a section 'parameters' that maps option names to 'value' or 'values'.")
    fixed, swept = {}, {}
    for name, parameter in parameters.items():
        if not isinstance(name, str):
            raise ValueError(f"{file}: {name} is not the name of an option: write names such as model.z_dim.")
        if not isinstance(parameter, dict) or ("value" in parameter) == ("values" in parameter):
            raise ValueError(
                f"{file}: parameter {name} must have either 'value' or 'values', such as 'values: [1, 2]'."
            )
        if unknown := [key for key in parameter if key not in ("value", "values", "distribution")]:
            raise ValueError(f"{file}: parameter {name} has {unknown[0]}: without W&B, only 'value' and 'values' work.")
        if "value" in parameter:
            fixed[name] = check_value(file, name, parameter["value"])
        else:
            swept[name] = check_values(file, name, parameter["values"])
    if not swept:
        raise ValueError(f"{file}: no parameter has 'values': there is nothing to sweep.")
    command = command_options(file, content.get("command", list(MACROS)))
    if twice := [name for name in option_names(command) if name in option_names(option_words(fixed | swept))]:
        raise ValueError(f"{file}: {twice[0]} is in both 'parameters' and 'command': remove one of them.")
    return Sweep(file, fixed, swept, command)


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file.

    Raises:
        ValueError: The file cannot be read, or is not a mapping.
    """
    try:
        content = read_yaml_file(file)
    except FileNotFoundError as error:
        raise ValueError(f"There is no sweep file {file}: name a file such as sweeps/objectives.yaml first.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read as a YAML file: {explain_yaml_error(error)}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a sweep file: it needs 'program', 'method' and 'parameters'.")
    return content


def check_values(file: Path, name: str, values: Any) -> list[Any]:
    """Return the values of a parameter.

    Raises:
        ValueError: They are not a list, there are none, or a value is listed twice.
    """
    if not isinstance(values, list) or not values:
        raise ValueError(f"{file}: the values of {name} must be a list with at least one entry; got {values}.")
    texts = [option_text(check_value(file, name, value)) for value in values]
    if repeated := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"{file}: {name} lists the value {repeated[0]} twice.")
    return values


def check_value(file: Path, name: str, value: Any) -> Any:
    """Return a value of a parameter.

    Raises:
        ValueError: It is of a type that only YAML has, such as a date.
    """
    try:
        option_text(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: the value {value} of {name} is a {type(value).__name__}: write it in quotes."
        ) from error
    return value


def command_options(file: Path, command: Any) -> list[str]:
    """Return the words of the section `command` that are options of train.py, without those of W&B.

    Raises:
        ValueError: The section contains placeholders that this program does not know, or no `${args}`.
    """
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "${args}" not in words:
        raise ValueError(f"{file}: 'command' must be a list that contains ${{args}}.")
    if unknown := [word for word in words if "${" in word and word not in MACROS]:
        raise ValueError(f"{file}: 'command' contains {unknown[0]}; supported are {', '.join(MACROS)}.")
    options: list[str] = []
    is_wandb = False
    for word in words:
        if word.startswith("--"):
            is_wandb = word.startswith("--wandb")
        if word not in MACROS and not is_wandb and (options or word.startswith("--")):
            options.append(word)
    return options


def option_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def option_words(options: dict[str, Any]) -> list[str]:
    """Return options as command-line words, written as W&B's agent does."""
    return [f"--{name}={option_text(value)}" for name, value in options.items()]


def option_names(words: Sequence[str]) -> list[str]:
    """Return the names of the options among command-line words; `model.name` is `model`, and `data.name` is `data`."""
    names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    return [name.removesuffix(".name") for name in names]
