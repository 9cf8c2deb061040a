"""What train.py leaves in W&B at the end of a run: read back from the files of offline runs."""

import base64
import hashlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import yaml
from small_runs import at_steps
from wandb_file import read_wandb_file

import train
from datamodules import Digits
from evaluation.schema import Evaluation
from evaluation.wandb_outputs import RunOutputs, number_columns
from models import VAE

QUICK = ["--data", "Digits", "--model.hidden", "[4]", "--trainer.max_epochs", "2",
         "--trainer.enable_progress_bar", "false"]  # fmt: skip
EVALUATED = [*QUICK, "--num_samples", "5", "--limit", "30", "--callbacks", "[samples]"]
OPTIONS = ["--wandb", "offline", "--wandb.project", "p", "--wandb.entity", "e", "--wandb.tags", "[a,b c]",
           "--wandb.notes", "first try"]  # fmt: skip
IMAGES = 30


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """A run that is interrupted in its second epoch, resumed, and started once more: the records of each start."""
    folder = tmp_path_factory.mktemp("starts")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        wandb.teardown()  # first, since it unsets the variable that names its service
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        command = [*EVALUATED, *OPTIONS, "--run_dir", "a", "--resume", "auto"]
        for expected in (128 + signal.SIGTERM, 0, 0):
            with pytest.MonkeyPatch.context() as interrupted:
                if expected:
                    at_steps(interrupted, VAE, lambda step: step == 20 and os.kill(os.getpid(), signal.SIGTERM))
                assert train.main(command) == expected
            wandb.teardown()  # only now all of it is on the disk
            newest = max(Path("a/wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
            [file] = newest.glob("*.wandb")
            found.append(SimpleNamespace(folder=folder / newest, records=read_wandb_file(file)))
    return SimpleNamespace(folder=folder / "a", each=found)


def artifacts(records, type):
    return [r.artifact for r in records if r.HasField("artifact") and r.artifact.type == type]


def md5(path):
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


def table(start, name):
    [file] = (start.folder / "files" / "media" / "table" / "test").glob(f"{name}_*.table.json")
    content = json.loads(file.read_text())
    return {key: [row[i] for row in content["data"]] for i, key in enumerate(content["columns"])}


def test_every_start_has_the_project_the_entity_the_tags_and_the_notes(starts):
    for start in starts.each:
        run = next(r.run for r in start.records if r.HasField("run"))
        assert (run.project, run.entity, list(run.tags), run.notes) == ("p", "e", ["a", "b c"], "first try")
        assert run.run_id == (starts.folder / "wandb_id").read_text()
    assert (starts.folder / "wandb_project").read_text() == "e/p"


def test_the_model_artifact_is_logged_at_the_end_and_has_the_same_contents_again(starts):
    interrupted, *ended = starts.each
    assert artifacts(interrupted.records, "model") == []
    logged = []
    for start in ended:
        [artifact] = artifacts(start.records, "model")
        assert artifact.name == f"model-{(starts.folder / 'wandb_id').read_text()}"
        assert set(artifact.aliases) == {"best", "latest"}
        assert artifact.finalize
        files = {entry.path: entry for entry in artifact.manifest.contents}
        best, config = starts.folder / "checkpoints" / "best.ckpt", starts.folder / "config.yaml"
        assert {name: entry.digest for name, entry in files.items()} == {
            "best.ckpt": md5(best),
            "config.yaml": md5(config),
        }
        for entry in files.values():  # `wandb sync` uploads these
            assert Path(entry.local_path).parent == start.folder / "model"
            assert md5(Path(entry.local_path)) == entry.digest
        assert os.path.samefile(files["best.ckpt"].local_path, best)  # a link, which takes no space
        logged.append(artifact)
    assert logged[0].digest == logged[1].digest  # the server adds no version for equal contents
    metadata = json.loads(logged[0].metadata)
    result = json.loads((starts.folder / "evaluation.json").read_text())
    assert {key: metadata[key] for key in ("nll", "num_samples", "weights_hash", "protocol", "labels_hash")} == {
        key: result[key] for key in ("nll", "num_samples", "weights_hash", "protocol", "labels_hash")
    }


def test_the_run_uses_a_dataset_artifact_without_images(starts):
    data = Digits()
    data.setup()
    [artifact] = artifacts(starts.each[-1].records, "dataset")
    assert (artifact.name, artifact.use_after_commit) == ("data-Digits", True)
    [entry] = artifact.manifest.contents
    assert entry.path == "data.json"
    content = json.loads(Path(entry.local_path).read_text())
    assert content == json.loads(artifact.metadata)
    assert (content["images_hash"], content["labels_hash"]) == (data.images_hash, None)
    assert entry.size < 1000


def test_the_table_of_images_has_the_values_of_the_evaluation(starts):
    data = Digits()
    data.setup()
    labels = [str(label) for label in data.images("test", IMAGES)[1].tolist()]
    for start in starts.each[1:]:  # the third start only reads the result of the second
        columns = table(start, "per_image")
        assert list(columns)[:3] == ["image", "label", "log_px"]
        assert {"rate", "distortion", "ess", "k_hat"} <= columns.keys()
        assert columns["image"] == list(range(IMAGES))
        assert columns["label"] == labels
        np.testing.assert_array_equal(columns["log_px"], np.load(starts.folder / "log_px.npy"))


def test_the_table_of_reconstructions_has_pairs_of_images(starts):
    [logged] = [a for a in artifacts(starts.each[-1].records, "run_table") if "reconstructions" in a.name]
    files = {entry.path: Path(entry.local_path) for entry in logged.manifest.contents}
    content = json.loads(files.pop("test/reconstructions.table.json").read_text())
    assert content["columns"] == ["image", "label", "test image", "reconstruction"]
    shown = [cell for row in content["data"] for cell in row[2:]]
    assert {(cell["width"], cell["height"], cell["_type"]) for cell in shown} == {(8, 8, "image-file")}
    assert {cell["path"] for cell in shown} == files.keys()
    assert all(file.is_file() for file in files.values())


def test_figures_are_plotted_over_epochs(starts):
    for start in starts.each:
        metrics = {r.metric.glob_name: r.metric.step_metric for r in start.records if r.HasField("metric")}
        assert metrics["figures/*"] == metrics["val/*"] == "epoch"


def test_config_has_the_hash_of_the_images(starts):
    config = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in starts.each[0].records
        for part in (record.run.config.update, record.config.update)
        for item in part
    }
    assert config["wandb/tags"] == ["a", "b c"]
    assert len(config["images_hash"]) == 12
    stored = yaml.safe_load((starts.folder / "config.yaml").read_text())["wandb"]
    expected = {"mode": "offline", "project": "p", "entity": "e", "tags": ["a", "b c"], "notes": "first try"}
    assert stored == expected


class FakeRun:
    """Records what is added to it."""

    id = "ab12"

    def __init__(self, folder):
        self.settings = SimpleNamespace(sync_dir=str(folder))
        self.logged, self.artifacts = {}, {}

    def log(self, values):
        self.logged |= values

    def log_artifact(self, artifact, aliases=None):
        self.artifacts[artifact.type] = (artifact, aliases)

    def _log_artifact(self, artifact, aliases, is_user_created, use_after_commit):
        self.artifacts[artifact.type] = (artifact, aliases)


# Options -> the tables of a run
OF_MODELS = {
    "--model AE": {"test/reconstructions"},
    "--model GMMN": set(),
    "--model CVAE": {"test/per_image", "test/reconstructions"},
    "--model LadderVAE --model.z_dim [4,2]": {"test/per_image", "test/reconstructions"},
    "--model M2 --data.num_labels 50": {"test/per_image", "test/reconstructions"},
    "--model VAE --data NPZ --data.root unlabelled.npz": {"test/per_image", "test/reconstructions"},
}


@pytest.fixture
def ended(monkeypatch):
    """Return a function that runs train.py and returns the outputs of the run, which no W&B has got."""
    made = []
    monkeypatch.setattr(train, "RunOutputs", lambda **fields: made.append(RunOutputs(**fields)) or made[-1])

    def run(*options):
        assert train.main([*QUICK, "--callbacks", "[]", *options]) == 0
        return made.pop()

    return run


@pytest.mark.parametrize("options", OF_MODELS)
def test_models_without_likelihood_or_labels_have_the_tables_that_they_can_have(ended, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 6, 3), np.uint8)
    np.savez("unlabelled.npz", x=images, x_test=images[:9])
    is_vae = "NPZ" in options
    likelihood = ["--model.likelihood", "gaussian", "--data.binarization", "grey"] if is_vae else []
    outputs = ended(*options.split(), *likelihood, "--num_samples", "2", "--limit", "9", "--run_dir", "a")
    run = FakeRun(tmp_path / "wandb")
    for add_to in outputs.writers():
        add_to(run)
    assert set(run.artifacts) == {"model", "dataset"}
    assert set(run.logged) == OF_MODELS[options]
    for logged in run.logged.values():
        assert ("label" in logged.columns) == (not is_vae)
        assert len(logged.data) in (9, 16)
    if "M2" in options:
        metadata = run.artifacts["dataset"][0].metadata
        assert metadata["labels_hash"] == outputs.data.labels_hash is not None


def test_the_best_checkpoint_is_logged_whichever_is_evaluated(ended, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = ended("--num_samples", "2", "--limit", "9", "--evaluate", "last", "--run_dir", "a")
    assert outputs.evaluated.name == "last.ckpt"
    run = FakeRun(tmp_path / "wandb")
    outputs.log_model(run)
    artifact, aliases = run.artifacts["model"]
    assert set(artifact.manifest.entries) == {"best.ckpt", "config.yaml"}
    assert set(aliases) == {"best", "latest"}
    assert "nll" not in artifact.metadata  # of another checkpoint


def test_a_run_without_validation_or_evaluation_has_its_last_checkpoint(ended, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = ended("--num_samples", "0", "--trainer.limit_val_batches", "0", "--run_dir", "a")
    run = FakeRun(tmp_path / "wandb")
    for add_to in outputs.writers():
        add_to(run)
    artifact, aliases = run.artifacts["model"]
    assert set(artifact.manifest.entries) == {"last.ckpt", "config.yaml"}
    assert aliases == ["latest"]
    assert run.logged == {}


def test_values_that_were_not_cached_cost_no_more_than_their_table(tmp_path):
    data = Digits()
    data.setup()
    torch.manual_seed(0)
    model = VAE(image_shape=(1, 8, 8), hidden=[4], z_dim=2)
    checkpoint = {"model": "VAE", "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(checkpoint, tmp_path / "best.ckpt")
    path = tmp_path / "best.ckpt"
    result = Evaluation(model="VAE", checkpoint=str(path), num_samples=5)
    run = FakeRun(tmp_path / "wandb")
    outputs = RunOutputs(path, path, tmp_path, data, result, 9, "cpu")
    outputs.log_per_image_values(run)
    outputs.log_reconstructions(run)
    assert set(run.logged) == {"test/reconstructions"}


def test_a_variable_that_names_a_service_that_has_ended_costs_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{tmp_path}/socket")
    command = [*QUICK, "--callbacks", "[]", "--num_samples", "0", "--run_dir", "a", "--wandb", "offline"]
    assert train.main(command) == 0
    wandb.teardown()
    assert "warning: W&B does not answer (" in capsys.readouterr().err
    assert list(Path("a").rglob("*.wandb"))


@pytest.mark.parametrize("failing", ["log_artifact", "log"])
def test_a_failure_of_wandb_at_the_end_costs_a_warning(tmp_path, monkeypatch, capsys, failing):
    monkeypatch.chdir(tmp_path)
    logged = wandb.Run.log

    def fail(self, data, *args, **kwargs):
        if failing == "log_artifact" or any(key.startswith("test/") for key in data):
            raise OSError("no network")
        return logged(self, data, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, failing, fail)
    command = [*QUICK, "--callbacks", "[]", "--num_samples", "2", "--limit", "9", "--run_dir", "a"]
    assert train.main([*command, "--wandb", "offline"]) == 0
    wandb.teardown()
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1
    assert "warning: W&B has not received the whole run (no network). Upload it later by: wandb sync" in err
    assert Path("a/evaluation.json").is_file()
    records = read_wandb_file(next(Path("a").rglob("*.wandb")))
    assert any(record.HasField("exit") for record in records)  # the rest is there


def test_values_per_layer_have_a_column_for_each_layer():
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    assert number_columns("rate_of_layers", values) == {"rate_of_layers_1": [1.0, 3.0], "rate_of_layers_2": [2.0, None]}
    assert number_columns("log_px", values[:, 0]) == {"log_px": [1.0, 3.0]}
