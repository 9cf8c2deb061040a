"""Errors as one-sentence messages: what is wrong, what is allowed, what to do."""

import errno
import re

import yaml

from cli.suggestions import reason_for_missing_option, suggest

# Errors that more disk space, other permissions or another folder resolve; not every platform defines all of them.
STORAGE_ERRORS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM")} - {None}
MAX_LISTED = 12  # options that a message lists; for more it names the command that does
SHORT_FORMS = {"wandb.mode": "wandb"}
TYPE_DESCRIPTIONS = {
    "NoneType": "null",
    "Sequence": "a list such as [100,50]",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list": "a list such as [400,400]",
    "str": "text",
}


def explain_error(error: Exception) -> str:
    """Return the message of any error on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'} cannot be used: {error.strerror}."
    message = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError | RuntimeError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def explain_option_error(error: Exception, names: dict[str, str], known: list[str]) -> str:
    """Return the message of an error in the options on one line.

    Args:
        error: An error of the parser or of the file system, or a ValueError raised for the value of an option.
        names: Names of the chosen model and data set; empty for evaluate.py.
        known: All options, without leading dashes.
    """
    if isinstance(error, OSError) and error.strerror:
        text = explain_file_error(error)
    else:
        text = explain_parser_error(str(error), names, known)
    return " ".join(text.split())


def explain_file_error(error: OSError) -> str:
    """Return the message of an error of the file system, with advice if the run folder is the likely cause."""
    text = f"{error.filename or 'A file'} cannot be used: {error.strerror}."
    if error.errno in STORAGE_ERRORS:
        text += " Free disk space, change the permissions, or choose another --run_dir."
    return text


def explain_yaml_error(error: OSError | UnicodeDecodeError | yaml.YAMLError) -> str:
    """Return why a YAML file cannot be read, on one line and without a full stop."""
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def explain_parser_error(text: str, names: dict[str, str], known: list[str]) -> str:
    """Return a clearer version of a message of jsonargparse, or the message itself if it is not recognised."""
    if positional := re.match(r"unrecognized arguments: ([^-\s]\S*)", text):
        rule = "values need the name of their option, as in --model VAE" if names else "name all checkpoints together"
        return f"Unexpected argument {positional[1]}: {rule}."
    if unknown := re.match(r"unrecognized arguments: -{0,2}([^\s=]+)|Option '([^']+)' is not accepted", text):
        return explain_unknown_option(unknown[1] or unknown[2], names, known)
    if required := re.match(r"the following arguments are required: (\S+)", text):
        option, section = required[1], required[1].partition(".")[0]
        return f"{names[section]} needs --{option}." if section in names else f"Give one {option.rstrip('s')} or more."
    if empty := re.match(r"argument (--[\w.]+): expected one argument", text):
        return f"{empty[1]} needs a value: write {empty[1]} VALUE."
    if switch := re.match(r"argument (--\w+)/(--no_\w+): ignored explicit argument", text):
        return f"{switch[1]} takes no value: write {switch[1]} or {switch[2]}."
    if invalid := re.match(r'Parser key "([^"]+)":\s+(?:Expected|Does not validate)', text):
        return explain_invalid_value(invalid[1], text)
    return text


def explain_invalid_value(option: str, text: str) -> str:
    """Return the message for a value of the wrong type, from the message `text` of jsonargparse."""
    expected = re.findall(r"Expected (?:a )?(?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])", text)
    allowed = [
        TYPE_DESCRIPTIONS.get(type_name.rpartition(".")[2], type_name) or f"one of {literal}".replace("'", "")
        for type_name, literal in expected
    ]
    value = re.findall(r"(?:Got|Given) value: (.*)", text)[-1]
    option = SHORT_FORMS.get(option, option)
    if value.startswith("[") and re.search(r"(?:Sequence|list)\[int\]", text):  # a list with a wrong element
        allowed = ["a list of whole numbers" if name == TYPE_DESCRIPTIONS["int"] else name for name in allowed]
    message = f"--{option} takes {' or '.join(dict.fromkeys(allowed))}; got {value}."
    if option == "model.transforms":
        message = message.replace("[100,50]", "[rotation,shift]")
    if option in ("callbacks", "figures"):
        message = message.replace("[400,400]", "[samples,traversals]")
    if option == "wandb.tags":
        message = message.replace("[400,400]", "[baseline,long]")
    return message


def explain_unknown_option(option: str, names: dict[str, str], known: list[str]) -> str:
    """Return the message for an option that does not exist: a suggestion, or where to find those of its section."""
    sections = [part for key in names for part in (key, f"{key}.name")]  # --model and --data of train.py
    if reason := reason_for_missing_option(option):
        return f"Unknown option --{option}: {reason}. Leave it out."
    if guess := suggest(option, [*known, *sections]):
        # evaluate.py takes the paths of checkpoints as positional arguments.
        return f"Unknown option --{option}, did you mean {'' if guess == 'checkpoints' else '--'}{guess}?"
    section = option.partition(".")[0] if "." in option else ""
    alternatives = [name for name in known if name.rpartition(".")[0] == section] or known
    if len(alternatives) > MAX_LISTED:
        chosen, of_owner = (f" --{section} {names[section]}", f" of {names[section]}") if section in names else ("", "")
        program = "train.py" if names else "evaluate.py"
        return f"Unknown option --{option}. All options{of_owner}: python {program}{chosen} --help"
    owner = f"{names[section]} takes" if section in names else "There are"
    return f"Unknown option --{option}. {owner} {', '.join('--' + name for name in alternatives)}."
