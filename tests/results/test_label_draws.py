"""python -m results.label_draws: each draw of labels equals the run of train.py, and an interrupted run goes on."""

import csv
import signal

import pytest
import torch

import train
from evaluation.inputs import load_data, open_checkpoint
from results import label_draws

MODEL = ["--model", "M2", "--model.hidden", "[8]", "--model.z_dim", "3", "--model.lr_final", "1e-4"]
DATA = ["--data", "Digits", "--data.batch_size", "200"]
OPTIONS = [*MODEL, *DATA, "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--seed", "3"]
OPTIONS += ["--model.batch_norm", "false", "--data.num_labels", "50"]
QUIET = ["--num_samples", "0", "--callbacks", "[]", "--trainer.enable_progress_bar", "false"]


def weights(path):
    return torch.load(path, weights_only=True, map_location="cpu")["state_dict"]


def run(folder, *options):
    return label_draws.main(["--draws", "2", "--run_dir", str(folder), *OPTIONS, *options])


@pytest.fixture(scope="module")
def draws(tmp_path_factory):
    folder = tmp_path_factory.mktemp("draws")
    assert run(folder) == 0
    return folder


def test_each_draw_is_the_run_of_train_py_with_its_label_seed(draws, tmp_path):
    hashes = []
    for draw in (0, 1):
        alone = tmp_path / f"alone{draw}"
        assert train.main([*OPTIONS, "--data.label_seed", str(draw), "--run_dir", str(alone), *QUIET]) == 0
        expected = torch.load(alone / "checkpoints" / "last.ckpt", weights_only=True)
        found = torch.load(draws / f"draw{draw}" / "checkpoints" / "last.ckpt", weights_only=True)
        for key, value in expected["state_dict"].items():
            torch.testing.assert_close(found["state_dict"][key], value, rtol=1e-4, atol=1e-5)
        for key in ("run", "hyper_parameters", "datamodule_hyper_parameters", "epoch", "global_step", "model"):
            assert found[key] == expected[key]
        hashes.append(found["run"]["labels_hash"])
    assert hashes[0] != hashes[1]


def assert_draw_equals_train_py(tmp_path, options):
    """Assert that draw 1 of label_draws has the weights of train.py with label_seed 1."""
    assert label_draws.main(["--draws", "2", "--run_dir", str(tmp_path / "draws"), *options]) == 0
    alone = tmp_path / "alone"
    assert train.main([*options, "--data.label_seed", "1", "--run_dir", str(alone), *QUIET]) == 0
    expected, found = (weights(run / "checkpoints" / "last.ckpt") for run in (alone, tmp_path / "draws" / "draw1"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_images_that_are_binarized_once_are_scaled_as_in_train_py(tmp_path):
    assert_draw_equals_train_py(tmp_path, [*OPTIONS, "--data.binarization", "fixed", "--trainer.max_epochs", "1"])


def test_grey_features_are_those_of_train_py(tmp_path):
    m1 = ["--model", "VAE", "--model.hidden", "[8]", "--model.z_dim", "3", *DATA, "--trainer.accelerator", "cpu"]
    assert train.main([*m1, "--trainer.max_epochs", "5", "--run_dir", str(tmp_path / "m1"), *QUIET]) == 0
    stack = ["--model", "M1M2", "--model.m1", str(tmp_path / "m1"), *OPTIONS[2:]]
    assert_draw_equals_train_py(tmp_path, [*stack, "--trainer.max_epochs", "2"])


def test_losses_can_be_computed_in_bf16(tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        options = [*OPTIONS, "--trainer.max_epochs", "1", "--trainer.precision", precision]
        assert label_draws.main(["--draws", "1", "--run_dir", str(folder), *options]) == 0
        with open(folder / "draw0" / "metrics.csv") as file:
            (row,) = csv.DictReader(file)
        losses[precision] = float(row["train/loss"])
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=1e-3)
    assert losses["bf16-mixed"] != losses["32-true"]


@pytest.mark.gpu
def test_captured_steps_are_those_of_train_py(tmp_path):
    options = [option if option != "cpu" else "cuda" for option in OPTIONS]
    assert label_draws.main(["--draws", "2", "--run_dir", str(tmp_path), *options]) == 0
    for draw in (0, 1):
        alone = tmp_path / f"alone{draw}"
        assert train.main([*options, "--data.label_seed", str(draw), "--run_dir", str(alone), *QUIET]) == 0
        expected, found = (
            weights(folder / "checkpoints" / "last.ckpt") for folder in (alone, tmp_path / f"draw{draw}")
        )
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_the_checkpoints_can_be_evaluated(draws):
    path = draws / "draw1" / "checkpoints" / "last.ckpt"
    ((checkpoint, data),) = load_data([open_checkpoint(str(path), {})])
    assert data.labels_hash == checkpoint["run"]["labels_hash"]
    assert (draws / "draw1" / "metrics.csv").read_text().startswith("epoch,train/loss,val/error\n1,")


def test_an_interrupted_run_goes_on_to_the_same_bits(draws, tmp_path, monkeypatch, capsys):
    original, epochs = label_draws.Trainer.train_epoch, []

    def interrupted(self, epoch):
        if epochs == [0]:
            signal.raise_signal(signal.SIGTERM)
        epochs.append(epoch)
        return original(self, epoch)

    monkeypatch.setattr(label_draws.Trainer, "train_epoch", interrupted)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    assert run(tmp_path) == 128 + signal.SIGTERM
    assert "Stopped after epoch 2. The same command continues." in capsys.readouterr().err
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert run(tmp_path) == 0
    for draw in ("draw0", "draw1"):
        expected, found = (weights(root / draw / "checkpoints" / "last.ckpt") for root in (draws, tmp_path))
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert run(tmp_path, "--model.lr", "1") == 2
    assert "was begun with other options" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 the beginning of a file"])
def test_a_damaged_state_is_named(tmp_path, capsys, content):
    (tmp_path / "state0.pt").write_bytes(content)
    assert run(tmp_path) == 2
    assert "state0.pt is damaged: delete it to begin again" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "sentence"), [
    (["--compile"], "--compile is not supported for several draws: leave it out."),
    (["--trainer.max_steps", "3"], "--trainer.max_steps is not supported"),
    (["--trainer.max_epochs", "0"], "--trainer.max_epochs must be at least 1; got 0."),
    (["--trainer.devices", "2"], "--trainer.devices is not supported"),
    (["--trainer.accelerator", "mps"], "--trainer.accelerator takes cpu or cuda; got mps."),
    (["--data.label_seed", "5"], "--data.label_seed is not supported for several draws"),
    (["--draws", "0"], "--draws must be at least 1; got 0."),
    (["--model.nonsense", "1"], "nonsense"),
])  # fmt: skip
def test_options_that_do_not_apply_are_refused(tmp_path, capsys, options, sentence):
    assert run(tmp_path, *options) == 2
    assert sentence in capsys.readouterr().err
    assert not [*tmp_path.rglob("*.ckpt")]


def test_a_number_of_labels_is_needed(tmp_path, capsys):
    options = [option for option in OPTIONS if option not in ("--data.num_labels", "50")]
    assert label_draws.main(["--run_dir", str(tmp_path), *options]) == 2
    assert "num_labels" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["VAE", "CVAE", "GAN"])
def test_models_that_do_not_predict_labels_are_refused(tmp_path, capsys, model):
    options = ["--model", model, *DATA, "--data.num_labels", "50", "--trainer.max_epochs", "1"]
    assert label_draws.main(["--run_dir", str(tmp_path), *options]) == 2
    assert f"{model} does not predict labels: use --model M2, M1M2, ADGM or SDGM." in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_run_folder_of_another_command_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "draw1").mkdir()
    assert run(tmp_path) == 2
    assert "draw1 exists: give another --run_dir." in capsys.readouterr().err
    assert not [*(tmp_path / "draw1").iterdir()]


def test_a_state_of_another_number_of_draws_is_refused(draws, tmp_path, capsys):
    state = torch.load(draws / "state0.pt", weights_only=True)
    state["progress"]["errors"] *= 2  # as on a GPU
    state["options"][state["options"].index(str(draws))] = str(tmp_path)
    torch.save(state, tmp_path / "state0.pt")
    assert run(tmp_path) == 2
    assert "was begun on another kind of device" in capsys.readouterr().err
    assert not (tmp_path / "draw0").exists()
