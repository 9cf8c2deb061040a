"""Reads the file that an offline W&B run leaves behind."""

from pathlib import Path


def read_wandb_file(path: Path) -> list:
    """The protobuf records of a `.wandb` file, which is a LevelDB log: blocks of 32 KiB that cut records."""
    from wandb.proto import wandb_internal_pb2

    content, position, records, parts = path.read_bytes(), 7, [], b""  # 7 bytes name the format
    while position + 7 <= len(content):
        left = 2**15 - position % 2**15
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if left < 7 or kind == 0:  # padding at the end of a block
            position += left
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records
