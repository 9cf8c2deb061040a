"""Result files: one for each checkpoint and setting, none of which is lost to another or to a full disk."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from evaluation import result_files
from evaluation.result_files import EvaluationFiles, read_result, result_file, size, suffix, try_writing
from evaluation.schema import Evaluation

CHECKPOINTS = Path("run/checkpoints")
BEST, LAST = CHECKPOINTS / "best.ckpt", CHECKPOINTS / "last.ckpt"
LARGE = {"nll": 20.0, "num_images": 1000, "num_samples": 1000, "precision": "fp32", "images_hash": "a", "step": 5}


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CHECKPOINTS.mkdir(parents=True)
    for path in (BEST, LAST):
        path.write_bytes(b"")


def save(path=BEST, weights="w", overwrite=False, **changes):
    files = EvaluationFiles()
    result = Evaluation(**LARGE | {"checkpoint": str(path), "weights_hash": weights} | changes)
    files.log_px[str(path)] = np.full(3, -result.nll)
    files.save(path, result, weights, overwrite)
    return result, files


def everything():
    return [read_result(file) for file in Path("run").glob("evaluations/*.json")]


SMALLER = {
    "images": {"num_images": 100},
    "K": {"num_samples": 100},
    "images and K": {"num_images": 100, "num_samples": 100},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("smaller", SMALLER)
def test_a_smaller_result_does_not_replace_a_larger_one(smaller, capsys):
    large, _ = save()
    small, files = save(nll=25.0, **SMALLER[smaller])
    assert read_result(Path("run/evaluation.json")) == large == files.kept[str(BEST)]
    assert np.load("run/log_px.npy")[0] == -20.0
    assert small in everything()
    stderr = capsys.readouterr().err
    assert stderr.startswith(
        "note: run/evaluation.json keeps the more complete result (1000 images, K = 1000); this one ("
    )
    assert stderr.count("\n") == 1


def test_ais_and_classifiers_make_a_result_larger():
    with_ais, _ = save(ais_nll=19.0, ais_images=100)
    save()
    assert read_result(Path("run/evaluation.json")) == with_ais
    assert size(Evaluation(**LARGE, baselines={"MLP": 0.1})) > size(Evaluation(**LARGE))


def test_a_larger_one_replaces_a_smaller_one_which_stays_under_its_setting():
    small, _ = save(num_images=100, nll=25.0)
    large, _ = save()
    assert read_result(Path("run/evaluation.json")) == large
    assert np.load("run/log_px.npy")[0] == -20.0
    assert small in everything()


def test_a_smaller_one_replaces_it_when_asked_to(capsys):
    large, _ = save()
    small, _ = save(num_images=100, overwrite=True)
    assert read_result(Path("run/evaluation.json")) == small
    assert large in everything()
    assert capsys.readouterr().err == ""


def test_the_result_of_weights_that_are_gone_is_replaced_by_any():
    old, _ = save(weights="v", step=4)
    new, _ = save(num_images=100)
    assert read_result(Path("run/evaluation.json")) == new
    assert old in everything()


def test_each_checkpoint_has_files_of_its_own():
    best, _ = save()
    last, _ = save(LAST, weights="v", num_images=2000, nll=21.0)
    assert read_result(Path("run/evaluation.json")) == best
    assert read_result(Path("run/evaluation_last.json")) == last
    assert (np.load("run/log_px.npy")[0], np.load("run/log_px_last.npy")[0]) == (-20.0, -21.0)


def test_names_of_files():
    assert [suffix(path) for path in (BEST, LAST, CHECKPOINTS / "epoch=1.5.ckpt")] == ["", "_last", "_epoch=1.5"]
    BEST.unlink()
    assert [suffix(path) for path in (LAST, CHECKPOINTS / "a.ckpt")] == ["", "_a"]
    LAST.unlink()
    (CHECKPOINTS / "a.ckpt").touch()
    assert result_file(CHECKPOINTS / "a.ckpt") == Path("run/evaluation.json")
    (CHECKPOINTS / "b.ckpt").touch()
    assert [suffix(CHECKPOINTS / name) for name in ("a.ckpt", "b.ckpt")] == ["_a", "_b"]


def test_what_an_older_version_wrote_of_another_checkpoint_gets_its_own_name():
    old = LARGE | {"checkpoint": str(LAST)}  # it wrote all to evaluation.json, and no hash of the weights
    Path("run/evaluation.json").write_text(json.dumps(old))
    np.save("run/log_px.npy", np.full(3, -1.0))
    new, _ = save(num_images=10)
    assert read_result(Path("run/evaluation.json")) == new
    assert json.loads(Path("run/evaluation_last.json").read_text()) == old
    assert (np.load("run/log_px.npy")[0], np.load("run/log_px_last.npy")[0]) == (-20.0, -1.0)


def test_what_an_older_version_wrote_of_the_same_checkpoint_is_known_by_its_step():
    old = LARGE | {"checkpoint": str(BEST)}
    Path("run/evaluation.json").write_text(json.dumps(old))
    save(num_images=10)
    assert json.loads(Path("run/evaluation.json").read_text()) == old
    save(num_images=10, step=6)
    assert read_result(Path("run/evaluation.json")).step == 6
    assert Evaluation(**old) in everything()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"nll": 3}', '{"checkpoint": 3}', "\x00"])
def test_a_damaged_file_is_replaced(content):
    Path("run/evaluation.json").write_text(content)
    assert read_result(Path("run/evaluation.json")) is None
    result, _ = save()
    assert read_result(Path("run/evaluation.json")) == result


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_costs_one_warning(monkeypatch, capsys, number):
    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(result_files, "atomic_write", refuse)
    _, files = save()
    assert files.unsaved[str(BEST)].errno == number
    stderr = capsys.readouterr().err
    assert stderr.startswith("warning: run/evaluations/best_")
    assert os.strerror(number) in stderr
    assert stderr.count("\n") == 1


def test_one_file_of_two_that_can_be_written_saves_the_result(capsys):
    Path("run/evaluations").write_text("a file where a folder is meant")
    result, files = save()
    assert read_result(Path("run/evaluation.json")) == result
    assert not files.unsaved
    assert capsys.readouterr().err.count("warning: ") == 1


def test_a_folder_that_cannot_be_written_to_is_named_itself(monkeypatch, capsys):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmp1a2b3c")

    monkeypatch.setattr(result_files.tempfile, "TemporaryFile", refuse)
    EvaluationFiles().check(BEST)
    folder = Path("run").absolute()
    assert capsys.readouterr().err.startswith(f"warning: {folder} cannot be written: Permission denied.")


def test_trying_leaves_nothing():
    before = sorted(Path().rglob("*"))
    try_writing(Path("run"))
    try_writing(Path("new/folder"))
    with pytest.raises(NotADirectoryError):
        try_writing(BEST / "folder")
    assert sorted(Path().rglob("*")) == before
