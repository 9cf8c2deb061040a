"""Read the `.wandb` file of an offline W&B run."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_wandb_file(path: Path) -> list:
    """Return the protobuf records of a `.wandb` file: a LevelDB log, whose records may be split over 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    position = 7  # the header has 7 bytes
    records, parts = [], b""
    while position + 7 <= len(content):
        left = 2**15 - position % 2**15
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if left < 7 or kind == 0:  # padding at the end of a block
            position += left
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of a split one
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def wandb_history(path: Path) -> Iterator[dict]:
    """Yield the rows of the history of an offline run."""
    for record in read_wandb_file(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
