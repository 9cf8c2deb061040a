"""evaluation/inputs.py and cli/evaluate_options.py: checkpoints by patterns, and options of AIS."""

from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

import models
from cli.evaluate_options import build_evaluation_parser, check_ais
from datamodules import DATAMODULES
from evaluation.inputs import check_figures, data_key, expand, open_checkpoint


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/best.ckpt", "a/best.ckpt", "a/last.ckpt", "c/notes.txt", "d[2]/best.ckpt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["b/best.ckpt", "a/best.ckpt"], ["b/best.ckpt", "a/best.ckpt"]),
        (["?/best.ckpt"], ["a/best.ckpt", "b/best.ckpt"]),
        (["*/*.ckpt"], ["a/best.ckpt", "a/last.ckpt", "b/best.ckpt", "d[2]/best.ckpt"]),
        (["**/best.ckpt"], ["a/best.ckpt", "b/best.ckpt", "d[2]/best.ckpt"]),
        (["b/best.ckpt", "[ab]/best.ckpt"], ["b/best.ckpt", "a/best.ckpt"]),
        (["a/best.ckpt", "a/best.ckpt"], ["a/best.ckpt"]),
        (["nowhere.ckpt"], ["nowhere.ckpt"]),  # about which the reader has something to say
        (["d[2]/best.ckpt"], ["d[2]/best.ckpt"]),  # as a shell gives it that has expanded d*
    ],
)
def test_patterns_are_expanded_in_order_and_each_path_once(folders, patterns, paths):
    assert expand(patterns) == paths


def test_a_pattern_of_nothing_is_named(folders):
    with pytest.raises(ValueError, match=r"^No checkpoint matches c/\*\.ckpt: give the path of a \.ckpt file, or "):
        expand(["a/best.ckpt", "c/*.ckpt"])


def options(*argv) -> Namespace:
    return build_evaluation_parser().parse_args(["a.ckpt", *argv])


@pytest.mark.parametrize("name", ["images", "chains", "temperatures", "leapfrogs"])
def test_ais_counts_from_1(name):
    check_ais(options("--ais", f"--ais_{name}", "1"))
    for value in ("0", "-3"):
        with pytest.raises(ValueError, match=rf"^--ais_{name} must be at least 1; got {value}\.$"):
            check_ais(options("--ais", f"--ais_{name}", value))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ais_images", "10"], "--ais_images"),
        (["--ais_chains", "16"], "--ais_chains"),
        (["--ais_start", "posterior"], "--ais_start"),
        (["--ais_leapfrogs", "3", "--ais_temperatures", "20"], "--ais_temperatures, --ais_leapfrogs"),
        (["--ais_images", "10", "--no_ais"], "--ais_images"),
    ],
)
def test_options_of_ais_do_nothing_without_it(flags, named):
    with pytest.raises(ValueError, match=f"^{named} has no effect without --ais: add it"):
        check_ais(options(*flags))


def test_with_it_or_without_any_there_is_nothing_to_say():
    check_ais(options())
    check_ais(options("--ais"))
    check_ais(options("--ais", "--ais_images", "10", "--ais_start", "posterior"))


# Folders in place of files


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder, and the folder that it lies in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a/checkpoints").mkdir(parents=True)
    for name in ("best.ckpt", "last.ckpt"):
        (tmp_path / "runs/a/checkpoints" / name).touch()
    return Path("runs/a")


def test_a_run_folder_stands_for_its_best_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(run)
    written = [
        "runs/a",
        "runs/a/",
        "runs/a/checkpoints",
        "runs/a/checkpoints/best.ckpt",
        "runs/../runs/a",
        "link",
        "~/runs/a",
        str(tmp_path / "runs/a"),
        "~/runs/*",
        "runs/**/best.ckpt",
    ]
    for path in written:
        (found,) = expand([path])
        assert Path(found).resolve() == (tmp_path / "runs/a/checkpoints/best.ckpt").resolve(), path
    assert expand(written) == ["runs/a/checkpoints/best.ckpt"]  # one file, however its path is written


@pytest.mark.parametrize("name", ["last.ckpt", "epoch=3.ckpt"])
def test_without_a_best_checkpoint_it_is_said_which_is_taken(run, name):
    for file in run.glob("checkpoints/*"):
        file.unlink()
    (run / "checkpoints" / name).touch()
    with pytest.warns(UserWarning, match=f"runs/a has no best.ckpt: using runs/a/checkpoints/{name}"):
        assert expand(["runs/a"]) == [f"runs/a/checkpoints/{name}"]


def test_a_folder_that_stands_for_no_checkpoint_is_refused(run):
    with pytest.raises(ValueError, match=r"contains run folders: .* the pattern 'runs/\*\*/best.ckpt'"):
        expand(["runs"])
    for file in run.glob("checkpoints/*"):
        file.unlink()
    with pytest.raises(ValueError, match="There is no checkpoint in runs/a:"):
        expand(["runs/a"])
    for name in "ab":
        (run / f"{name}.ckpt").touch()
    with pytest.raises(ValueError, match=r"several checkpoints and no best.ckpt: choose one of a.ckpt, b.ckpt"):
        expand(["runs/a"])


def test_data_are_read_once_however_their_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    paths = ["a.npz", "./a.npz", str(tmp_path / "a.npz"), "link/a.npz", f"../{tmp_path.name}/a.npz"]
    keys = [data_key(DATAMODULES["NPZ"](root=path)) for path in paths]
    assert len(set(keys)) == 1
    assert data_key(DATAMODULES["NPZ"](root="b.npz")) not in keys


# Damaged records


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The contents of a checkpoint as train.py writes it."""
    data = DATAMODULES["Digits"]()
    data.prepare_data()
    data.setup()
    model = models.VAE.for_data(data, hidden=[4], z_dim=2)
    return {
        "model": "VAE",
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "epoch": 1,
        "global_step": 20,
        "datamodule_hyper_parameters": dict(data.hparams),
        "run": {"data": "Digits", "protocol": data.protocol, "seed": 0, "labels_hash": None, "processes": 1},
        "made": {"commit": ["abc"], "machine": ["a CPU"], "seconds": 3.0},
    }


def without(contents, *keys):
    first, *rest = keys
    left = dict(contents)
    if rest:
        left[first] = without(contents[first], *rest)
    else:
        del left[first]
    return left


def saved(contents):
    torch.save(contents, "a.ckpt")
    return "a.ckpt"


MISSING = {
    "epoch": "lacks epoch",
    "global_step": "lacks global_step",
    "datamodule_hyper_parameters": "lacks datamodule_hyper_parameters",
    "run": "lacks run",
    "run seed": "lacks run.seed",
    "run data": "lacks run.data",
    "run protocol": "lacks run.protocol",
    "state_dict": "lacks state_dict",
    "hyper_parameters": "lacks hyper_parameters",
    "hyper_parameters image_shape": "image_shape",
    "model": "names none of the models",
}


@pytest.mark.parametrize("keys", MISSING)
def test_a_record_that_lacks_something_is_refused_by_its_name(whole, tmp_path, monkeypatch, keys):
    monkeypatch.chdir(tmp_path)
    open_checkpoint(saved(whole), {})
    with pytest.raises(ValueError, match=f"^a.ckpt .*{MISSING[keys]}"):
        open_checkpoint(saved(without(whole, *keys.split())), {})


def test_all_that_is_missing_is_named_at_once(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"it lacks epoch, global_step\."):
        open_checkpoint(saved(without(without(whole, "epoch"), "global_step")), {})
    with pytest.raises(ValueError, match="it lacks the options in datamodule_hyper_parameters"):
        open_checkpoint(saved(whole | {"datamodule_hyper_parameters": {}}), {})


def first_weight(change):
    def changed(state):
        key = next(iter(state))
        return state | {key: change(state[key].clone())}

    return changed


WEIGHTS = {
    "lack": lambda state: dict(list(state.items())[1:]),
    "which this model does not have": lambda state: state | {"more": torch.zeros(1)},
    "are not finite": first_weight(lambda weight: weight.fill_(float("nan"))),
    "are not finite (NaN or infinite)": first_weight(lambda weight: weight.fill_(float("inf"))),
    "has the type torch.float16, not torch.float32": first_weight(torch.Tensor.half),
    "has the type torch.int64, not torch.float32": first_weight(torch.Tensor.long),
    "has the shape": first_weight(lambda weight: weight[..., :1]),
    "is not a tensor": first_weight(lambda _: 3),
}


@pytest.mark.parametrize("message", WEIGHTS)
def test_damaged_weights_are_refused_in_a_sentence(whole, tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    path = saved(whole | {"state_dict": WEIGHTS[message](dict(whole["state_dict"]))})
    for read in (models.load, lambda path: open_checkpoint(path, {})):
        with pytest.raises(ValueError, match=r"^a\.ckpt does not fit this version of VAE: its weight") as refused:
            read(path)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("part", "value"), [("run", {"seed": "0"}), ("run", {"protocol": 3}), ("run", {"data": None}),
                                             ("made", {"commit": "abc"}), ("made", {"seconds": "3"})])  # fmt: skip
def test_what_cannot_be_in_a_record_is_refused(whole, tmp_path, monkeypatch, part, value):
    monkeypatch.chdir(tmp_path)
    ((key, wrong),) = value.items()
    with pytest.raises(ValueError, match=rf"^a.ckpt is damaged: {part}\.{key} cannot be {wrong!r}\."):
        open_checkpoint(saved(whole | {part: whole[part] | value}), {})


@pytest.mark.parametrize("value", [None, 5, "28", (1, 8), (1, 8, 8, 8), (0, 8, 8), (1, "8", 8)])
def test_an_image_shape_that_is_none_is_refused(whole, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    changed = whole | {"hyper_parameters": whole["hyper_parameters"] | {"image_shape": value}}
    with pytest.raises(ValueError, match="does not fit this version of VAE: "):
        open_checkpoint(saved(changed), {})


def test_figures_are_of_callbacks_that_draw_from_a_checkpoint():
    model = models.VAE((1, 2, 2), z_dim=3, hidden=[4])
    check_figures(model, ["samples", "latent_statistics"])
    with pytest.raises(ValueError, match=r"^log_likelihood draws nothing from a checkpoint: leave it out of --figures"):
        check_figures(model, ["samples", "log_likelihood"])
