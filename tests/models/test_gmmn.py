"""models/gmmn.py: the loss and its gradient, modes of a mixture, codes of an autoencoder, training from train.py."""

import math
from pathlib import Path

import pytest
import torch

import models
import train
from callbacks.checkpoint import RunCheckpoint
from cli.train_options import build_parser, split_component_flags
from datamodules import DATAMODULES
from models import GMMN, MODELS
from models.mmd import mmd2, widths_for

MODES = 8
QUICK = ["--model", "GMMN", "--data", "Digits", "--model.hidden", "[16]", "--num_samples", "0", "--callbacks", "[]",
         "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]  # fmt: skip


def digits(**options):
    data = DATAMODULES["Digits"](**{"batch_size": 200, "binarization": "grey", **options})
    data.setup()
    return data


def under(seed, call, *args):
    torch.manual_seed(seed)
    return call(*args)


def kernel(a, b, widths):
    return sum(torch.exp(-((a - b) ** 2).sum() / (2 * s)) for s in widths)


# The loss


@pytest.mark.parametrize("estimator", ["sqrt", "biased", "unbiased"])
def test_loss_and_gradient_are_those_of_a_double_loop(make, estimator):
    widths = [0.5, 2.0, 9.0]
    model = make("GMMN", estimator=estimator, widths=widths, activation="tanh").double()
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    under(3, model.loss, x, None).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    torch.manual_seed(3)
    samples = model.decoder(model.prior().sample((5,))).sigmoid()
    pairs = [(i, j) for i in range(5) for j in range(5) if estimator != "unbiased" or i != j]
    own = sum(kernel(x[i], x[j], widths) + kernel(samples[i], samples[j], widths) for i, j in pairs) / len(pairs)
    between = sum(kernel(a, b, widths) for a in x for b in samples) / 25
    expected = own - 2 * between
    if estimator == "sqrt":
        expected = expected.sqrt()
    assert under(3, model.loss, x, None).item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    for value, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(value, parameter.grad, rtol=1e-6, atol=1e-12)


def test_the_loss_has_not_changed(make, binary):
    model = make("GMMN")
    assert under(2, model.loss, *binary(8)).item() == pytest.approx(2.301102, rel=1e-4)


def test_samples_of_a_batch_are_as_many_as_its_images(make, binary, monkeypatch):
    model, drawn = make("GMMN"), []
    monkeypatch.setattr(model, "generate", lambda z: drawn.append(len(z)) or GMMN.generate(model, z))
    model.loss(*binary(7))
    assert drawn == [7]


def test_widths_follow_the_data_unless_they_are_given():
    data = digits()
    x = data.images("train")[0]
    model = GMMN.for_data(data, hidden=[4])
    torch.testing.assert_close(model.loss_widths, widths_for(x))
    assert torch.equal(model.mmd_widths, model.loss_widths)
    given = GMMN.for_data(data, hidden=[4], widths=[1.0, 4.0])
    assert given.loss_widths.tolist() == [1, 4]
    assert torch.equal(given.mmd_widths, model.mmd_widths)  # validation does not depend on the loss


def test_default_widths_are_about_those_of_the_paper_on_mnist(data_root):
    data = DATAMODULES["MNIST"](root=str(data_root), binarization="grey")
    data.setup()
    found = GMMN.for_data(data, hidden=[4]).loss_widths
    torch.testing.assert_close(found, torch.tensor([2.0, 5, 10, 20, 40, 80]), rtol=0.06, atol=0)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"widths": []}, r"^widths must be positive numbers, such as .*; got \[\]\.$"),
    ({"widths": [1.0, -1.0]}, "widths must be positive"),
    ({"widths": [math.nan]}, "widths must be positive"),
    ({"widths": [math.inf]}, "widths must be positive"),
    ({"estimator": "root"}, "Unknown estimator 'root': choose sqrt, biased or unbiased"),
    ({"z_dim": 0}, "z_dim must be at least 1"),
    ({"decoder": "none"}, "Unknown decoder"),
    ({"ae": "ae.ckpt", "decoder": "conv"}, r"^With ae the generator of codes is an mlp: leave decoder conv out\.$"),
    ({"ae": "ae.ckpt", "activation": "none"}, "Unknown activation"),
    ({"ae": "ae.ckpt", "hidden": [0]}, "hidden must hold positive sizes"),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make("GMMN", **options)


# What it learns


def mixture(n, generator):
    """Samples of eight Gaussians on a circle in the unit square, as images of two pixels, and their modes."""
    mode = torch.randint(MODES, (n,), generator=generator)
    return (centres()[mode] + 0.02 * torch.randn(n, 2, generator=generator)).clamp(0, 1).view(n, 1, 1, 2), mode


def centres():
    angle = torch.arange(MODES) * 2 * math.pi / MODES
    return 0.5 + 0.35 * torch.stack([angle.cos(), angle.sin()], 1)


@pytest.mark.parametrize("estimator", ["sqrt", "unbiased"])
def test_all_modes_of_a_mixture_are_reached(estimator):
    generator = torch.Generator().manual_seed(0)
    model = GMMN((1, 1, 2), z_dim=2, hidden=[64, 64], estimator=estimator)
    model.set_widths(mixture(5000, generator)[0])
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 600)
    start = model.validation_metrics(mixture(1000, generator)[0], None)["loss"][0]
    for _ in range(600):
        adam.zero_grad()
        model.loss(mixture(200, generator)[0], None).backward()
        adam.step()
        schedule.step()
    points = model.sample(4000).flatten(1)
    distances = torch.cdist(points, centres())
    shares = distances.argmin(1).bincount(minlength=MODES) / 4000
    assert (shares > 0.5 / MODES).all()
    near = (distances.min(1).values < 0.1).float().mean()  # the gaps between modes take the rest
    assert near > 0.5
    assert model.validation_metrics(mixture(1000, generator)[0], None)["loss"][0] < 0.02 * start


def test_a_minimum_of_the_loss_is_the_distribution_of_the_data():
    """A sample from the data itself has MMD 0 in the mean, and any other mixture of the modes has more."""
    x = mixture(1000, torch.Generator().manual_seed(1))[0]
    y, mode = mixture(2000, torch.Generator().manual_seed(2))
    same, fewer = (mmd2(x, part, widths_for(x), unbiased=True) for part in (y, y[mode > 0]))
    assert same.abs() < 0.01 < 0.02 < fewer


# With an autoencoder


@pytest.fixture
def trained_ae(trainer, tmp_path):
    """Train an autoencoder, or another model, for two epochs and return the path of its checkpoint."""

    def run(name="AE", data=None, folder="ae", **options):
        torch.manual_seed(0)
        data = data or digits()
        model = MODELS[name].for_data(data, **{"z_dim": 5, "hidden": [32], "lr": 5e-3, **options})
        callback = RunCheckpoint(tmp_path / folder, 0)
        trainer(callbacks=[callback], enable_checkpointing=True, max_epochs=2).fit(model, datamodule=data)
        return str(callback.last)

    return run


def test_codes_of_the_autoencoder_are_matched(trained_ae):
    path, data = trained_ae(), digits()
    model, ae = GMMN.for_data(data, ae=path, hidden=[16], z_dim=3), models.load(path)
    x = data.images("test", 20)[0]
    assert torch.equal(model.codes(x), ae.encode(x))
    codes = ae.encode(data.images("train")[0])
    torch.testing.assert_close(model.loss_widths, widths_for(codes))
    torch.testing.assert_close(model.mmd_widths, widths_for(data.images("train")[0]))
    z = under(3, model.prior().sample, (20,))
    expected = mmd2(ae.encode(x), model.generate_codes(z), model.loss_widths).sqrt()
    torch.testing.assert_close(under(3, model.loss, x, None), expected)
    torch.testing.assert_close(model.generate(z), ae.decode(model.generate_codes(z)))
    assert model.decode(z).shape == (20, 1, 8, 8)
    assert model.generate(z.view(4, 5, 3)).shape == (4, 5, 1, 8, 8)


def test_generated_codes_start_near_the_mean_and_stay_in_the_range_of_the_data(trained_ae):
    data = digits()
    model = GMMN.for_data(data, ae=trained_ae(), hidden=[16], z_dim=3)
    codes = model.codes(data.images("train")[0])
    low, high = codes.amin(0), codes.amax(0)
    start = model.generate_codes(model.prior().sample((1000,)))
    assert ((start.mean(0) - codes.mean(0)).abs() < 0.2 * (high - low)).all()
    with torch.no_grad():
        model.code_generator[-1].bias.add_(100 * torch.randn(5))
    far = model.generate_codes(model.prior().sample((1000,)))
    assert (far >= low - 1e-5).all()
    assert (far <= high + 1e-5).all()


def test_the_autoencoder_is_fixed_and_in_evaluation_mode(trained_ae, trainer):
    path, data = trained_ae(batch_norm=True), digits()
    model = GMMN.for_data(data, ae=path, hidden=[16], batch_norm=True)
    before = {key: value.clone() for key, value in model.ae.state_dict().items()}
    start = model.code_generator[0].weight.clone()
    trainer().fit(model, datamodule=data)
    assert not model.train().ae.training
    assert not any(module.training for module in model.ae.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.ae.state_dict().items())
    assert not torch.equal(model.code_generator[0].weight, start)
    assert {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad} == {"code_generator"}


def test_the_autoencoder_is_in_the_checkpoint(trained_ae, trainer, tmp_path):
    path, data = trained_ae(), digits()
    model = GMMN.for_data(data, ae=path, hidden=[16])
    callback = RunCheckpoint(tmp_path / "gmmn", 0)
    trainer(callbacks=[callback], enable_checkpointing=True).fit(model, datamodule=data)
    Path(path).unlink()
    loaded = models.load(callback.last)
    assert torch.equal(under(1, loaded.sample, 5), under(1, model.eval().sample, 5))
    assert loaded.hparams.ae_options["z_dim"] == 5


@pytest.mark.parametrize("name", ["VAE", "GMMN"])
def test_another_kind_of_model_is_refused(trained_ae, name):
    options = {"likelihood": "gaussian"} if name == "VAE" else {}
    path = trained_ae(name, **options)
    with pytest.raises(ValueError, match=r"holds no AE: train one with --model AE and give its checkpoint\.$"):
        GMMN.for_data(digits(), ae=path, hidden=[4])


@pytest.mark.parametrize(("options", "sentence"), [
    ({"binarization": "threshold"}, r"^The AE in .* was trained with protocol threshold, not grey: use the same\.$"),
    ({"seed": 1}, r"trained with data\.seed 1, not 0"),
    ({"val_size": 99}, r"trained with data\.val_size 99, not 250"),
])  # fmt: skip
def test_an_autoencoder_of_other_data_is_refused(trained_ae, options, sentence):
    path = trained_ae(data=digits(**options))
    with pytest.raises(ValueError, match=sentence):
        GMMN.for_data(digits(), ae=path, hidden=[4])


def test_a_missing_autoencoder_is_refused():
    with pytest.raises(ValueError, match="There is no checkpoint nowhere"):
        GMMN.for_data(digits(), ae="nowhere.ckpt", hidden=[4])


# The protocol


def binarization(*flags):
    names, flags = split_component_flags(list(flags))
    return build_parser(names).parse_args(flags).data.binarization


def test_grey_images_are_the_default_protocol(tmp_path):
    assert binarization("--model", "GMMN") == "grey"
    assert binarization("--model", "VAE") == binarization() == "dynamic"
    assert binarization("--model", "GMMN", "--data.binarization", "fixed") == "fixed"
    (tmp_path / "options.yaml").write_text("data: {binarization: threshold}")
    assert binarization("--model", "GMMN", "--config", str(tmp_path / "options.yaml")) == "threshold"
    names, flags = split_component_flags(["--model", "GMMN", "--data", "BinaryMNIST"])
    assert "binarization" not in build_parser(names).parse_args(flags).data


@pytest.mark.parametrize("protocol", ["dynamic", "fixed", "threshold"])
def test_binarized_images_end_in_a_sentence(tmp_path, monkeypatch, capsys, protocol):
    monkeypatch.chdir(tmp_path)
    assert train.main([*QUICK, "--data.binarization", protocol]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: GMMN generates grey images and cannot match binarized ones: use --data.binarization grey."
    )


def test_binary_mnist_is_refused(data_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main([*QUICK, "--data", "BinaryMNIST", "--data.root", str(data_root)]) == 2
    assert "error: GMMN generates grey images and cannot match binarized ones: choose data" in capsys.readouterr().err


# Training with train.py


def weights(folder):
    return torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)["state_dict"]


def check_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[key]) for key, value in a.items())


def test_several_steps_per_call_and_resume_give_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main([*QUICK, "--run_dir", "a"]) == 0
    assert "GMMN on Digits, protocol grey" in capsys.readouterr().out
    assert train.main([*QUICK, "--run_dir", "b", "--steps_per_call", "10"]) == 0
    check_same(weights("a"), weights("b"))
    assert train.main([*QUICK, "--run_dir", "c", "--trainer.max_epochs", "1"]) == 0
    assert train.main([*QUICK, "--run_dir", "c", "--resume", "auto"]) == 0
    check_same(weights("a"), weights("c"))


def test_training_and_resume_with_an_autoencoder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ae = [*QUICK, "--model", "AE", "--data.binarization", "grey", "--run_dir", "ae"]
    assert train.main(ae) == 0
    matched = [*QUICK, "--model.ae", "ae"]  # a run folder
    assert train.main([*matched, "--run_dir", "a"]) == 0
    assert train.main([*matched, "--run_dir", "b", "--trainer.max_epochs", "1"]) == 0
    assert train.main([*matched, "--run_dir", "b", "--resume", "auto"]) == 0
    check_same(weights("a"), weights("b"))
    check_same({key: value for key, value in weights("ae").items() if "val_means" not in key},
               {key.removeprefix("ae."): v for key, v in weights("a").items() if key.startswith("ae.")})  # fmt: skip
    assert train.main([*QUICK, "--model.ae", "a", "--run_dir", "c"]) == 2
    assert "holds no AE" in capsys.readouterr().err


def test_validation_noise_does_not_change_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([*QUICK, "--run_dir", "a"]) == 0
    assert train.main([*QUICK, "--run_dir", "b", "--trainer.check_val_every_n_epoch", "2"]) == 0
    check_same(weights("a"), weights("b"))
