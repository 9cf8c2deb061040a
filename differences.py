"""Results of several checkpoints beside each other, image by image, and beside the papers'."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules import DATAMODULES
from keeping import per_image
from measures import standard_error
from models import MODELS
from papers import reported
from tables import kind, run_name


def beside(results: Sequence[dict], checkpoints: Sequence[dict]) -> list[dict]:
    """Results with what they are compared with: the runs of their kind before them, image by image, and papers.

    Differences, in `versus` and for the first run in `versus_first`, have a much smaller standard error than either
    likelihood, for an image that is hard for one model is hard for another. They are taken where images and K are the
    same. `options` are those that a run was trained with, other than by default.

    Args:
        results: As `evaluate.evaluate` gives them; it has kept their per-image values.
        checkpoints: Theirs.
    """
    found, before = [], {}
    for result, checkpoint in zip(results, checkpoints, strict=True):
        more = of_paper(result, checkpoint) | {"options": chosen(checkpoint)}
        if result["nll"] is not None:
            alike = before.setdefault((kind(result), result.get("images_hash"), result["num_samples"]), [])
            versus = {run_name(other): difference(other, result) for other in alike}
            if versus:
                first = next(iter(versus.values()))
                more |= {"versus": versus, "versus_first": first["nll"], "versus_first_se": first["se"]}
            alike.append(result)
        found.append(result | more)
    return found


def difference(other: dict, result: dict) -> dict[str, float | None]:
    """The NLL of a result minus that of another, over the same images, with its standard error."""
    less = log_px(other) - log_px(result)
    return {"nll": less.mean().item(), "se": standard_error(less)}


def chosen(checkpoint: dict) -> dict:
    """The options of a model and of its data that are not as they are by default."""
    model, data = MODELS[checkpoint["model"]], DATAMODULES[checkpoint["run"]["data"]]
    found = other_than_default(model, checkpoint["hyper_parameters"])
    found |= other_than_default(data, checkpoint["datamodule_hyper_parameters"])
    not_chosen = {"root", "m1", "m1_options", "kept", *model.from_data}  # where things lie, and what data say
    found = {name: value for name, value in found.items() if name not in not_chosen}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def other_than_default(kind: type, options: dict) -> dict:
    """Those of the options of a class and of its bases that have no default, or another value."""
    defaults = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            defaults |= {name: of.default for name, of in inspect.signature(base.__init__).parameters.items()}
    return {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}


def log_px(result: dict) -> np.ndarray:
    """The per-image values of a result, as they are kept, `(N,)`."""
    with np.load(per_image(Path(result["checkpoint"]), "likelihoods"), allow_pickle=False) as file:
        return file["log_px"]


def of_paper(result: dict, checkpoint: dict) -> dict:
    """What a paper reports for such a run, and how far the result is from it, in words."""
    for key, paper in reported(checkpoint).items():
        name = "paper_nll" if key == "nll" else "paper_error"
        if result[key] is None:
            continue
        how = f"K = {paper.K}" if paper.K else "mean over draws of labels" if key == "test_error" else ""
        budget = f"{paper.epochs} epochs" if paper.epochs else ""
        source = ", ".join(filter(None, [paper.source, how, budget]))
        found = {name: paper.value, f"{name}_se": paper.se, "paper_source": source, "paper_epochs": paper.epochs}
        return found | {"words": in_words(result, key, paper)}
    return {}


def in_words(result: dict, key: str, paper) -> str:
    """How far a result is from a paper's, and after which part of its epochs."""
    difference = result[key] - paper.value
    amount = f"{abs(difference):.2f} nats" if key == "nll" else f"{abs(difference):.2%}"
    where = "above" if difference > 0 else "below"
    budget = f" of the paper's {paper.epochs}" if paper.epochs else ""
    K = f", K = {result['num_samples']} and not {paper.K}" if paper.K not in (None, result["num_samples"]) else ""
    few = f", on {result['num_images']} images" if key == "nll" and result["num_images"] < 10_000 else ""
    return f"{amount} {where}, after {result['epochs']} epochs{budget}{K}{few}"
