"""W&B's environment variables, which take precedence over the defaults of this project."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_only

from runtime.atomic_write import atomic_write

PROJECT = "elbo-room"
# Arguments of wandb.init and their environment variables
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "id": "WANDB_RUN_ID",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
    "dir": "WANDB_DIR",
    "resume": "WANDB_RESUME",
}
IN_SWEEPS = ("project", "entity", "id")  # set by the sweep agent; W&B warns if they are given again

Mode = Literal["off", "offline", "online"]


def is_set(variable: str) -> bool:
    """Return whether an environment variable is set to a non-empty value."""
    return bool(os.environ.get(variable, "").strip())


def is_sweep() -> bool:
    """Return whether a sweep agent started this process."""
    return is_set("WANDB_SWEEP_ID")


def mode(option: Mode) -> Mode:
    """Return the mode of W&B: the more restrictive of --wandb and of WANDB_MODE or WANDB_DISABLED.

    If the environment overrides the option, print a warning.
    """
    variable = next((name for name in ("WANDB_DISABLED", "WANDB_MODE") if is_set(name)), None)
    if option == "off" or variable is None:
        return option
    if disabled():
        _print_stderr(f"warning: W&B is switched off by {disabled()}, although --wandb is {option}.")
        return "off"
    if option == "online" and os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun"):
        _print_stderr(f"warning: W&B writes to disk only because of WANDB_MODE={os.environ['WANDB_MODE']}.")
        return "offline"
    return option


def warn_about_overridden(options: dict[str, Any]) -> None:
    """Print a warning for options of the user that an environment variable overrides with another value.

    Args:
        options: Arguments of wandb.init that the user has given by options; None if not given.
    """
    for name, value in options.items():
        if value is None or not is_set(VARIABLES[name]):
            continue
        used = os.environ[VARIABLES[name]].strip()
        if used != (",".join(value) if isinstance(value, list) else value):
            _print_stderr(f"warning: W&B uses {VARIABLES[name]}={used} instead of --wandb.{name}.")


def disabled() -> str:
    """Return the variable that switches W&B off, with its value, or an empty string."""
    if os.environ.get("WANDB_MODE", "").lower() == "disabled":
        return f"WANDB_MODE={os.environ['WANDB_MODE']}"
    value = os.environ.get("WANDB_DISABLED", "")
    return f"WANDB_DISABLED={value}" if value.lower() in ("true", "1", "yes", "on", "t", "y") else ""


@rank_zero_only
def _print_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def settings(offline: bool, init_seconds: float, finish_seconds: float):
    """Return settings of a W&B run: short timeouts and no output, unless environment variables are set.

    Args:
        offline: Write to disk only.
        init_seconds: Timeout before the run starts.
        finish_seconds: Timeout when it ends.
    """
    import wandb

    options: dict[str, Any] = {
        "init_timeout": init_seconds,
        "finish_timeout": finish_seconds,
        "finish_timeout_raises": True,
        # offline, print_sync_command prints the only line; online, W&B shows the address of the run
        "silent" if offline else "quiet": True,
    }
    options = {name: value for name, value in options.items() if not is_set(f"WANDB_{name.upper()}")}
    return wandb.Settings(**options, **({"mode": "offline"} if offline else {}))


def init_options(**defaults) -> dict[str, Any]:
    """Return the defaults as arguments of wandb.init, without those whose environment variable W&B reads itself."""
    left_out = [name for name, variable in VARIABLES.items() if is_set(variable)]
    left_out += IN_SWEEPS if is_sweep() else ()
    return {name: value for name, value in defaults.items() if name not in left_out and value is not None}


def refusal_message(error: ValueError) -> str:
    """Return a sentence about an invalid environment variable of W&B."""
    errors = error.errors() if hasattr(error, "errors") else ()
    messages = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in errors]
    return f"a WANDB_ variable has an invalid value ({'; '.join(messages) or error})."


def relative_path(path: str) -> str:
    """Return a path relative to the current folder if it lies below it, else unchanged."""
    current = Path.cwd()
    return str(Path(path).relative_to(current)) if Path(path).is_relative_to(current) else path


def print_sync_command(runs: Sequence) -> None:
    """Print the command that uploads offline runs."""
    paths = [relative_path(run.settings.sync_dir) for run in runs if run.settings.mode in ("offline", "dryrun")]
    if paths:
        print(f"W&B, offline: upload it by: wandb sync {shlex.join(paths)}")


class WandbRunRecord:
    """The W&B run of a run folder, stored in its files `wandb_id` and `wandb_project`.

    `wandb_project` holds `project` or `entity/project`; it is written only if that is not the default.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self.id_file, self.project_file = Path(folder, "wandb_id"), Path(folder, "wandb_project")

    @property
    def id(self) -> str:
        """Return the id, or an empty string if the folder has none."""
        return self.id_file.read_text().strip() if self.id_file.is_file() else ""

    @property
    def place(self) -> dict[str, str]:
        """Return the project and, if known, the entity of the run, as arguments of wandb.init."""
        text = self.project_file.read_text().strip() if self.project_file.is_file() else PROJECT
        *entity, project = text.split("/")
        return {"project": project, **({"entity": entity[0]} if entity else {})}

    def place_in_use(self, project: str | None = None, entity: str | None = None) -> dict[str, str]:
        """Return the project and, if known, the entity of the next start of the run.

        An environment variable of W&B takes precedence over an option, and an option over the recorded place.

        Args:
            project: The option --wandb.project.
            entity: The option --wandb.entity.
        """
        recorded = self.place
        chosen = {
            "project": os.environ.get("WANDB_PROJECT", "").strip() or project or recorded["project"],
            "entity": os.environ.get("WANDB_ENTITY", "").strip() or entity or recorded.get("entity"),
        }
        return {name: value for name, value in chosen.items() if value}

    def write(self, run_id: str, place: dict[str, str]) -> None:
        """Record the id of the current run, with its project and entity, from `place_in_use`."""
        if run_id != self.id:
            with atomic_write(self.id_file) as file:
                file.write(run_id.encode())
        if place != self.place:
            with atomic_write(self.project_file) as file:
                file.write("/".join(filter(None, (place.get("entity"), place["project"]))).encode())
