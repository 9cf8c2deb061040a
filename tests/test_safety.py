"""Files from a stranger: whatever they hold, they are refused in one sentence and nothing in them is executed."""

import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

import evaluate
import models
import train
from models.checkpoints import read

QUICK = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "1",
    "--num_samples",
    "0",
    "--callbacks",
    "[]",
    "--trainer.enable_progress_bar",
    "false",
]
MARK = "executed"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The contents of an honest checkpoint."""
    folder = tmp_path_factory.mktemp("honest")
    assert train.main([*QUICK, "--run_dir", str(folder / "a")]) == 0
    return torch.load(folder / "a" / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    """Where a checkpoint lies in the folder of a run, which is the working folder's `a`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # a user's wish from elsewhere changes nothing here
    path = Path("a", "checkpoints", "last.ckpt")
    path.parent.mkdir(parents=True)
    return path


def load(path):
    try:
        models.load(path)
    except ValueError as error:
        return str(error)
    return ""


def resume(path):
    return train.main([*QUICK, "--resume", str(path), "--trainer.max_epochs", "2"])


def resume_auto(path):
    return train.main([*QUICK, "--run_dir", "a", "--resume", "auto", "--trainer.max_epochs", "2"])


def evaluated(path):
    return evaluate.main([str(path), "--num_samples", "1", "--limit", "5"])


def stacked(path):
    return train.main([*QUICK, "--model", "M1M2", "--model.m1", str(path), "--data.num_labels", "20"])


COMMANDS = [resume, resume_auto, evaluated, stacked]


def refuse(path, capsys, commands=COMMANDS):
    """All ways into the project say no, in one sentence, and leave no file behind."""
    messages = [load(path)] if commands is COMMANDS else []
    for command in commands:
        capsys.readouterr()
        assert command(path) == 2, command.__name__
        messages.append(capsys.readouterr().err)
        assert messages[-1].startswith("error: ")
        assert messages[-1].count("\n") == 1
    assert all(messages)
    assert not Path(MARK).exists()
    assert [file for file in Path("a").rglob("*") if file.is_file() and file.name != ".lock"] == [path]
    assert not Path("runs").exists()
    return messages


def test_a_valid_checkpoint_is_accepted(trained, path, capsys):
    for command in (resume, resume_auto, evaluated, stacked):
        torch.save(trained, path)
        assert command(path) == 0, command.__name__
    assert load(path) == ""


PLACES = [
    "whole",
    "model",
    "hyper_parameters",
    "datamodule_hyper_parameters",
    "state_dict",
    "optimizer_states",
    "callbacks",
    "loops",
    "run",
    "extra",
]


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
@pytest.mark.parametrize("place", PLACES)
def test_a_malicious_pickle(trained, path, capsys, place, form):
    content = Bomb() if place == "whole" else trained | {place: Bomb()}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for message in refuse(path, capsys):
        assert "cannot be read as a checkpoint: it is damaged, or contains more than numbers and text" in message
    with path.open("rb") as file:  # the control: it does go off
        pickle.load(file) if form == "pickle" else torch.load(path, weights_only=False)
    assert Path(MARK).exists()


def test_a_malicious_pickle_in_the_middle_of_an_archive(trained, path, capsys):
    torch.save(trained, path)
    with zipfile.ZipFile(path, "a") as archive:  # which makes it a TorchScript archive to torch.load
        archive.writestr("last/constants.pkl", pickle.dumps(Bomb()))
    for message in refuse(path, capsys):
        assert "cannot be read as a checkpoint" in message


FOREIGN = {
    "_class_path": "os.mkdir",
    "_instantiator": "os.mkdir",
    "class_path": "os.mkdir",
    "init_args": {"path": MARK},
    "path": MARK,
}


@pytest.mark.parametrize("change", [
    {"model": "os.mkdir"},
    {"model": {"class_path": "os.mkdir", "init_args": {"path": MARK}}},
    {"hyper_parameters": FOREIGN},
    {"hparams_name": "path", "hyper_parameters": FOREIGN},
    *({"hyper_parameters": {key: FOREIGN[key]}} for key in FOREIGN),
    *({"hyper_parameters": {key: "os.mkdir"}} for key in ("encoder", "decoder", "activation", "image_shape")),
])  # fmt: skip
def test_a_malicious_class_path(trained, path, capsys, change):
    if "hyper_parameters" in change:
        change = change | {"hyper_parameters": trained["hyper_parameters"] | change["hyper_parameters"]}
    torch.save(trained | change, path)
    refuse(path, capsys)


@pytest.mark.parametrize("change", [
    {"run": {"data": "os.mkdir"}},
    {"run": {"data": FOREIGN}},
    {"datamodule_hyper_parameters": FOREIGN},
    {"datamodule_hparams_name": "path", "datamodule_hyper_parameters": {"_instantiator": "os.mkdir"}},
    {"datamodule_hyper_parameters": {"class_path": "os.mkdir"}},
])  # fmt: skip
def test_a_malicious_class_path_of_the_data(trained, path, capsys, change):
    change = {
        key: trained[key] | value if isinstance(value, dict) and key in trained else value
        for key, value in change.items()
    }
    torch.save(trained | change, path)
    refuse(path, capsys, COMMANDS[:3])
    messages = load(path)  # which does not look at the data, but for the types in their record
    assert messages == "" or "run.data cannot be" in messages
    assert not Path(MARK).exists()


PARTS = [
    "run",
    "hyper_parameters",
    "datamodule_hyper_parameters",
    "state_dict",
    "global_step",
    "epoch",
    "optimizer_states",
    "loops",
    "callbacks",
    "pytorch-lightning_version",
]


@pytest.mark.parametrize("key", PARTS)
@pytest.mark.parametrize("value", ["os.mkdir", [], 3, None, {}])
def test_checkpoint_entries_of_another_type(trained, path, capsys, key, value):
    for command in COMMANDS:
        torch.save(trained | {key: value}, path)
        capsys.readouterr()
        status, stderr = command(path), capsys.readouterr().err
        assert status in (0, 2), (command.__name__, stderr)
        assert (status == 0) == (stderr == ""), stderr
        assert stderr.count("\n") <= 1
        assert not Path(MARK).exists()


def test_any_flipped_bit_is_detected_or_harmless(trained, path):
    torch.save(trained, path)
    whole, random_positions = path.read_bytes(), random.Random(0)
    positions = {random_positions.randrange(len(whole)) for _ in range(400)}
    heads = [
        whole.index(mark, start)
        for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6")
        for start in (0, len(whole) // 2)
        if mark in whole[start:]
    ]
    positions |= {head + offset for head in heads for offset in range(80) if head + offset < len(whole)}
    refused = 0
    for position in sorted(positions):
        content = bytearray(whole)
        content[position] ^= 1 << random_positions.randrange(8)
        path.write_bytes(content)
        try:
            assert same(read(path), trained)
        except ValueError:
            refused += 1
    assert refused > len(positions) // 2


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("keep", [0, 0.2, 0.7, 0.9999])
def test_a_truncated_file(trained, path, capsys, keep):
    torch.save(trained, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    for message in refuse(path, capsys):
        assert "cannot be read as a checkpoint" in message


def test_a_flipped_bit(trained, path, capsys):
    torch.save(trained, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for message in refuse(path, capsys):
        assert "cannot be read as a checkpoint" in message
