"""Download of checkpoints that are W&B artifacts."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

PREFIX = "wandb:"
FORM = "wandb:ENTITY/PROJECT/ARTIFACT:ALIAS"
REFERENCE = re.compile(r"wandb:([\w.-]+)/([^/:\\]+)/([\w.-]+):([^/:\\]+)")
DEFAULT_ROOT = Path("runs", "wandb")
REQUEST_SECONDS = 20  # timeout of a request


def is_reference(path: str | Path) -> bool:
    """Return whether a path is a reference to a W&B artifact."""
    return str(path).startswith(PREFIX)


def download(reference: str) -> Path:
    """Return the folder of a checkpoint that is a W&B artifact; download it unless it is already there.

    The folder is `runs/wandb/ENTITY/PROJECT/ARTIFACT-VERSION`, or in `$WANDB_ARTIFACT_DIR` if that is set. It holds the
    .ckpt file and `config.yaml`, so that results are written to it as to a run folder. Other files of the artifact are
    not downloaded. A downloaded version, such as `:v3`, needs no network; an alias, such as `:best`, is looked up each
    time.

    Args:
        reference: wandb:ENTITY/PROJECT/ARTIFACT:ALIAS.

    Raises:
        ValueError: The reference has another form, or cannot be downloaded.
    """
    parts = REFERENCE.fullmatch(reference)
    if parts is None or {".", ".."} & {*parts.groups()}:
        raise ValueError(f"{reference} is not the name of a W&B artifact: write {FORM}.")
    entity, project, artifact_name, alias = parts.groups()
    folder = Path(os.environ.get("WANDB_ARTIFACT_DIR") or DEFAULT_ROOT, entity, project)
    if re.fullmatch(r"v\d+", alias) and (known := folder / f"{artifact_name}-{alias}").is_dir():
        return known
    try:
        artifact = find_artifact(reference)
        names = [name for name in artifact.manifest.entries if name == "config.yaml" or is_checkpoint(name)]
        target = folder / f"{artifact_name}-{artifact.version}"
        is_usable = artifact.type == "model" and any(map(is_checkpoint, names))
        if is_usable and not target.is_dir():
            download_files(artifact, names, target)
            print(f"{reference} is version {artifact.version}, downloaded to {target}.", file=sys.stderr)
    except Exception as error:  # of many types: of W&B, of requests, of the file system
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{reference} cannot be downloaded ({reason}): check its name and the network, and log in by wandb login."
        ) from error
    if not is_usable:
        raise ValueError(f"{reference} is no model with a .ckpt file: name the model artifact of a run.")
    return target


def find_artifact(reference: str):
    """Return the artifact that a reference names, from W&B's server."""
    import wandb

    return wandb.Api(timeout=REQUEST_SECONDS).artifact(reference.removeprefix(PREFIX))


def download_files(artifact, names: list[str], target: Path) -> None:
    """Download the named files of an artifact to a folder, which appears only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".download-", dir=target.parent))
    try:
        for name in names:
            artifact.get_entry(name).download(root=str(partial))
        partial.chmod(0o755)  # mkdtemp permits access to the user only
        if not target.is_dir():  # else another process has downloaded it in the meantime
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_checkpoint(name: str) -> bool:
    """Return whether a file of an artifact is a checkpoint at the top level of the artifact."""
    return name.endswith(".ckpt") and "/" not in name and "\\" not in name
