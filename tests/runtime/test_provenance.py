import re
import subprocess

import torch

from runtime import provenance


def git(folder, *command):
    subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True, capture_output=True
    )


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    (tmp_path / "callbacks").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "callbacks" / "provenance.py"))
    find = provenance.commit.__wrapped__
    assert find() is None
    git(tmp_path, "init")
    assert find() is None  # nothing is committed
    (tmp_path / "model.py").write_text("1")
    git(tmp_path, "add", "model.py")
    git(tmp_path, "commit", "-m", "first")
    assert re.fullmatch("[0-9a-f]{10}", find())
    (tmp_path / "notes.txt").write_text("not part of the code")
    assert not find().endswith("+")
    (tmp_path / "model.py").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{10}\+", find())
    monkeypatch.setenv("PATH", "")  # where there is no git
    assert find() is None


def test_the_machine():
    cpu = torch.device("cpu")
    assert provenance.processor()
    assert provenance.machine(cpu).endswith(f"{torch.get_num_threads()} thread, torch {torch.__version__}")
    assert provenance.machine(cpu, 2).startswith("2 x ")
