"""docs/api.md: its code runs, and its table has the methods, arguments and returned shapes of every model."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import models
from models import MODELS
from models.draw import Steps

API = (Path(models.__file__).parents[1] / "docs" / "api.md").read_text()
B, SHAPE = 3, (1, 8, 6)
SIZES = {"n": 4, "rows": 2, "steps": 6, "K": 5, "num_classes": 3, "len(weights)": 2, "B": B, "...": B}
SIZES |= {"*size": SHAPE[1:]} | dict(zip("CHW", SHAPE, strict=True))
EXTRA = {"size": (8, 6), "path": "spherical", "n": 4, "rows": 2, "steps": 6, "K": 5, "weights": [0.0, 1.0]}


def cells(line):
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def methods():
    """Return the rows of the table: method, arguments by model, and the returned value."""
    head, _, *rows = API.split("## Methods\n\n")[1].split("\n\n")[0].splitlines()
    names = [cell.split(", ") for cell in cells(head)[1:-1]]
    for row in rows:
        method, *arguments, returned = cells(row)
        by_model = {name: taken.strip("`") for group, taken in zip(names, arguments, strict=True) for name in group}
        yield method.strip("`"), by_model, returned


TABLE = list(methods())


def shapes(model, returned):
    """Return the shapes at the start of a cell of the table; d stands for any number."""
    known = SIZES | {"code_dim": getattr(model, "code_dim", None)}
    for name in re.search(r"`\((.*?),?\)`", returned)[1].split(", "):
        size = known.get(name, -1)
        yield from size if isinstance(size, tuple) else (size,)


def fits(tensor, expected):
    return tensor.ndim == len(expected) and all(b in (-1, a) for a, b in zip(tensor.shape, expected, strict=True))


def argument(model, name):
    if name in EXTRA:
        return EXTRA[name]
    if name.startswith("y"):
        return torch.tensor([0, 2, 1])
    if name.startswith("x"):
        return torch.ones(B, *SHAPE)
    if name == "f":
        return torch.zeros(B, len(model.kept))
    return torch.zeros(model.latent_dim) if name == "direction" else torch.zeros(B, model.latent_dim)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("method", "by_model", "returned"), TABLE, ids=[method for method, *_ in TABLE])
def test_methods_have_the_documented_arguments_and_shapes(make, name, method, by_model, returned):
    documented = [base.__name__ for base in MODELS[name].__mro__ if base.__name__ in by_model]
    if not documented:
        pytest.skip("no column of the table is about this model or a base of it")
    model, taken = make(name, SHAPE).eval(), by_model[documented[0]]
    assert model.can(method) == bool(taken)
    if not taken:
        return
    names = taken.split(", ")
    required = {key: argument(model, key) for key in names if key[0] != "["}
    optional = {key[1:-1]: argument(model, key[1:-1]) for key in names if key[0] == "["}
    given = list(inspect.signature(getattr(model, method)).parameters)
    order = [key if key != "f" else "features" for key in (*required, *optional)]
    assert set(order) <= set(given)
    if method == "sample" and name == "CVAE":
        optional["y"] = torch.tensor([0, 1, 2, 0])
    for options in ({}, optional):
        named = {key if key != "f" else "features": value for key, value in (required | options).items()}
        result = getattr(model, method)(**named)
        if isinstance(result, Steps):  # its windows have other shapes
            result = result.canvas
        for part in result if isinstance(result, tuple | list) else [result]:
            for tensor in part if isinstance(part, tuple) else [part]:
                if method == "rate_distortion":
                    assert tensor.shape == (B,)
                else:
                    assert fits(tensor, list(shapes(model, returned))), tuple(tensor.shape)
    if "y" in required:
        with pytest.raises((ValueError, TypeError), match=r"label|'y'"):
            getattr(model, method)(**{key: value for key, value in required.items() if key != "y"})


def test_every_public_method_is_documented():
    low_level = {
        "ais_log_px",
        "ais_posterior",
        "ais_simulate",
        "as_evidence",
        "as_images",
        "as_latents",
        "bounds",
        "check_form",
        "class_terms",
        "codes",
        "context",
        "decode_hidden",
        "decode_step",
        "distortion",
        "draw",
        "draw_all",
        "draw_features",
        "draw_z",
        "duplicates",
        "encode_step",
        "error",
        "every_label",
        "feature_rows",
        "first_layer",
        "first_layer_mean",
        "gates_of_image",
        "generate",
        "generate_codes",
        "inference_steps",
        "kl_and_distortion",
        "label_loss",
        "log_p_pruned",
        "log_px",
        "log_qy",
        "log_qy_given",
        "log_terms",
        "log_terms_of_layers",
        "logits",
        "loss",
        "loss_from_posterior",
        "pa",
        "posterior",
        "px",
        "px_classes",
        "px_given",
        "qa",
        "qy",
        "qz",
        "r1_penalty",
        "rate_of_parts",
        "set_widths",
        "split",
        "start_with_codes",
        "surrogate",
        "take_step",
        "terms",
        "validation_metrics",
        "with_posterior",
    }
    documented = {method for method, *_ in TABLE}
    for kind in MODELS.values():
        own = {name for base in kind.__mro__ if base.__module__.startswith("models.") for name in vars(base)}
        for name in own - low_level - documented:
            if name[0] != "_" and inspect.isfunction(getattr(kind, name)):
                parameters = set(inspect.signature(getattr(kind, name)).parameters)
                assert not parameters & {"x", "x0", "z", "features", "n"}, f"{kind.__name__}.{name}"


def test_the_documented_code_runs(make, fit, binary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("runs/my-run/checkpoints/best.ckpt")
    path.parent.mkdir(parents=True)
    fit(make("VAE"), [binary(8)]).save_checkpoint(path)
    (code,) = re.findall("```python\n(.*?)```", API, re.DOTALL)
    scope = {}
    exec(code, scope)
    assert scope["log_px"].shape == (16,)
    assert scope["again"].shape == scope["images"].shape == (16, 1, 8, 8)
