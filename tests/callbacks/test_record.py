import json
import os
import struct

import pytest
from matplotlib.image import imread
from pytorch_lightning.loggers import WandbLogger

from callbacks import for_model

FIGURES = ("interpolations_linear", "interpolations_spherical", "kl_per_dimension", "reconstructions", "samples")


def wandb_records(path):
    """The records of an offline run: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:  # a block's last bytes, too few for a header
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def wandb_history(path):
    """The rows of history in an offline run."""
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield WandbLogger(save_dir=tmp_path, project="test", offline=True)
    import wandb

    wandb.finish()


def test_a_picture_for_each_figure_and_scheduled_epoch(fit, make_model, tmp_path):
    model = make_model()
    fit(model, for_model(model), max_epochs=3)
    expected = {f"{name}_epoch{epoch:04d}.png" for name in FIGURES for epoch in (1, 2, 3)}
    assert set(os.listdir(tmp_path / "figures")) == expected
    for name in expected:
        assert min(imread(tmp_path / "figures" / name).shape[:2]) > 100


def test_wandb_gets_the_same_files_on_the_axes_of_validation(fit, make_model, tmp_path, offline):
    model = make_model()
    fit(model, for_model(model), max_epochs=2, logger=offline)
    run = offline.experiment
    folder = os.path.dirname(run.dir)
    run.finish()
    [file] = [path for path in os.listdir(folder) if path.endswith(".wandb")]
    rows = list(wandb_history(tmp_path.__class__(folder, file)))
    assert [row["_step"] for row in rows] == sorted(row["_step"] for row in rows)

    print(len(rows), file, os.path.getsize(os.path.join(folder, file)), [sorted(r) for r in rows][:3], [r.WhichOneof("record_type") for r in wandb_records(tmp_path.__class__(folder, file))])
    axes = {row["epoch"]: row["trainer/global_step"] for row in rows if "val/bound" in row}
    assert axes == {0: 2, 1: 5}
    for key in [f"figures/{name}" for name in FIGURES]:
        drawn = [row for row in rows if f"{key}/path" in row or key in row]
        assert {row["epoch"]: row["trainer/global_step"] for row in drawn} == axes
    for key in ("val/active_units", "val/nll", "val/ess"):
        assert {row["epoch"]: row["trainer/global_step"] for row in rows if key in row} == axes

    media = tmp_path.__class__(folder, "files", "media", "images", "figures")
    logged = sorted(path.read_bytes() for path in media.glob("*.png"))
    assert logged == sorted(path.read_bytes() for path in (tmp_path / "figures").glob("*.png"))
