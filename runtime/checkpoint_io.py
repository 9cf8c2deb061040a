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
    """Write a checkpoint directly to its path, synced to disk when the call returns; after an error there is no file.

    Lightning's default writes to TMPDIR first, which may be full, and may be on another file system, from which a file
    cannot be moved atomically.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # when writing to a file, torch hides the OSError of a full disk in an error of its own
        torch.save(checkpoint, content)
        with durable_write(Path(path)) as file:
            file.write(content.getbuffer())


def link_or_copy(path: Path, keep: Path) -> None:
    """Give a file a second name by a hard link, or copy it if the file system has no hard links."""
    keep.unlink(missing_ok=True)
    try:
        os.link(path, keep)
    except OSError:
        with with_filename(keep):
            shutil.copyfile(path, keep)
