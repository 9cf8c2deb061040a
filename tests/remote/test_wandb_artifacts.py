"""Checkpoints that are W&B artifacts, with a fake server interface of the same signatures as W&B's."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch
import wandb
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

import evaluate
import models
import train
from remote import wandb_artifacts

REFERENCE = "wandb:me/digits/model-ab12:best"
FOLDER = Path("runs/wandb/me/digits/model-ab12-v3")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_ARTIFACT_DIR", raising=False)


class FakeEntry:
    def __init__(self, source):
        self.source = source

    def download(self, root=None, skip_cache=None, executor=None):
        target = Path(root, self.source.name)
        shutil.copyfile(self.source, target)
        return str(target)


class FakeArtifact:
    def __init__(self, files, type="model"):
        self.type, self.version = type, "v3"
        self.entries = {name: FakeEntry(file) for name, file in files.items()}
        self.manifest = self

    def get_entry(self, name):
        return self.entries[name]


@pytest.fixture
def serve(monkeypatch):
    """Return a function that makes W&B serve an artifact or raise an error. It returns the list of requested names."""

    def start(answer):
        requested = []

        class FakeApi:
            def __init__(self, overrides=None, timeout=None, api_key=None):
                assert timeout > 0

            def artifact(self, name, type=None):
                requested.append(name)
                if isinstance(answer, Exception):
                    raise answer
                return answer

        monkeypatch.setattr(wandb, "Api", FakeApi)
        return requested

    return start


@pytest.fixture
def trained(tmp_path):
    """A run folder outside of the current folder."""
    run = tmp_path / "elsewhere" / "run"
    command = ["--data", "Digits", "--model.hidden", "[4]", "--trainer.max_epochs", "1", "--num_samples", "0"]
    assert train.main([*command, "--callbacks", "[]", "--run_dir", str(run)]) == 0
    return run


def files_of(run):
    return {"best.ckpt": run / "checkpoints" / "best.ckpt", "config.yaml": run / "config.yaml"}


def test_the_fake_has_the_signatures_of_wandb():
    assert list(inspect.signature(wandb.Api.__init__).parameters)[:4] == ["self", "overrides", "timeout", "api_key"]
    assert list(inspect.signature(wandb.Api.artifact).parameters) == ["self", "name", "type"]
    assert list(inspect.signature(wandb.Artifact.get_entry).parameters) == ["self", "name"]
    expected = ["self", "root", "skip_cache", "executor"]
    assert list(inspect.signature(ArtifactManifestEntry.download).parameters) == expected
    artifact = wandb.Artifact("model-ab12", type="model")
    with artifact.new_file("best.ckpt") as file:
        file.write("content")
    assert (artifact.type, list(artifact.manifest.entries)) == ("model", ["best.ckpt"])
    assert isinstance(wandb.Artifact.version, property)


def test_models_load_and_evaluate_take_an_artifact(trained, serve, capsys):
    requested = serve(FakeArtifact(files_of(trained) | {"other/large.bin": trained / "config.yaml"}))
    model = models.load(REFERENCE)
    expected = models.load(trained)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])
    assert requested == ["me/digits/model-ab12:best"]
    assert capsys.readouterr().err.endswith(f"{REFERENCE} is version v3, downloaded to {FOLDER}.\n")

    assert evaluate.main([REFERENCE, "--num_samples", "2", "--limit", "10", "--figures", "[samples]"]) == 0
    assert str(FOLDER) in capsys.readouterr().out
    made = {path.name for path in FOLDER.iterdir()}
    assert made >= {"best.ckpt", "config.yaml", "evaluation.json", "evaluations", "figures"}
    assert "other" not in made
    assert [path.name for path in FOLDER.parent.iterdir()] == [FOLDER.name]


def test_a_downloaded_version_needs_no_network_and_an_alias_is_looked_up(trained, serve):
    serve(FakeArtifact(files_of(trained)))
    assert wandb_artifacts.download(REFERENCE) == FOLDER
    requested = serve(OSError("no network"))
    assert wandb_artifacts.download("wandb:me/digits/model-ab12:v3") == FOLDER
    assert requested == []
    with pytest.raises(ValueError, match="no network"):
        wandb_artifacts.download(REFERENCE)
    requested = serve(FakeArtifact({}, type="model"))
    with pytest.raises(ValueError, match="is no model"):
        wandb_artifacts.download("wandb:me/digits/model-ab12:v4")
    assert requested == ["me/digits/model-ab12:v4"]


def test_wandb_artifact_dir_is_the_root(trained, serve, monkeypatch):
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", "there")
    serve(FakeArtifact(files_of(trained)))
    assert wandb_artifacts.download(REFERENCE) == Path("there/me/digits/model-ab12-v3")


@pytest.mark.parametrize(("error", "reason"), [
    (wandb.errors.UsageError("No API key configured. Use `wandb login` to log in."), "No API key configured"),
    (wandb.errors.CommError("artifact 'model-ab12:best'\nnot found in 'me/digits'"), "not found in 'me/digits'"),
    (OSError(), "OSError"),
])  # fmt: skip
def test_errors_are_one_sentence(serve, capsys, error, reason):
    serve(error)
    with pytest.raises(ValueError, match="cannot be downloaded"):
        models.load(REFERENCE)
    assert evaluate.main([REFERENCE]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {REFERENCE} cannot be downloaded (")
    assert err.endswith(f"{reason}): check its name and the network, and log in by wandb login.\n")
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "reference",
    ["wandb:", "wandb:model:best", "wandb:me/digits/model", "wandb:me/../model:best", "wandb:../digits/model:best",
     "wandb:a/b/c/d:best", "wandb:me/digits/model:best:v3"],
)  # fmt: skip
def test_a_reference_of_another_form_is_refused_without_network(serve, reference):
    requested = serve(OSError("no network"))
    with pytest.raises(ValueError, match="write wandb:ENTITY/PROJECT/ARTIFACT:ALIAS"):
        models.load(reference)
    assert requested == []


@pytest.mark.parametrize("artifact", [
    FakeArtifact({}), FakeArtifact({"best.ckpt": Path("x")}, type="dataset"), FakeArtifact({"../a.ckpt": Path("x")}),
])  # fmt: skip
def test_an_artifact_without_a_checkpoint_is_refused(serve, artifact):
    serve(artifact)
    with pytest.raises(ValueError, match=r"is no model with a \.ckpt file"):
        models.load(REFERENCE)
    assert not list(Path().iterdir())


def test_an_interrupted_download_leaves_nothing(trained, serve, monkeypatch):
    serve(FakeArtifact(files_of(trained) | {"config.yaml": Path("missing")}))
    with pytest.raises(ValueError, match="cannot be downloaded"):
        models.load(REFERENCE)
    assert not [path for path in Path("runs").rglob("*") if path.is_file()]
    assert not FOLDER.exists()
