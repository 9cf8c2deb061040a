"""train.py as its users run it: options, errors, run folders, determinism, resuming."""

import csv
import gc
import inspect
import json
import math
import os
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import yaml
from wandb_file import read_wandb_file

import evaluate
import train
from callbacks import wandb_environment
from cli import train_options
from datamodules import DATAMODULES
from models import MODELS, VAE, ImplicitModel, Model
from runtime import run_folder

# Drawing the figures takes eight times as long as the two epochs
WITH_FIGURES = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "2",
    "--num_samples",
    "0",
    "--trainer.enable_progress_bar",
    "false",
]
QUICK = [*WITH_FIGURES, "--callbacks", "[]"]
WITH_CLASSES = ("M2", "M1M2", "ADGM", "SDGM")  # which learn from few labels


KEYS = {"nll", "nll_se", "num_samples", "elbo", "rate", "distortion", "ess_median", "active_units", "num_images",
        "protocol", "quantity", "checkpoint", "model", "data", "seed", "test_error", "confusion",
        "baselines"}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Options


@pytest.mark.parametrize("key", ["model", "data"])
def test_defaults_are_those_of_the_signature(key):
    for name, cls in (MODELS if key == "model" else DATAMODULES).items():
        names = {"model": "VAE", "data": "Digits"} | {key: name}
        defaults = train_options.build_parser(names).get_defaults()[key].as_dict()
        for parameter in inspect.signature(cls).parameters.values():
            is_option = parameter.name not in (*getattr(cls, "data_args", ()), *getattr(cls, "checkpoint_args", ()))
            if parameter.default is not parameter.empty and is_option:
                assert defaults[parameter.name] == parameter.default, (name, parameter.name)


@pytest.mark.parametrize(
    "order", [["--config", "c.yaml", "--model.z_dim", "7"], ["--model.z_dim", "7", "--config", "c.yaml"]]
)
def test_flag_wins_over_config_in_either_position(order):
    Path("c.yaml").write_text("seed: 3\nmodel: {name: IWAE, z_dim: 5, num_samples: 9}\n")
    names, flags = train_options.split_component_flags(order)
    args = train_options.build_parser(names).parse_args(flags)
    assert (args.model.name, args.model.z_dim, args.model.num_samples, args.seed) == ("IWAE", 7, 9, 3)


def test_flag_names_another_model_than_config():
    Path("c.yaml").write_text("model: {name: IWAE, z_dim: 5}\n")
    names, flags = train_options.split_component_flags(["--config=c.yaml", "--model=VAE"])
    args = train_options.build_parser(names).parse_args(flags)
    assert (args.model.name, args.model.z_dim, args.model.objective) == ("VAE", 5, "elbo")


def test_later_config_wins():
    Path("a.yaml").write_text("model: {name: VAE, z_dim: 5, lr: 0.5}\n")
    Path("b.yaml").write_text("model: {name: VAE, z_dim: 6}\n")
    names, flags = train_options.split_component_flags(["--config", "a.yaml", "--config", "b.yaml"])
    args = train_options.build_parser(names).parse_args(flags)
    assert (args.model.z_dim, args.model.lr) == (6, 0.5)


MISTAKES = {
    "--model VEA": "Unknown model 'VEA': choose one of AE, VAE",
    "--data MNITS": "Unknown data set 'MNITS': choose one of MNISTSubset, Digits",
    "--model.z_dims 3": "Unknown option --model.z_dims, did you mean --model.z_dim?",
    "--model AE --model.beta 2": "Unknown option --model.beta",
    "--trainer.max_epoch 3": "did you mean --trainer.max_epochs?",
    "--data.root x": "Unknown option --data.root",
    "--epochs 3": "Unknown option --epochs, did you mean --trainer.max_epochs?",
    "--lr 0.1": "Unknown option --lr, did you mean --model.lr?",
    "-lr 0.1": "Unknown option --lr, did you mean --model.lr?",
    "--seed 1 AE": "Unexpected argument AE: values need the name of their option, as in --model VAE.",
    "--modle.name VAE": "Unknown option --modle.name, did you mean --model.name?",
    "--trainer.lr 0.1": "did you mean --model.lr?",
    "--Seed 3": "did you mean --seed?",
    "--batch-size 3": "did you mean --data.batch_size?",
    "--latent_dim 3": "did you mean --model.z_dim?",
    "--num_workers 3": "Unknown option --num_workers: batches are sliced from images in memory, without workers.",
    "--qwertz 3": "Unknown option --qwertz. All options: python train.py --help",
    "--model vae": "Unknown model 'vae', did you mean VAE?",
    "--data fashion-mnist": "Unknown data set 'fashion-mnist', did you mean FashionMNIST?",
    "--trainer.limit_test_batches 3": "--trainer.limit_test_batches has no effect",
    "--trainer.inference_mode false": "--trainer.inference_mode has no effect",
    "--trainer.gradient_clip_algorithm norm": "has no effect without --trainer.gradient_clip_val",
    "--trainer.accumulate_grad_batches 0": "--trainer.accumulate_grad_batches must be above 0; got 0.",
    "--trainer.check_val_every_n_epoch 0": "--trainer.check_val_every_n_epoch must be above 0; got 0.",
    "--trainer.profiler fast": "--trainer.profiler must be one of simple, advanced, pytorch; got fast.",
    "--model.z_dim 1000000000": "Training this model takes",
    "--model.z_dim 1000000000000000000": "The weights of this model exceed any memory: lower --model.z_dim",
    "--model.hidden [1000000000]": "Training this model takes",
    "--model.posterior flow --model.posterior_hidden [600000,600000]": "lower --model.posterior_hidden or",
    "--model.prior flow --model.prior_transforms 10000000": "lower --model.prior_hidden or",
    "--model.prior flow --model.prior_hidden [600000,600000]": "lower --model.prior_hidden or",
    "--model.prior vamp --model.prior_components 1000000000": "lower --model.prior_components",
    "--model HierarchicalVAE --model.z_dim [1000000000,4]": "Training this model takes",
    "--model IWAE --model.num_samples 1000000000": "A batch of 100 images with 1,000,000,000 samples each takes",
    "--num_samples 1000000000": "--num_samples must be at most 10,000,000; got 1,000,000,000. 5000",
    "--trainer.max_epochs -5": "--trainer.max_epochs must be -1 (no limit) or at least 0; got -5.",
    "--model.batch_norm true --data.batch_size 1": "Batch norm needs at least two images per batch",
    "train": "Unexpected argument train",
    "--model.encoder transformer": "Unknown encoder 'transformer': choose one of mlp, conv, dcgan, resnet, gated",
    "--model.activation sine": "Unknown activation 'sine': choose one of relu, tanh",
    "--model.objective elbow": "Unknown objective of VAE 'elbow': choose one of elbo, iwae",
    "--model.z_dim -3": "z_dim must be at least 1; got -3.",
    "--model.z_dim two": "--model.z_dim takes a whole number; got two.",
    "--model.hidden [4,0]": "hidden must hold positive sizes",
    "--model.hidden 4,4": "--model.hidden takes a list such as [400,400] or null; got 4,4.",
    "--model LadderVAE --model.z_dim 5": "--model.z_dim takes a list such as [100,50] or null; got 5.",
    "--model LadderVAE --model.z_dim [4,a]": "--model.z_dim takes a list of whole numbers or null; got [4, 'a'].",
    "--model LadderVAE --model.encoder conv --model.z_dim [4,4]": "layers_per_scale must hold positive numbers",
    "--model LadderVAE --model.posterior full": "leave out posterior full",
    "--model LadderVAE --model.prior vamp": "choose another prior or --model.batch_norm false",
    "--model AffineVAE --model.transforms rotation": "takes a list such as [rotation,shift]; got rotation.",
    "--model DRAW --model.read_size 3": "read_size and write_size have no effect without attention",
    "--model DRAW --model.attention": "--model.attention needs a value: write --model.attention VALUE.",
    "--model DRAW --model.encoder conv": "--model.encoder. All options of DRAW: python train.py --model DRAW --help",
    "--model DRAW --model.prior vamp": "Unknown option --model.prior",
    "--callbacks none": "--callbacks takes a list such as [samples,traversals] or null; got none.",
    "--model.likelihood poisson": "--model.likelihood takes one of bernoulli, gaussian, continuous_bernoulli, "
    "discretized_logistic, discretized_logistic_mixture; got poisson.",
    "--model.likelihood gaussian --data.binarization dynamic": "A gaussian likelihood is not defined for the "
    "protocol dynamic: use --data.binarization",
    "--data.binarization grey": "A bernoulli likelihood is not defined for the protocol grey",
    "--data.batch_size 0": "batch_size must be at least 1",
    "--data.label_seed 1": "label_seed has no effect without num_labels",
    "--data.num_labels 7": "num_labels must be a multiple of the number of classes (10)",
    "--data MNIST --data.root nowhere": "nowhere",
    "--data NPZ --data.root my.npz": "my.npz",
    "--data NPZ": "NPZ needs --data.root.",
    "--model M1M2": "M1M2 needs --model.m1.",
    "--wandb on": "--wandb takes one of off, offline, online; got on.",
    "--wandb.mode on": "--wandb takes one of off, offline, online; got on.",
    "--wandb offline --wandb.mode online": "--wandb offline and --wandb.mode online disagree: give one of them.",
    "--wandb offline --wandb.project a/b": "--wandb.project must have 1 to 128 characters, none of them / \\ # ? % :",
    "--wandb offline --wandb.entity a/b": "--wandb.entity must have 1 to 128 characters",
    "--wandb offline --wandb.tags a,b": "--wandb.tags takes a list such as [baseline,long] or null; got a,b.",
    "--wandb offline --wandb.tags ['']": "--wandb.tags must each have 1 to 64 characters; got ''.",
    "--wandb offline --wandb.projekt p": "did you mean --wandb.project?",
    "--wandb_project p": "did you mean --wandb.project?",
    "--num_samples -1": "--num_samples must be at least 0; got -1.",
    "--limit 0": "--limit must be at least 1; got 0.",
    "--callbacks [dreams]": "Unknown callback 'dreams'",
    "--model AE --callbacks [samples]": "AE has no samples",
    "--config nope.yaml": "nope.yaml",
    "--resume nope.ckpt": "There is no checkpoint nope.ckpt",
    "--resume auto": "--resume auto needs --run_dir",
    "--model HierarchicalVAE --model.z_dim 5": "--model.z_dim takes",
    "--trainer.accelerator gpuu": "gpuu",
    "--trainer.accelerator gpu --wandb offline": "gpu",
    "--trainer.accelerator mps": "use --trainer.accelerator cpu",
    "--trainer.precision 16-true": "use 16-mixed or bf16-mixed",
    "--trainer.precision transformer-engine": "transformer_engine",
    "--model.lr_final 1e-4 --trainer.max_epochs -1": "lr_final needs a number of epochs",
    "--trainer.val_check_interval 500": "val_check_interval",
    "--trainer.strategy ddp_spawn": "--trainer.strategy must be auto or ddp; got ddp_spawn.",
    "--trainer.devices [0,1] --trainer.accelerator cpu": "CPU",
    "--save_every_steps 0": "--save_every_steps and --save_every_minutes must be above 0; got 0 and None.",
    "--save_every_minutes -1": "--save_every_steps and --save_every_minutes must be above 0; got None and -1.0.",
    "--trainer.max_epochs 0": "Nothing was trained",
    "--trainer.limit_train_batches 0": "Nothing was trained",
    "--run_dir a_file/run": "a_file",
    "--run_dir a_file": "--run_dir a_file is a file: name a folder.",
    "--seed -1": "--seed must be between 0 and 4294967295; got -1.",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_option_errors_are_one_sentence_and_exit_status_2(mistake, capsys, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    Path("a_file").touch()
    assert train.main(mistake.split()) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[mistake] in err
    Path("a_file").unlink()
    assert not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "text",
    [
        "model: IWAE\n",
        "model: {z_dims: 3}\n",
        "model: {z_dim: x}\n",
        "- a\n",
        "{a: b: c}\n",
        "sead: 3\n",
        "seed: 3\nseed: 4\n",
    ],
)
def test_errors_in_config_files(text, capsys):
    Path("c.yaml").write_text(text)
    assert train.main(["--config", "c.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_shows_the_options_of_the_model_named(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--model", "IWAE", "--data", "MNIST", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "--model.num_samples" in out
    assert "--data.root" in out
    assert "K, the samples of z per image" in " ".join(out.split())


# Runs


def test_command_line_in_a_separate_process():
    script = Path(train.__file__)
    command = [sys.executable, script, *WITH_FIGURES, "--run_dir", "run", "--trainer.enable_progress_bar", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stderr
    assert "warning" not in done.stderr.lower()
    assert "Run folder: run" in done.stdout


@pytest.mark.parametrize("name", MODELS)
def test_run_folder(name, capsys):
    command = ["--model", name, *WITH_FIGURES, "--num_samples", "20", "--limit", "30", "--seed", "5"]
    if name == "AE":
        command += ["--data.binarization", "grey"]
    if name in WITH_CLASSES:
        command += ["--data.num_labels", "100"]
    if name == "M1M2":
        assert train.main([*QUICK, "--run_dir", "m1"]) == 0
        command += ["--model.m1", "m1/checkpoints/best.ckpt"]
    if name == "DRAW":  # which has no hidden layers
        hidden = command.index("--model.hidden")
        command[hidden : hidden + 2] = ["--model.rnn_size", "8"]
    assert train.main(command) == 0
    (folder,) = Path("runs", f"Digits-{name}").iterdir()
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "figures",
        "evaluation.json",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    is_implicit = issubclass(MODELS[name], ImplicitModel)
    assert (folder / "figures" / f"{'samples' if is_implicit else 'reconstructions'}_epoch0002.png").exists()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["seed"] == 5
    assert config["model"]["name"] == name
    if name != "DRAW":
        assert config["model"]["batch_norm"] == (name in (*WITH_CLASSES, "GAN", "LadderVAE"))
    result = json.loads((folder / "evaluation.json").read_text())
    assert result.keys() >= KEYS
    assert (result["model"], result["data"], result["seed"]) == (name, "Digits", 5)
    if name in WITH_CLASSES:
        assert 0 < result["test_error"] < 1
        assert {"analogies_test.png", "confusion_matrix_test.png"} <= {p.name for p in (folder / "figures").iterdir()}
    else:
        assert result["test_error"] is None
    assert (result["baselines"] is not None) == (name in WITH_CLASSES)
    if name == "AE" or is_implicit:
        assert result["nll"] is None
        assert result["quantity"] is None
        assert result["loss"] > 0
        assert result["protocol"] == "grey"
    else:
        assert (result["num_images"], result["num_samples"], result["protocol"]) == (30, 20, "dynamic")
        assert result["nll"] < -result["elbo"]
        assert result["quantity"] == ("log p(x|y)" if name == "CVAE" else "log p(x)")
        assert result["rate"] + result["distortion"] == pytest.approx(-result["elbo"])
    assert str(folder) in capsys.readouterr().out


def test_figures_of_a_classifier():
    assert train.main([*WITH_FIGURES, "--model", "M2", "--data.num_labels", "20", "--run_dir", "a"]) == 0
    drawn = {path.name for path in Path("a/figures").iterdir()}
    for name in ("analogies", "class_samples", "confusion_matrix", "error", "reconstructions", "samples"):
        assert {f"{name}_epoch0001.png", f"{name}_epoch0002.png"} <= drawn


class Pixels(Model):
    """No latent: independent pixels. The least that a model with a likelihood is."""

    def __init__(self, image_shape: tuple[int, int, int], **kwargs):
        super().__init__(**kwargs)
        self.logits = torch.nn.Parameter(torch.zeros(image_shape))

    def posterior(self, x, y=None):
        return None

    def log_weights(self, x, K, y=None, posterior=None):
        log_px = -torch.nn.functional.binary_cross_entropy_with_logits(
            self.logits.expand_as(x), x, reduction="none"
        ).flatten(1)
        return log_px.sum(1).expand(K, -1)

    def loss(self, x, y):
        return -self.log_weights(x, 1).mean()

    def validation_metrics(self, x, y):
        return {"bound": self.log_weights(x, 1)[0]}


def test_a_new_model_needs_no_more_than_the_readme_says(monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "Pixels", Pixels)
    command = ["--model", "Pixels", "--data", "Digits", "--trainer.max_epochs", "2", "--num_samples", "3"]
    assert train.main([*command, "--run_dir", "a"]) == 0
    result = json.loads(Path("a/evaluation.json").read_text())
    assert 20 < result["nll"] < 64 * math.log(2)
    assert result["ess_median"] == pytest.approx(3)
    assert result["active_units"] is None
    assert "Pixels" in capsys.readouterr().out


def test_config_yaml_reproduces_the_run():
    assert train.main([*WITH_FIGURES, "--run_dir", "a", "--seed", "3"]) == 0
    assert train.main(["--config", "a/config.yaml", "--run_dir", "b"]) == 0
    assert train.main([*QUICK, "--run_dir", "c", "--seed", "4"]) == 0
    assert same(weights("a"), weights("b"))
    assert not same(weights("a"), weights("c"))
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    assert Path("a/metrics.csv").read_text() == Path("b/metrics.csv").read_text()


def test_callbacks_do_not_change_training():
    assert train.main([*WITH_FIGURES, "--run_dir", "a", "--model.batch_norm", "true"]) == 0
    assert train.main([*QUICK, "--run_dir", "b", "--model.batch_norm", "true"]) == 0
    assert same(weights("a"), weights("b"))
    assert not Path("b/figures").exists()


def test_folder_with_a_run_is_refused(capsys):
    assert train.main([*QUICK, "--run_dir", "a"]) == 0
    before = Path("a/config.yaml").stat().st_mtime_ns
    assert train.main([*QUICK, "--run_dir", "a"]) == 2
    assert "a holds a run already" in capsys.readouterr().err
    assert Path("a/config.yaml").stat().st_mtime_ns == before


def test_resumed_equals_uninterrupted():
    warmup = ["--model.beta_warmup", "1"]  # by default it depends on the number of epochs
    four = ["--trainer.max_epochs", "4", *warmup]
    assert train.main([*QUICK, *four, "--run_dir", "a"]) == 0
    assert train.main([*QUICK, *warmup, "--run_dir", "b", "--resume", "auto"]) == 0  # a first start
    assert train.main([*QUICK, *four, "--run_dir", "b", "--resume", "auto"]) == 0
    assert same(weights("a"), weights("b"))
    assert Path("a/metrics.csv").read_text() == Path("b/metrics.csv").read_text()


@pytest.mark.parametrize("prior", ["--model.prior vamp --model.prior_components 20", "--model.prior flow"])
def test_a_resumed_run_with_a_learned_prior_equals_an_uninterrupted_one(prior):
    command = [*QUICK, *prior.split(), "--model.beta_warmup", "1", "--trainer.max_epochs"]
    assert train.main([*command, "2", "--run_dir", "a", "--steps_per_call", "1"]) == 0
    assert train.main([*command, "1", "--run_dir", "b", "--steps_per_call", "5"]) == 0
    assert train.main([*command, "2", "--run_dir", "b", "--steps_per_call", "5", "--resume", "auto"]) == 0
    assert same(weights("a"), weights("b"))


def test_ctrl_c_before_the_first_step(monkeypatch, capsys):
    def on_fit_start(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(VAE, "on_fit_start", on_fit_start, raising=False)
    assert train.main([*QUICK, "--run_dir", "a"]) == 130
    assert "Stopped before the first step." in capsys.readouterr().err


def test_another_model_is_not_resumed(capsys):
    assert train.main([*QUICK, "--run_dir", "a"]) == 0
    again = ["--data", "Digits", "--run_dir", "a", "--resume", "auto", "--trainer.max_epochs", "3"]
    again += ["--num_samples", "0"]
    for change, words in {
        "--model.hidden [9]": "its --model.hidden is [8], not [9]",
        "--model IWAE --model.hidden [8]": "its model is VAE, not IWAE",
        "--model.hidden [8] --data.binarization fixed": "its protocol is dynamic, not fixed",
        "--model.hidden [8] --model.lr 1e-4": "its --model.lr is 0.001, not 0.0001",
        "--model.hidden [8] --data.seed 3": "its --data.seed is 0, not 3",
        "--model.hidden [8] --seed 3": "its seed is 0, not 3",
    }.items():
        assert train.main([*again, *change.split()]) == 2
        assert words in capsys.readouterr().err
    assert train.main([*again, "--model.hidden", "[8]"]) == 0


def test_a_run_with_another_draw_of_labels_is_not_resumed(capsys):
    few_labels = [*QUICK, "--model", "M2", "--data.num_labels", "50", "--run_dir", "a"]
    assert train.main(few_labels) == 0
    again = [*few_labels, "--resume", "auto", "--trainer.max_epochs", "3", "--num_samples", "0"]
    capsys.readouterr()
    assert train.main([*again, "--data.label_seed", "3"]) == 2
    message = capsys.readouterr().err
    assert "its --data.label_seed is None, not 3" in message
    assert "its choice of labels is " in message


def test_a_resumed_run_may_name_its_options_in_its_own_config():
    command = ["--model", "HierarchicalVAE", *QUICK, "--run_dir", "a"]
    assert train.main(command) == 0
    assert train.main(["--config", "a/config.yaml", "--run_dir", "a", "--resume", "auto"]) == 0


def test_a_diverging_run_fails(capsys):
    command = [*QUICK, "--model.lr", "1e30", "--num_samples", "2", "--run_dir", "a"]
    assert train.main(command) == 1
    assert "diverged" in capsys.readouterr().err
    assert not Path("a/evaluation.json").exists()


def test_runs_started_in_the_same_second_have_different_folders(monkeypatch):
    class SameSecond(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_folder, "datetime", SameSecond)
    for seed in range(3):
        assert train.main([*QUICK, "--seed", str(seed), "--trainer.max_epochs", "1"]) == 0
    names = {path.name for path in Path("runs/Digits-VAE").iterdir()}
    assert names == {"2026-01-02_03-04-05", "2026-01-02_03-04-05-2", "2026-01-02_03-04-05-3"}


def test_wandb_without_a_key(monkeypatch, capsys):
    def refuse(**kwargs):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    assert train.main([*QUICK, "--wandb", "online", "--run_dir", "a"]) == 2
    assert capsys.readouterr().err == (
        "error: W&B: No API key configured. Use `wandb login` to log in. "
        "Use --wandb offline to write to the run folder alone.\n"
    )
    assert not Path("a").exists()


@pytest.mark.parametrize("size", [1, 3, 9])
def test_data_with_few_test_images(size):
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6), np.uint8)
    np.savez("few.npz", x=images, x_test=images[:size])
    assert train.main([*WITH_FIGURES, "--data", "NPZ", "--data.root", "few.npz", "--run_dir", "a"]) == 0


def test_untrained_model_starts_at_the_training_mean():
    names, flags = train_options.split_component_flags(["--model.hidden", "[]"])
    data, model = train.build(train_options.build_parser(names).parse_args(flags))
    torch.nn.init.zeros_(model.decoder.first.weight)
    torch.testing.assert_close(model.sample(1)[0], data.train_mean().clamp(0.001, 0.999))


def test_wandb_offline_run_holds_config_metrics_and_figures():
    command = [*WITH_FIGURES, "--run_dir", "a", "--wandb", "offline", "--num_samples", "5", "--limit", "5"]
    assert train.main(command) == 0
    wandb.teardown()  # only now all of it is on the disk
    (path,) = Path("a").rglob("*.wandb")
    records = read_wandb_file(path)
    config = {item.key for record in records if record.HasField("run") for item in record.run.config.update}
    config |= {
        item.key or item.nested_key[0]
        for record in records
        if record.HasField("config")
        for item in record.config.update
    }
    assert {"model/z_dim", "data/batch_size", "trainer/max_epochs", "seed", "protocol"} <= config
    logged = {item.key or item.nested_key[0] for r in records if r.HasField("history") for item in r.history.item}
    assert {"val/bound", "train/loss", "epoch", "trainer/global_step", "figures/reconstructions"} <= logged
    final = {
        item.key or "/".join(item.nested_key) for r in records if r.HasField("summary") for item in r.summary.update
    }
    assert "test/nll" in final


# Paths


def test_a_home_folder_is_expanded_once_for_all_options(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6), np.uint8)
    np.savez(home / "mine.npz", x=images, x_test=images[:9])
    (home / "c.yaml").write_text("run_dir: ~/a\ndata: {name: NPZ, root: ~/mine.npz}\ntrainer: {max_epochs: 1}\n")
    quick = ["--model.hidden", "[8]", "--num_samples", "0", "--callbacks", "[]"]
    assert train.main([*quick, "--config", "~/c.yaml"]) == 0
    assert yaml.safe_load((home / "a/config.yaml").read_text())["data"]["root"] == str(home / "mine.npz")
    assert train.main([*quick, "--config=~/c.yaml", "--seed", "5"]) == 2  # the same folder
    assert "holds a run already" in capsys.readouterr().err
    again = ["--config", "~/c.yaml", "--trainer.max_epochs", "2", "--resume", "~/a/checkpoints/last.ckpt"]
    assert train.main([*quick, *again]) == 0
    assert evaluate.main(["~/a/checkpoints/*.ckpt", "--num_samples", "2", "--report", "~/r", "--figures", "[]"]) == 0
    assert (home / "r").is_dir()
    assert not [path for path in Path().rglob("*") if "~" in path.name]


def test_an_unknown_home_folder_is_refused(capsys):
    assert train.main(["--run_dir", "~nobody-of-this-name/a"]) == 2
    assert "that user has no home folder" in capsys.readouterr().err
    assert train.main(["--run_dir", ""]) == 2
    assert capsys.readouterr().err == "error: --run_dir is empty: name a path, or leave it out.\n"
    assert not list(Path().iterdir())


# Instructions that disagree


def test_a_config_for_another_model_causes_a_warning(capsys):
    Path("c.yaml").write_text("model: {name: IWAE, num_samples: 50, z_dim: 5}\ndata: {name: Digits, val_size: 100}\n")
    names, _ = train_options.split_component_flags(["--model", "VAE", "--config", "c.yaml", "--model.z_dim", "7"])
    assert names == {"model": "VAE", "data": "Digits"}
    assert capsys.readouterr().err == (
        "warning: c.yaml was written for IWAE, but VAE is used; its options of the model still apply: num_samples=50.\n"
    )
    train_options.split_component_flags(["--data", "MNIST", "--config", "c.yaml"])
    warning = capsys.readouterr().err
    assert "was written for Digits, but MNIST is used; its options of the data set still apply" in warning
    Path("d.yaml").write_text("model: {name: VAE}\n")
    train_options.split_component_flags(["--config", "c.yaml", "--config", "d.yaml"])  # the later file wins
    assert "c.yaml was written for IWAE, but VAE is used" in capsys.readouterr().err
    train_options.split_component_flags(["--model", "IWAE", "--config", "c.yaml"])
    assert capsys.readouterr().err == ""


def test_model_and_model_name_must_agree(capsys):
    assert train_options.split_component_flags(["--model.name", "IWAE"])[0]["model"] == "IWAE"
    assert train_options.split_component_flags(["--model.name=IWAE", "--model", "IWAE"])[0]["model"] == "IWAE"
    assert train.main(["--model", "IWAE", "--model.name", "VAE"]) == 2
    assert capsys.readouterr().err == "error: --model IWAE and --model.name VAE disagree: give one of them.\n"


# Options of the Trainer: each that is offered has an effect

SHOWN = {
    "accelerator": "chooses the device, or is refused (MISTAKES)",
    "strategy": "auto or ddp (MISTAKES, test_distributed)",
    "devices": "starts processes (test_distributed)",
    "num_nodes": "counts machines (test_launch)",
    "precision": "changes sums, noted in checkpoints (test_resume)",
    "max_epochs": "ends training",
    "min_epochs": "keeps max_time and early stopping from ending training",
    "max_steps": "ends training",
    "min_steps": "as min_epochs",
    "max_time": "ends training",
    "limit_train_batches": "shortens an epoch",
    "limit_val_batches": "shortens validation",
    "val_check_interval": "validates within an epoch (MISTAKES)",
    "check_val_every_n_epoch": "leaves validation out",
    "num_sanity_val_steps": "validates before the first step",
    "log_every_n_steps": "rows of metrics.csv",
    "enable_progress_bar": "lines of progress",
    "enable_model_summary": "prints the layers",
    "accumulate_grad_batches": "fewer steps (test_resume)",
    "gradient_clip_val": "other weights (test_resume)",
    "gradient_clip_algorithm": "other weights",
    "deterministic": "deterministic algorithms of torch",
    "benchmark": "cuDNN's choice of algorithms, on GPUs",
    "profiler": "prints times",
    "detect_anomaly": "names the operation that gives NaN",
}


def test_every_offered_trainer_option_has_an_effect(capsys):
    offered = train_options.option_names(train_options.build_parser(train_options.DEFAULTS))
    assert {name.removeprefix("trainer.") for name in offered if name.startswith("trainer.")} == SHOWN.keys()
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    assert "--trainer.max_time" in shown
    assert not [name for name in train_options.NO_EFFECT if f"--trainer.{name}" in shown]


def steps(folder: str) -> int:
    return torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)["global_step"]


def test_trainer_options_take_effect(capsys, monkeypatch):
    quick = ["--data", "Digits", "--model.hidden", "[4]", "--num_samples", "0", "--callbacks", "[]"]
    quick += ["--trainer.max_epochs", "2"]
    printing = ["--trainer.profiler", "simple", "--trainer.enable_model_summary", "true"]
    assert train.main([*quick, "--run_dir", "plain", "--trainer.enable_progress_bar", "false"]) == 0
    assert capsys.readouterr().err == ""
    assert train.main([*quick, "--run_dir", "shown", *printing, "--trainer.num_sanity_val_steps", "1"]) == 0
    stderr = capsys.readouterr().err
    assert "Profiler Report" in stderr
    assert "Trainable params" in stderr
    assert "epoch 2/2" in stderr
    assert same(weights("plain"), weights("shown"))
    for change, expected in {
        "--trainer.max_steps 5": 5,
        "--trainer.limit_train_batches 3": 6,
        "--trainer.max_time 00:00:00:00 --trainer.min_epochs 2": 26,
    }.items():
        folder = change.replace(" ", "").replace("--", "at-")
        every = ["--trainer.log_every_n_steps", "1"]
        assert train.main([*quick, *every, "--run_dir", folder, *change.split()]) == 0, change
        assert steps(folder) == expected, change
    assert train.main([*quick, "--run_dir", "none", "--trainer.max_time", "00:00:00:00"]) == 2  # before the first step
    assert train.main([*quick, "--run_dir", "rare", "--trainer.check_val_every_n_epoch", "2"]) == 0
    rows = Path("rare/metrics.csv").read_text().splitlines()
    assert sum(bool(row.split(",")[rows[0].split(",").index("val/bound")]) for row in rows[1:]) == 1
    clip = ["--trainer.gradient_clip_val", "0.001"]
    assert train.main([*quick, "--run_dir", "norm", *clip]) == 0
    assert train.main([*quick, "--run_dir", "value", *clip, "--trainer.gradient_clip_algorithm", "value"]) == 0
    assert not same(weights("norm"), weights("value"))


def test_config_of_an_earlier_run_may_contain_options_without_effect():
    Path("c.yaml").write_text("trainer: {limit_test_batches: null, inference_mode: true, max_epochs: 1}\n")
    assert train.main([*QUICK[:4], "--num_samples", "0", "--callbacks", "[]", "--config", "c.yaml"]) == 0


def test_beta_does_not_decrease_when_a_run_is_extended():
    more = ["--trainer.max_epochs", "40", "--trainer.limit_train_batches", "3", "--trainer.log_every_n_steps", "1"]
    assert train.main([*QUICK, *more, "--trainer.max_epochs", "4", "--run_dir", "a"]) == 0
    assert train.main([*QUICK, *more, "--run_dir", "a", "--resume", "auto"]) == 0
    with Path("a/metrics.csv").open() as file:
        betas = [float(row["train/beta"]) for row in csv.DictReader(file) if row.get("train/beta")]
    assert betas == sorted(betas)
    assert betas[-1] == 1


def test_a_run_in_float64_is_evaluated(capsys):
    assert train.main([*QUICK, "--num_samples", "5", "--trainer.precision", "64-true"]) == 0
    assert "log p(x) of" in capsys.readouterr().out


# Training that has failed


def test_a_likelihood_worse_than_the_mean_image_is_reported(capsys):
    assert train.main([*QUICK, "--num_samples", "5", "--model.lr", "1000"]) == 0
    assert "Training has failed" in capsys.readouterr().out


def test_independent_pixels_are_the_mean_image_under_the_likelihood_of_the_model():
    from evaluation.metrics import independent_pixels

    data = DATAMODULES["Digits"]()
    data.setup()
    x = data.images("test")[0]
    mean = data.train_mean().clamp(0.001, 0.999)
    by_hand = -(x * mean.log() + (1 - x) * (1 - mean).log()).flatten(1).sum(1).double().mean().item()
    assert independent_pixels(VAE((1, 8, 8)), data, x) == pytest.approx(by_hand, rel=1e-5)
    grey = DATAMODULES["Digits"](binarization="grey")
    grey.setup()
    x = grey.images("test")[0]
    learned = independent_pixels(VAE((1, 8, 8), likelihood="gaussian", learn_scale=True), grey, x)
    fixed = independent_pixels(VAE((1, 8, 8), likelihood="gaussian", scale=1.0), grey, x)
    by_hand = (
        ((x - grey.train_mean()).square() / 2 + math.log(2 * math.pi) / 2).flatten(1).sum(1).double().mean().item()
    )
    assert fixed == pytest.approx(by_hand, rel=1e-3)
    assert learned < fixed
    assert independent_pixels(MODELS["AE"]((1, 8, 8)), data, x) is None


# W&B's own variables


OFFLINE = ["--wandb", "offline", "--callbacks", "[]", "--num_samples", "0"]
OF_AGENT = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agent123", "WANDB_PROJECT": "mine", "WANDB_ENTITY": "us"}
OF_USER = {
    "WANDB_NAME": "named",
    "WANDB_RUN_GROUP": "group",
    "WANDB_TAGS": "a,b",
    "WANDB_NOTES": "a note",
    "WANDB_JOB_TYPE": "kind",
}


@pytest.fixture
def variables(monkeypatch):
    """Sets variables of W&B, and no others; it reads them when it starts, so it ends before and after."""

    def set_all(**values):
        wandb.teardown()
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    set_all()
    yield set_all
    wandb.teardown()


def wandb_run(folder):
    """What the newest offline run in a folder says of itself, after the service has written it."""
    wandb.teardown()
    newest = max(Path(folder).rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return next(record.run for record in read_wandb_file(newest) if record.HasField("run"))


def test_wandb_environment_variables_are_used_and_recorded(variables, tmp_path, capfd):
    variables(**OF_AGENT, **OF_USER, WANDB_DIR=tmp_path / "files")
    (tmp_path / "files").mkdir()
    assert train.main([*QUICK, *OFFLINE, "--run_dir", "a"]) == 0
    run = wandb_run(tmp_path / "files")
    assert (run.sweep_id, run.run_id, run.project, run.entity) == ("sweep1", "agent123", "mine", "us")
    assert (run.display_name, run.run_group, run.job_type) == ("named", "group", "kind")
    assert (list(run.tags), run.notes) == (["a", "b"], "a note")
    assert Path("a/wandb_id").read_text() == "agent123"
    assert not Path("a/wandb").exists()
    out, err = capfd.readouterr()
    assert "Ignoring" not in err
    assert out.count("wandb sync files/wandb/offline-run-") == 1


def test_a_resumed_run_keeps_its_wandb_run(variables, capfd):
    more = [*OFFLINE, "--run_dir", "a", "--resume", "auto", "--trainer.max_epochs"]
    variables(WANDB_PROJECT="mine", WANDB_RUN_ID="first123")
    assert train.main([*QUICK, *more, "1"]) == 0
    variables()
    assert train.main([*QUICK, *more, "2"]) == 0
    run = wandb_run("a")
    assert (run.run_id, run.project) == ("first123", "mine")
    assert "warning" not in capfd.readouterr().err
    variables(WANDB_RUN_ID="second12")
    assert train.main([*QUICK, *more, "3"]) == 0
    run = wandb_run("a")
    assert (run.run_id, run.project) == ("second12", "mine")
    assert Path("a/wandb_id").read_text() == "second12"
    message = "warning: This run was first123 in W&B, but WANDB_RUN_ID is second12: it continues as second12.\n"
    assert message in capfd.readouterr().err


def test_default_wandb_project_and_one_line_with_the_run_path(variables, capfd):
    assert train.main([*QUICK, *OFFLINE, "--run_dir", "a"]) == 0
    run = wandb_run("a")
    assert (run.project, run.sweep_id) == ("elbo-room", "")
    assert run.display_name.startswith("Digits-VAE-")
    assert run.run_id == Path("a/wandb_id").read_text()
    assert not Path("a/wandb_project").exists()
    out, err = capfd.readouterr()
    assert "wandb" not in err
    path = next(Path("a").rglob("*.wandb")).parent
    assert [line for line in out.splitlines() if "andb" in line or "W&B" in line] == [
        f"W&B, offline: upload it by: wandb sync {path}"
    ]


SECTION = {"mode": "off", "project": None, "entity": None, "tags": None, "notes": None}


@pytest.mark.parametrize(("flags", "text", "expected"), [
    (["--wandb", "offline"], "", {"mode": "offline"}),
    (["--wandb=online", "--wandb.project", "p"], "", {"mode": "online", "project": "p"}),
    (["--wandb.tags", "[a,b]", "--wandb.mode", "offline"], "", {"mode": "offline", "tags": ["a", "b"]}),
    ([], "wandb: offline", {"mode": "offline"}),
    ([], "wandb: off", {}),
    ([], "wandb: null", {}),
    ([], "wandb: 'off'", {}),
    ([], "wandb: {mode: off, project: p}", {"project": "p"}),
    (["--wandb.project", "p"], "wandb: offline", {"mode": "offline", "project": "p"}),
    (["--wandb", "online"], "wandb: {mode: offline, tags: [a]}", {"mode": "online", "tags": ["a"]}),
    (["--wandb.entity", "e"], "wandb: {project: p, notes: a note}", {"project": "p", "entity": "e", "notes": "a note"}),
])  # fmt: skip
def test_both_forms_of_the_wandb_option(flags, text, expected):
    Path("c.yaml").write_text(f"seed: 3\n{text}\n")
    names, flags = train_options.split_component_flags([*flags, "--config", "c.yaml"])
    parser = train_options.build_parser(names)
    args = parser.parse_args(flags)
    assert args.seed == 3
    assert args.wandb.as_dict() == SECTION | expected
    Path("stored.yaml").write_text(parser.dump(args, skip_unset=False))
    names, flags = train_options.split_component_flags(["--config", "stored.yaml"])
    assert parser.parse_args(flags).wandb.as_dict() == SECTION | expected


def test_wandb_options_change_neither_the_group_nor_what_resumes(variables, capfd):
    more = [*QUICK, *OFFLINE, "--run_dir", "a", "--resume", "auto", "--trainer.max_epochs"]
    assert train.main([*more, "1"]) == 0
    before = wandb_run("a")
    assert train.main([*more, "1", "--wandb.tags", "[x]", "--wandb.notes", "again", "--wandb.project", "other"]) == 0
    after = wandb_run("a")
    assert (after.run_group, after.display_name, after.run_id) == (
        before.run_group,
        before.display_name,
        before.run_id,
    )
    assert (after.project, list(after.tags), after.notes) == ("other", ["x"], "again")
    assert "warning: This run was in elbo-room of W&B: it continues in other.\n" in capfd.readouterr().err
    assert train.main([*more, "1"]) == 0  # without the option it stays there
    assert wandb_run("a").project == "other"
    assert "warning" not in capfd.readouterr().err


def test_wandb_variables_take_precedence_over_options_with_a_warning(variables, capfd):
    variables(WANDB_PROJECT="mine", WANDB_TAGS="a,b", WANDB_NOTES="same")
    options = ["--wandb.project", "p", "--wandb.tags", "[c]", "--wandb.notes", "same", "--wandb.entity", "e"]
    assert train.main([*QUICK, *OFFLINE, *options, "--run_dir", "a"]) == 0
    run = wandb_run("a")
    assert (run.project, run.entity, list(run.tags), run.notes) == ("mine", "e", ["a", "b"], "same")
    assert Path("a/wandb_project").read_text() == "e/mine"
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: W&B uses WANDB_PROJECT=mine instead of --wandb.project.",
        "warning: W&B uses WANDB_TAGS=a,b instead of --wandb.tags.",
    ]


def test_wandb_options_without_wandb_cost_a_warning(capsys):
    assert train.main([*QUICK, "--callbacks", "[]", "--wandb.tags", "[a]", "--run_dir", "a"]) == 0
    assert capsys.readouterr().err == "warning: --wandb.tags has no effect: --wandb is off.\n"


# W&B leaves the file of the parameters open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_of_a_sweep_agent_keeps_its_id_and_takes_its_parameters_as_flags(variables, tmp_path, capfd):
    """The variables, the file and the flags are those of `wandb agent`."""
    (tmp_path / "files").mkdir()
    parameters = {"model.z_dim": 3, "model.hidden": [4, 4], "model.batch_norm": True, "model.lr": 0.002}
    file = tmp_path / "config-agent123.yaml"
    file.write_text(yaml.safe_dump({"wandb_version": 1} | {key: {"value": value} for key, value in parameters.items()}))
    variables(**OF_AGENT, WANDB_SWEEP_PARAM_PATH=file, WANDB_DIR=tmp_path / "files")
    flags = [f"--{key}={value}" for key, value in parameters.items()]
    quick = [*QUICK, *OFFLINE, "--wandb.tags", "[sweep]", "--run_dir", "a", "--resume", "auto"]
    for epochs in ("1", "2"):
        assert train.main([*quick, *flags, "--trainer.max_epochs", epochs]) == 0
        run = wandb_run(tmp_path / "files")
        assert (run.sweep_id, run.run_id, run.project, run.entity) == ("sweep1", "agent123", "mine", "us")
        assert list(run.tags) == ["sweep"]
    assert Path("a/wandb_id").read_text() == "agent123"
    assert Path("a/wandb_project").read_text() == "us/mine"
    stored = yaml.safe_load(Path("a/config.yaml").read_text())["model"]
    assert {f"model.{key}": value for key, value in stored.items() if f"model.{key}" in parameters} == parameters
    err = capfd.readouterr().err
    assert "Ignoring" not in err
    assert "warning" not in err.lower()
    gc.collect()  # closes that file within this test


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_DISABLED=true"])
@pytest.mark.parametrize("option", ["offline", "online"])
def test_a_variable_switches_wandb_off(variables, monkeypatch, capfd, variable, option):
    variables(**dict([variable.split("=")]))
    monkeypatch.setattr(wandb, "init", lambda **options: pytest.fail("W&B was started"))
    assert train.main([*QUICK, *OFFLINE, "--wandb", option, "--run_dir", "a"]) == 0
    assert f"W&B is switched off by {variable}, although --wandb is {option}.\n" in capfd.readouterr().err
    assert not Path("a/wandb").exists()
    assert not Path("a/wandb_id").exists()


@pytest.mark.parametrize(("option", "variable", "expected"), [
    ("online", "offline", "offline"), ("online", "dryrun", "offline"), ("online", "online", "online"),
    ("offline", "online", "offline"), ("offline", "offline", "offline"), ("off", "online", "off"),
    ("off", "disabled", "off"), ("online", "disabled", "off"), ("online", "", "online"),
])  # fmt: skip
def test_the_more_restrictive_of_option_and_variable_holds(variables, option, variable, expected):
    variables(WANDB_MODE=variable)
    assert wandb_environment.mode(option) == expected


@pytest.mark.parametrize(("variable", "message"), [
    ({"WANDB_MODE": "perhaps"}, "mode: Input should be"), ({"WANDB_RUN_ID": "a/b"}, "Run ID cannot contain"),
])  # fmt: skip
def test_an_invalid_wandb_variable_changes_no_record(variables, capfd, variable, message):
    more = [*OFFLINE, "--run_dir", "a", "--resume", "auto", "--trainer.max_epochs"]
    assert train.main([*QUICK, *more, "1"]) == 0
    before = Path("a/wandb_id").read_text()
    variables(**variable)
    assert train.main([*QUICK, *more, "2"]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert Path("a/wandb_id").read_text() == before


@pytest.mark.parametrize(
    ("argv", "added"),
    [
        ([], ["--run_dir", "r", "--resume", "auto"]),
        (["--run_dir=s", "--resume=auto"], []),
        (["--resume", "auto", "--run_dir", "s"], []),
        (["--resume", "auto"], ["--run_dir", "r"]),
        (["--resume", "old.ckpt", "--run_dir", "s"], ["--resume", "auto"]),  # goes on from there; the last one counts
        (["--steps_per_call", "auto", "--trainer.devices", "auto"], ["--run_dir", "r", "--resume", "auto"]),
    ],
)
def test_the_command_that_resumes_a_run(argv, added):
    assert shlex.split(train.resume_command(argv, "r")) == ["python", "train.py", *argv, *added]
