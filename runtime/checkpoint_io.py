"""Write checkpoint files durably."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from runtime.atomic_write import durable_write, with_filename


class FileIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its path, on the disk when the call returns; after an error there is none.

    Lightning's own writes to TMPDIR first: another file system, which may be full, and from which no file can be moved
    here in one go.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # to a file itself torch reports a full disk as an error of its own kind
        torch.save(checkpoint, content)
        with durable_write(Path(path)) as file:
            file.write(content.getbuffer())


def link_or_copy(path: Path, keep: Path) -> None:
    """Lets a file have another name too, or a copy where the file system knows no links."""
    keep.unlink(missing_ok=True)
    try:
        os.link(path, keep)
    except OSError:
        with with_filename(keep):
            shutil.copyfile(path, keep)
