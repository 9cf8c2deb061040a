"""`python -m benchmarks.gpu`: what a session records, and the whole command in miniature on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import checks
from benchmarks.gpu import session as sessions
from benchmarks.gpu.checks import MARK, gpu_tests
from benchmarks.gpu.estimates import resampled
from benchmarks.gpu.jobs import EXTRAS, JOBS, REQUIRED
from benchmarks.gpu.session import Job, OutOfTime, Session, time_limit
from benchmarks.gpu.tables import table, text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "machine_facts", lambda: {"device": "a device"})
    session = Session(tmp_path, tmp_path / "out", tmp_path, time.monotonic() + 100)
    session.is_tiny = False  # time is limited as on a GPU
    monkeypatch.setattr(session, "reset_memory", lambda: None)
    monkeypatch.setattr(session, "peak_memory", lambda: {"peak_mib": 7})
    return session


def written(session):
    return json.loads((session.out / "gpu.json").read_text())["rows"]


def job(name, measure, seconds=1.0, **options):
    return Job("A group", name, seconds, measure, **options)


def broken(session):
    raise RuntimeError("it is\nbroken")


def test_results_are_written_after_each_job(session):
    seen = []

    def measure(session):
        seen.append(len(written(session)) if session.out.exists() else 0)
        return {"images_per_s": 12345}

    session.run_all([job("one", measure), job("two", measure)])
    assert seen == [0, 1]
    assert [row["name"] for row in written(session)] == ["one", "two"]
    assert written(session)[0] == {
        "group": "A group", "name": "one", "images_per_s": 12345, "seconds": 0.0, "peak_mib": 7,
    }  # fmt: skip
    assert "| one | 12,345 | 0 | 7 |" in (session.out / "gpu.md").read_text()
    assert not session.has_failed_check


def test_an_error_is_the_result_of_its_job_and_fails_only_a_check(session):
    session.run_all([job("broken", broken), job("sound", lambda session: {"passed": True}, is_check=True)])
    assert [row.get("error") for row in written(session)] == ["RuntimeError: it is broken", None]
    assert not session.has_failed_check
    session.run_all([job("broken check", broken, is_check=True)])
    assert session.has_failed_check


def test_a_check_that_does_not_pass_has_failed(session):
    session.run_all([job("unequal", lambda session: {"passed": False}, is_check=True)])
    assert session.has_failed_check


def test_jobs_that_may_take_longer_than_is_left_are_skipped_and_checks_keep_their_time(session):
    def measure(session):
        return {}

    session.run_all([
        job("long", measure, 101), job("leaves too little for the check", measure, 50),
        job("leaves enough", measure, 30), job("check", measure, 60, is_check=True),
    ])  # fmt: skip
    assert [row["name"] for row in written(session) if "skipped" not in row] == ["leaves enough", "check"]
    assert written(session)[0]["skipped"] == "may take 101 s, and 40 s were left for it"
    assert not session.has_failed_check


def test_a_job_that_takes_too_long_is_stopped(session):
    session.run_all([job("endless", lambda session: time.sleep(60), 0.5)])
    assert written(session)[0]["error"] == "OutOfTime: stopped after 1 s"
    assert written(session)[0]["seconds"] < 10


def test_no_alarm_is_left_after_a_job():
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(OutOfTime), time_limit(0.05):
        time.sleep(1)


def test_a_job_leaves_the_settings_of_torch_as_they_were(session):
    def measure(session):
        torch.set_float32_matmul_precision("high")
        torch.set_num_threads(2)
        return {}

    session.run_all([job("changes settings", measure)])
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("highest", 1)


def test_tables_have_a_column_for_each_value():
    rows = [
        {"group": "g", "name": "a", "options": "--x 1|2", "images_per_s": 12345.6, "seconds": 1.0},
        {"group": "g", "name": "b", "passed": False, "seconds": 2.0},
    ]
    assert table(rows).splitlines() == [
        "| | images_per_s | passed | options | seconds |", "|---|---|---|---|---|",
        "| a | 12,346 |  | --x 1\\|2 | 1 |", "| b |  | **no** |  | 2 |",
    ]  # fmt: skip
    assert text(0.012345) == "0.01235"


def test_step_sizes_are_interpolated():
    assert resampled([1.0, 3.0], 3) == [1, 2, 3]
    assert resampled([1.0, 2.0, 3.0], 1) == [1]


def test_all_that_must_be_known_fits_into_the_time():
    assert sum(job.seconds for job in REQUIRED) <= 480
    assert not any(job.is_check for job in EXTRAS)
    assert len({(job.group, job.name) for job in JOBS}) == len(JOBS)


def test_tests_that_do_not_end_in_time_leave_what_they_printed(session, monkeypatch):
    printed = (
        "tests/a.py::one PASSED [ 25%]\ntests/a.py::two[x y] FAILED [ 50%]\ntests/a.py::three SKIPPED [ 75%]\ntests/a"
    )

    def call(command, seconds):
        raise OutOfTime("pytest did not end in 90 s", printed)

    monkeypatch.setattr(session, "call", call)
    found = gpu_tests(session)
    assert not found["passed"]
    assert found["summary"] == "pytest did not end in 90 s: 1 passed, 1 failed (tests/a.py::two[x y])"


def test_a_command_that_does_not_end_in_time_is_stopped_and_its_output_kept(session):
    with pytest.raises(OutOfTime, match="did not end in 2 s") as error:
        session.call([sys.executable, "-u", "-c", "import time; print('so far'); time.sleep(60)"], 2)
    assert error.value.output == "so far\n"


@pytest.mark.parametrize(("printed", "same", "passed"), [
    ("NCCL version 2.28.9+cuda13.0\n", True, True), ("NCCL version 2.28.9+cuda13.0\n", False, False), ("", True, False),
])  # fmt: skip
def test_torchrun_must_use_nccl_and_give_the_bits_of_a_plain_run(session, monkeypatch, printed, same, passed):
    trained = SimpleNamespace(folder=session.work)
    monkeypatch.setattr(checks, "run_train", lambda *args, **options: trained)
    monkeypatch.setattr(checks, "same_bits", lambda one, other: same)

    def call(command, seconds, **variables):
        assert variables == {"NCCL_DEBUG": "VERSION"}
        return SimpleNamespace(returncode=0, stdout=printed, stderr="")

    monkeypatch.setattr(session, "call", call)
    assert checks.torchrun(session)["passed"] == passed


def test_files_with_marked_tests_are_found():
    assert MARK.search("@pytest.mark.gpu\ndef test(): ...")
    assert MARK.search("    @pytest.mark.gpu")
    assert MARK.search("pytestmark = [pytest.mark.slow, pytest.mark.gpu]")
    assert not MARK.search("# of a GPU\n@pytest.mark.slow")


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu(data_root, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--data.root", str(data_root), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--minutes", "20"], cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]
    assert {row["name"]: row.get("error", row.get("skipped")) for row in rows} == {row["name"]: None for row in rows}
    assert done.returncode == 0, done.stderr[-2000:]
    assert [row["name"] for row in rows] == [job.name for job in JOBS if job.is_rehearsed]
    assert all(row["passed"] for row in rows if "passed" in row)
    assert (tmp_path / "out" / "gpu.md").exists()
