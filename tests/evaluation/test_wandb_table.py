"""Results of evaluate.py in W&B."""

import json
import sys
from pathlib import Path

import pytest
import wandb
from wandb_file import read_wandb_file

from evaluation import wandb_table
from evaluation.schema import KEYS, ComparedEvaluation, Difference, Evaluation

RESULTS = [
    ComparedEvaluation(model="VAE", nll=20.5, nll_se=0.25, commit=["a"], epochs=3),
    ComparedEvaluation(model="M2", nll=19.5, test_error=0.25, confusion=[[1, 0], [0, 1]], commit=["b"], epochs=4,
                       versus={"a": Difference(-1.0, None)}),
]  # fmt: skip
NESTED = {"commit", "confusion", "options", "versus"}  # not in the table
COLUMNS = [*(key for key in KEYS if key not in NESTED), "versus_first", "versus_first_se"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    found = [tmp_path / "a", tmp_path / "b"]
    for folder in found:
        folder.mkdir()
    (found[0] / "wandb_id").write_text("known123\n")
    yield found
    wandb.teardown()  # also after a failure: a run left open would be taken up by the next test


def records(folder):
    (path,) = Path(folder).rglob("*.wandb")
    return read_wandb_file(path)


def run_of(found):
    return next(record.run for record in found if record.HasField("run"))


def summary(found):
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }


def test_offline_each_run_gets_its_result_and_one_run_the_table(folders, tmp_path, capsys):
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    wandb.teardown()  # only now all of it is on the disk
    assert "warning" not in capsys.readouterr().err
    of_run = records(folders[0])
    assert run_of(of_run).run_id == "known123"
    seen = summary(of_run)
    assert {key: seen[f"test/{key}"] for key in ("nll", "nll_se", "model", "epochs")} == {
        key: RESULTS[0].to_dict()[key] for key in ("nll", "nll_se", "model", "epochs")
    }
    assert not list(folders[1].rglob("*.wandb"))  # it was never in W&B
    of_table = records(tmp_path / "report")
    assert (run_of(of_table).display_name, run_of(of_table).job_type) == ("evaluation", "evaluation")
    assert run_of(of_table).run_id != "known123"
    (table,) = (tmp_path / "report").rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == COLUMNS
    assert content["data"] == [[result.to_dict().get(key) for key in COLUMNS] for result in RESULTS]


class Broken(Exception):
    """Something of W&B's own."""


@pytest.mark.parametrize(("error", "message"), [(Broken("no network\nat all"), "no network"), (Broken(), "Broken")])
def test_where_it_fails_one_warning_says_so(folders, tmp_path, monkeypatch, capsys, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    wandb_table.mirror(RESULTS, folders, tmp_path, offline=True)
    assert capsys.readouterr() == ("", f"warning: W&B has not got all results ({message}).\n")


@pytest.mark.parametrize("where", ["at its start", "later"])
def test_a_run_that_fails_takes_none_with_it(folders, tmp_path, monkeypatch, capsys, where):
    init = wandb.init

    def fail(*args, **kwargs):
        raise Broken("deleted")

    def begin(*args, **kwargs):
        if "id" not in kwargs:
            return init(*args, **kwargs)
        if where == "at its start":
            fail()
        monkeypatch.setattr(wandb.sdk.wandb_summary.Summary, "update", fail)
        return init(*args, **kwargs)

    monkeypatch.setattr(wandb, "init", begin)
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    assert "warning: W&B has not got all results (deleted)." in capsys.readouterr().err
    assert len(list((tmp_path / "report").rglob("*.table.json"))) == 1


def test_a_missing_wandb_is_such_a_failure(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    wandb_table.mirror(RESULTS, folders, tmp_path, offline=True)
    assert capsys.readouterr().err.startswith("warning: W&B has not got all results (")


def test_who_interrupts_it_is_heard(folders, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", stop)
    with pytest.raises(KeyboardInterrupt):
        wandb_table.mirror(RESULTS, folders, tmp_path, offline=True)


def test_other_checkpoints_have_names_of_their_own_and_runs_get_their_largest_results(folders, tmp_path):
    largest = [Evaluation(model="VAE", nll=20.0), RESULTS[1]]
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", True, largest, ["_last", ""])
    wandb.teardown()
    seen = summary(records(folders[0]))
    assert seen["test_last/nll"] == 20.0
    assert not any(key.startswith("test/") for key in seen)


def test_an_empty_id_is_no_run(folders, tmp_path, capsys):
    (folders[0] / "wandb_id").write_text("\n")
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    assert f"{folders[0] / 'wandb_id'} is empty" in capsys.readouterr().err
    assert not list(folders[0].rglob("*.wandb"))


def test_offline_one_line_says_where_the_runs_lie(folders, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("WANDB_SILENT")
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    wandb.teardown()
    out, err = capfd.readouterr()
    assert err == ""
    paths = [next(Path(folder).rglob("*.wandb")).parent for folder in (folders[0], tmp_path / "report")]
    assert out == f"W&B, offline: upload it by: wandb sync {paths[0]} {paths[1]}\n"


OF_NEW_RUN = {
    "WANDB_NAME": "mine",
    "WANDB_RUN_GROUP": "ours",
    "WANDB_TAGS": "a,b",
    "WANDB_NOTES": "a note",
    "WANDB_JOB_TYPE": "test",
    "WANDB_RUN_ID": "another1",
}


def test_variables_name_the_run_of_the_table_and_leave_the_runs_of_training_as_they_are(folders, tmp_path, monkeypatch):
    for name, value in OF_NEW_RUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_ENTITY", "us")
    (folders[0] / "wandb_project").write_text("they/theirs")
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    wandb.teardown()
    run = run_of(records(folders[0]))
    assert (run.run_id, run.project, run.entity) == ("known123", "theirs", "us")  # entity: a variable wins
    assert (run.display_name, run.run_group, list(run.tags), run.notes, run.job_type) == ("", "", [], "", "")
    table = run_of(records(tmp_path / "report"))
    assert table.run_id not in ("known123", "another1")
    assert (table.display_name, table.run_group, table.job_type) == ("mine", "ours", "test")
    assert (list(table.tags), table.notes, table.project) == (["a", "b"], "a note", "theirs")


def test_in_a_sweep_only_the_run_of_the_sweep_gets_results(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "known123")
    (folders[1] / "wandb_id").write_text("other456")
    wandb_table.mirror(RESULTS, folders, tmp_path / "report", offline=True)
    wandb.teardown()
    assert run_of(records(folders[0])).run_id == run_of(records(tmp_path / "report")).run_id == "known123"
    assert not list(folders[1].rglob("*.wandb"))
    err = capsys.readouterr().err
    assert f"{folders[1]} is run other456, and W&B writes to the run of the sweep alone" in err
    assert err.count("\n") == 1
