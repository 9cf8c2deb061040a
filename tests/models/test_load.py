import os
import pickle

import pytest
import torch

import models
from models import MODELS, ImplicitModel
from models.base import evaluating


@pytest.fixture
def saved(make, fit, binary, tmp_path):
    """Train the model called `name` for two steps and save it."""

    def save(name, **options):
        model, path = make(name, **options), tmp_path / "model.ckpt"
        fit(model, [binary(8), binary(8, seed=2)]).save_checkpoint(path)
        return model, path

    return save


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


VARIANTS = [(name, {}) for name in MODELS] + [
    ("VAE", {"likelihood": "gaussian", "scale": 0.1, "learn_scale": True}),
    ("VAE", {"encoder": "conv", "decoder": "conv", "batch_norm": True, "hidden": None}),
    ("VAE", {"encoder": "resnet", "decoder": "resnet", "hidden": None}),
    ("HierarchicalVAE", {"encoder": "gated", "decoder": "gated_conv", "hidden": None}),
    ("HierarchicalVAE", {"z_dim": (4, 3, 2), "batch_norm": True}),
    ("LadderVAE", {"z_dim": (4, 3, 2), "batch_norm": True}),
    ("LadderVAE", {"encoder": "conv", "layers_per_scale": [1, 1], "prior": "mixture"}),
    ("AffineVAE", {"label_weight": 0.1, "batch_norm": True}),
    ("AffineVAE", {"transforms": ["shift", "rotation"], "transform_scale": 0.3, "encoder": "conv", "hidden": None}),
    ("DRAW", {"attention": True, "read_size": 2, "likelihood": "gaussian"}),
    ("CVAE", {"encoder": "conv", "decoder": "conv", "batch_norm": True, "hidden": None}),
    ("M2", {"likelihood": "gaussian", "scale": 0.1, "learn_scale": True}),
    ("M2", {"encoder": "conv", "decoder": "conv", "batch_norm": True, "hidden": None}),
    ("M2", {"encoder": "resnet", "decoder": "resnet", "batch_norm": True}),
    ("M1M2", {"batch_norm": True, "m1_options": {"batch_norm": True, "encoder": "conv", "decoder": "conv"}}),
    ("AE", {"criterion": "mse", "lr_final": 1e-5, "lr_schedule": "stages"}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_loaded_model_is_identical_to_the_saved_one(saved, make, binary, name, options):
    model, path = saved(name, **options)
    loaded = models.load(path)
    assert type(loaded) is type(model)
    assert dict(loaded.hparams) == dict(model.hparams)
    assert not any(module.training for module in loaded.modules())
    start, state = make(name, **options).state_dict(), loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert any(not torch.equal(state[key], value) for key, value in start.items())  # it was trained
    x, y = binary(5)
    for f in ("validation_metrics", "reconstruct", "sample"):
        if not model.can(f):
            continue
        results = []
        for each in (model, loaded):
            with evaluating(each, seed=3):
                given = each.condition_args(y)
                results.append(
                    each.sample(5)
                    if f == "sample"
                    else each.validation_metrics(x, y)["bound"]
                    if f == "validation_metrics"
                    else each.reconstruct(x, *given)
                )
        assert torch.equal(*results)
    if hasattr(model, "log_weights"):
        weights = []
        for each in (model, loaded):
            with evaluating(each, seed=3):
                weights.append(each.log_weights(x, 4, *each.condition_args(y)))
        assert torch.equal(*weights)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_holds_primitives_and_the_weights_of_encoder_and_decoder(saved, name):
    _, path = saved(name)
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["model"] == name
    prefixes = {key.split(".")[0] for key in checkpoint["state_dict"]}
    if name == "M1M2":
        assert prefixes == {"m1", "m2"}
        prefixes = {key.split(".")[1] for key in checkpoint["state_dict"]}
    assert prefixes >= ({"decoder"} if issubclass(MODELS[name], ImplicitModel) else {"encoder", "decoder"})
    # neither states of metrics nor names that torch.compile makes
    assert "val_means" not in prefixes
    assert not any("_orig_mod" in key for key in checkpoint["state_dict"])


def test_a_loaded_model_is_in_evaluation_mode(saved, binary):
    _, path = saved("VAE")
    model = models.load(str(path))
    x, _ = binary(2)
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert model.decode(model.encode(x)).shape == model.reconstruct(x).shape == x.shape


# Files that are not checkpoints


def refused(path, sentence):
    with pytest.raises(ValueError, match=sentence) as info:
        models.load(path)
    assert "\n" not in str(info.value).split(": Error(s) in loading")[0]
    return str(info.value)


def test_a_missing_file(tmp_path):
    assert str(tmp_path / "no.ckpt") in refused(tmp_path / "no.ckpt", "There is no checkpoint")
    refused(tmp_path, "There is no checkpoint")  # a folder


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_a_checkpoint(tmp_path, content):
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    assert str(path) in refused(path, "cannot be read as a checkpoint")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_file(saved, keep):
    _, path = saved("VAE")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refused(path, "cannot be read as a checkpoint")


def test_a_flipped_bit(saved):
    model, path = saved("VAE")
    content = bytearray(path.read_bytes())
    weight = model.encoder.rest[-1].weight.detach().numpy().tobytes()
    content[content.index(weight) + len(weight) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "cannot be read as a checkpoint")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("place", ["whole", "model", "hyper_parameters", "state_dict", "extra"])
def test_loading_executes_no_code_from_the_file(tmp_path, place, old_format):
    mark, path = tmp_path / "executed", tmp_path / "bomb.ckpt"
    content = {"model": "VAE", "hyper_parameters": {"image_shape": (1, 8, 8)}, "state_dict": {}, place: Bomb(mark)}
    content = Bomb(mark) if place == "whole" else content
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    refused(path, "cannot be read as a checkpoint")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # control: unpickling runs it
    assert mark.exists()


@pytest.mark.parametrize("name", ["StyleGAN", "os.system", "Model", "torch.nn.Linear", "", None, ["VAE"], 3])
def test_an_unknown_model_class(tmp_path, name):
    path = tmp_path / "foreign.ckpt"
    torch.save({"model": name, "hyper_parameters": {}, "state_dict": {}}, path)
    assert ", ".join(MODELS) in refused(path, "is not a checkpoint of this project")


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, torch.zeros(2)])
def test_a_checkpoint_of_another_project(tmp_path, content):
    path = tmp_path / "foreign.ckpt"
    torch.save(content, path)
    refused(path, "is not a checkpoint of this project")


@pytest.mark.parametrize("change", [
    {"hyper_parameters": None},
    {"state_dict": None},
    {"hyper_parameters": {}},
    {"hyper_parameters": {"image_shape": (1, 8, 8), "of_another_version": 1}},
    {"hyper_parameters": {"image_shape": (1, 8, 8), "z_dim": -1}},
    {"hyper_parameters": {"image_shape": (1, 9, 9)}},
    {"state_dict": {}},
])  # fmt: skip
def test_a_checkpoint_of_another_version(saved, change):
    _, path = saved("VAE")
    content = {**torch.load(path, weights_only=True), **change}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    with pytest.raises(ValueError, match=r"does not fit|z_dim must be"):
        models.load(path)
