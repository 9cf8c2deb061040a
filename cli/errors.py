"""Errors as one-sentence messages: what is wrong, what is allowed, what to do."""

import errno
import re

from cli.suggestions import suggest, why_not


def explain_error(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'} cannot be used: {error.strerror}."
    said = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError | RuntimeError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


# Errors of the system that more room or another folder mends; not every platform has all of them
NO_ROOM = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM")} - {None}
WORDS = {
    "NoneType": "null",
    "Sequence": "a list such as [100,50] or [rotation,shift]",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list": "a list such as [400,400]",
    "str": "text",
}


def explain(error: Exception, names: dict[str, str], known: list[str]) -> str:
    """What went wrong, what is allowed and what to do, on one line.

    Args:
        error: Of the parser, or a ValueError of what was built from the options.
        names: The model and the data chosen.
        known: All options, without dashes.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or 'A file'} cannot be used: {error.strerror}."
        if error.errno in NO_ROOM:
            text += " Make room or permit writing there, or choose another --run_dir."
    elif stray := re.match(r"unrecognized arguments: ([^-\s]\S*)", text):
        rule = "values need the name of their option, as in --model VAE" if names else "name all checkpoints together"
        text = f"Unexpected argument {stray[1]}: {rule}."
    elif unknown := re.match(r"unrecognized arguments: -{0,2}([^\s=]+)|Option '([^']+)' is not accepted", text):
        text = explain_unknown(unknown[1] or unknown[2], names, known)
    elif needed := re.match(r"the following arguments are required: (\S+)", text):
        option, section = needed[1], needed[1].partition(".")[0]
        text = f"{names[section]} needs --{option}." if section in names else f"Give one {option.rstrip('s')} or more."
    elif wrong := re.match(r'Parser key "([^"]+)":\s+(?:Expected|Does not validate)', text):
        expected = re.findall(r"Expected (?:a )?(?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])", text)
        allowed = [
            WORDS.get(kind.rpartition(".")[2], kind) or f"one of {literal}".replace("'", "")
            for kind, literal in expected
        ]
        value = re.findall(r"(?:Got|Given) value: (.*)", text)[-1]
        text = f"--{wrong[1]} takes {' or '.join(dict.fromkeys(allowed))}; got {value}."
        if wrong[1] in ("callbacks", "figures"):
            text = text.replace("[400,400]", "[samples,traversals]")
    return " ".join(text.split())


def explain_unknown(option: str, names: dict[str, str], known: list[str]) -> str:
    """A sentence for an option that does not exist: the one that was meant, or all of its section."""
    sections = [part for key in names for part in (key, f"{key}.name")]  # of train.py
    if why := why_not(option):
        return f"Unknown option --{option}: {why}. Leave it out."
    if guess := suggest(option, [*known, *sections]):
        # the path of a checkpoint stands alone in evaluate.py
        return f"Unknown option --{option}, did you mean {'' if guess == 'checkpoints' else '--'}{guess}?"
    section = option.partition(".")[0] if "." in option else ""
    same = [name for name in known if name.rpartition(".")[0] == section] or known
    owner = f"{names[section]} takes" if section in names else "There are"
    return f"Unknown option --{option}. {owner} {', '.join('--' + name for name in same)}."
