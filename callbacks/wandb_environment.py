"""W&B's own environment variables: what a user or a sweep agent sets there wins over the defaults of this project."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.utilities import rank_zero_only

from runtime.atomic_write import atomic_write

PROJECT = "elbo-room"
# Arguments of wandb.init that have a variable
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "id": "WANDB_RUN_ID",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "dir": "WANDB_DIR",
    "resume": "WANDB_RESUME",
}
IN_SWEEPS = ("project", "entity", "id")  # which the agent sets, and W&B warns of others

Mode = Literal["off", "offline", "online"]


def is_set(variable: str) -> bool:
    """Whether an environment variable has a value."""
    return bool(os.environ.get(variable, "").strip())


def is_sweep() -> bool:
    """Whether a sweep agent has started this process."""
    return is_set("WANDB_SWEEP_ID")


def mode(option: Mode) -> Mode:
    """The mode of W&B: the more restrictive of the option --wandb and of WANDB_MODE or WANDB_DISABLED.

    Where the environment restricts what the option asks for, one line on stderr says so.
    """
    variable = next((name for name in ("WANDB_DISABLED", "WANDB_MODE") if is_set(name)), None)
    if option == "off" or variable is None:
        return option
    if disabled():
        _print_stderr(f"warning: W&B is switched off by {disabled()}, in spite of --wandb {option}.")
        return "off"
    if option == "online" and os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun"):
        _print_stderr(f"warning: W&B writes to the disk only, by WANDB_MODE={os.environ['WANDB_MODE']}.")
        return "offline"
    return option


def disabled() -> str:
    """The variable that switches W&B off, with its value, or nothing."""
    if os.environ.get("WANDB_MODE", "").lower() == "disabled":
        return f"WANDB_MODE={os.environ['WANDB_MODE']}"
    value = os.environ.get("WANDB_DISABLED", "")
    return f"WANDB_DISABLED={value}" if value.lower() in ("true", "1", "yes", "on", "t", "y") else ""


@rank_zero_only
def _print_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def settings(offline: bool, init_seconds: float, finish_seconds: float):
    """Settings of a W&B run: short timeouts and no output, unless environment variables say otherwise.

    Args:
        offline: Write to the disk only.
        init_seconds: To wait for W&B before the run starts.
        finish_seconds: To wait for W&B when it ends.
    """
    import wandb

    chosen: dict[str, Any] = {
        "init_timeout": init_seconds,
        "finish_timeout": finish_seconds,
        "finish_timeout_raises": True,
        # offline one line of ours says all; online W&B shows the address of the run
        "silent" if offline else "quiet": True,
    }
    chosen = {name: value for name, value in chosen.items() if not is_set(f"WANDB_{name.upper()}")}
    return wandb.Settings(**chosen, **({"mode": "offline"} if offline else {}))


def init_options(**defaults) -> dict[str, Any]:
    """Arguments of wandb.init: those of the defaults that no variable replaces, since W&B reads these itself."""
    left_out = [name for name, variable in VARIABLES.items() if is_set(variable)]
    left_out += IN_SWEEPS if is_sweep() else ()
    return {name: value for name, value in defaults.items() if name not in left_out and value is not None}


def refusal_message(error: ValueError) -> str:
    """What a variable of W&B's is refused for, in a sentence."""
    found = error.errors() if hasattr(error, "errors") else ()
    said = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in found]
    return f"a WANDB_ variable is refused ({'; '.join(said) or error})."


def relative_path(path: str) -> str:
    """A path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def print_sync_command(runs: Sequence) -> None:
    """Print in one line where offline runs lie, and how they are uploaded."""
    paths = [relative_path(run.settings.sync_dir) for run in runs if run.settings.mode in ("offline", "dryrun")]
    if paths:
        print(f"W&B, offline: upload it by: wandb sync {shlex.join(paths)}")


class WandbRunRecord:
    """Which run of W&B a run folder belongs to: `wandb_id`, and `wandb_project` where that is not the default.

    The latter holds `project` or `entity/project`.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self.id_file, self.project_file = Path(folder, "wandb_id"), Path(folder, "wandb_project")

    @property
    def id(self) -> str:
        """The id, or nothing where the folder has none."""
        return self.id_file.read_text().strip() if self.id_file.is_file() else ""

    @property
    def place(self) -> dict[str, str]:
        """Project and, where that is known, entity of the run, as arguments of wandb.init."""
        text = self.project_file.read_text().strip() if self.project_file.is_file() else PROJECT
        *entity, project = text.split("/")
        return {"project": project, **({"entity": entity[0]} if entity else {})}

    def write(self, run_id: str) -> None:
        """Records the run in use, with project and entity as they are set by now."""
        place = self.place
        project = os.environ.get("WANDB_PROJECT", "").strip() or place["project"]
        entity = os.environ.get("WANDB_ENTITY", "").strip() or place.get("entity", "")
        if run_id != self.id:
            with atomic_write(self.id_file) as file:
                file.write(run_id.encode())
        if {"project": project, **({"entity": entity} if entity else {})} != place:
            with atomic_write(self.project_file) as file:
                file.write("/".join(filter(None, (entity, project))).encode())
