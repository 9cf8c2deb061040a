"""Published numbers (`published.yaml`), and which of them can be compared with a run."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from models import draw, ladder
from models.priors import VAMP_COMPONENTS
from runtime.hparams import DEFAULT_PARTS, non_default_options, run_options

FILE = Path(__file__).with_name("published.yaml")


class Reported(NamedTuple):
    """A published number with the experiment that it was measured in.

    Args:
        quantity: `nll` or `test_error`.
        value: NLL in nats per image, or test error as a fraction.
        se: Its spread over runs, if the source gives it.
        source: Where it is published.
        settings: Options of the same experiment in this program, by the names of `hparams.run_options`, and the other
            settings of `run_settings`. Options that are not listed had their default. None is a setting that the
            source does not give: no run is known to agree with it.
        beyond: What the experiment had and no run of this program can have.
        epochs: Epochs of training, if the source gives them.
        batch_size: Batch size of training, if the source gives it.
        K: Importance samples per test image.
        differences: How the experiment differs from the run that `reported` was asked about: "100 latents, not 50".
    """

    quantity: str
    value: float
    se: float | None
    source: str
    settings: dict[str, Any]
    beyond: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    K: int | None = None
    differences: tuple[str, ...] = ()


# Settings that must agree for a published number to be mentioned at all
REQUIRED_AGREEMENT = (
    "quantity", "model", "images", "labels", "objective", "K", "num_groups", "ciwae_beta", "prior", "posterior",
    "encoder", "decoder", "attention",
    "likelihood", "hidden", "inner_hidden", "m1.encoder", "m1.decoder", "m1.likelihood", "m1.hidden",
)  # fmt: skip

# Options that may differ from a paper's: those of the optimizer (a report lists them), of the noise of its gradients,
# seeds, initial values, the scale of a Gaussian likelihood (no paper here has one), early stopping (a report gives the
# epochs), the pixels that labels are predicted from if the paper does not say, and those that another setting of
# `run_settings` replaces. Any other option that a paper does not set counts as a difference unless it is at its
# default.
NOT_COMPARED = {
    "classifier_samples", "share_noise", "classify_grey",
    "optimizer", "lr", "lr_final", "lr_schedule", "adam_eps", "data.batch_size", "data.labels_per_batch",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip_val", "trainer.precision", "data.seed", "data.label_seed",
    "scale", "learn_scale", "logistic_scale", "logistic_components", "init",
    "prior_inputs", "early_stopping",
    "objective", "num_samples", "data.binarization", "data.num_labels", "data.val_size",
}  # fmt: skip

# Options that are numbers, and of what
COUNTED = {
    "z_dim": "latents", "training_images": "training images", "prior_components": "components of the prior",
    "steps": "steps", "rnn_size": "units",
}  # fmt: skip

CLASSIFIERS = ("M2", "M1M2", "ADGM", "SDGM")
MODELS = ("VAE", "IWAE", "HierarchicalVAE", "LadderVAE", "DRAW", *CLASSIFIERS)


class DataSet(NamedTuple):
    """A data set that numbers are published of.

    Args:
        name: Its name in `published.yaml`.
        training_images: Number of training images, including validation images that are split off.
        test_images: Number of test images.
    """

    name: str
    training_images: int
    test_images: int


# By their names in this program. Omniglot28 and files with images of OMNIGLOT are other images than the published ones.
DATA_SETS = {
    "MNIST": DataSet("MNIST", 60_000, 10_000),
    "BinaryMNIST": DataSet("MNIST", 50_000, 10_000),
    "OMNIGLOT": DataSet("OMNIGLOT", 24_345, 8_070),
}

# Key of an experiment in the YAML file -> type of its value
REQUIRED_KEYS: dict[str, Any] = {
    "source": str, "quantity": str, "data": str, "protocol": str, "training_images": int | None, "architecture": dict,
    "results": list,
}  # fmt: skip
OPTIONAL_KEYS: dict[str, Any] = {"training": dict, "K": int, "epochs": int, "batch_size": int, "unsupported": list}
# Key of a result -> type of its value. All other keys are options of this program.
RESULT_KEYS: dict[str, Any] = {"value": float, "se": float, "epochs": int, "batch_size": int}
# What tells the results of an experiment apart
DISTINCT_KEYS: dict[str, dict[str, Any]] = {
    "nll": {"objective": str, "num_samples": int},
    "test_error": {"labels": int},
}


@cache
def published_results() -> tuple[Reported, ...]:
    """Return all numbers of `published.yaml`.

    Raises:
        ValueError: The file is not valid.
    """
    return parse(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def parse(content: Any) -> tuple[Reported, ...]:
    """Return the numbers in the content of a YAML file of published numbers.

    Args:
        content: The parsed file; `published.yaml` documents its format.

    Raises:
        ValueError: A key is missing or unknown, or a value has the wrong type.
    """
    if not isinstance(content, dict) or not isinstance(content.get("experiments"), list):
        raise ValueError("published numbers: there is no list `experiments`.")
    results = []
    for number, experiment in enumerate(content["experiments"], 1):
        name = f"published numbers, experiment {number}"
        check_keys(experiment, REQUIRED_KEYS, OPTIONAL_KEYS, name)
        if experiment["quantity"] not in DISTINCT_KEYS:
            raise ValueError(f"{name}: quantity must be {' or '.join(DISTINCT_KEYS)}; got {experiment['quantity']}.")
        for position, result in enumerate(experiment["results"], 1):
            results.append(parse_result(experiment, result, f"{name}, result {position}"))
    return tuple(results)


def check_keys(entry: Any, required: Mapping[str, Any], optional: Mapping[str, Any], name: str) -> None:
    """Raise ValueError if an entry lacks a key, has an unknown one, or a value of the wrong type.

    Args:
        entry: The entry to check.
        required: Types of the values by key.
        optional: Types of the values of keys that may be missing.
        name: Name of the entry in messages.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{name} must be a mapping; got {entry!r}.")
    if missing := sorted(required.keys() - entry.keys()):
        raise ValueError(f"{name} lacks {', '.join(missing)}.")
    if unknown := sorted(map(str, entry.keys() - required.keys() - optional.keys())):
        raise ValueError(f"{name} has unknown keys: {', '.join(unknown)}.")
    for key, kind in ({**required, **optional}).items():
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            raise ValueError(f"{name}: {key} must be {getattr(kind, '__name__', kind)}; got {entry[key]!r}.")


def parse_result(experiment: dict[str, Any], result: Any, name: str) -> Reported:
    """Return one number of an experiment.

    Args:
        experiment: Its entry in the file.
        result: The entry of the number in `results` of the experiment.
        name: Name of the result in messages.

    Raises:
        ValueError: A key is missing, or a value has the wrong type.
    """
    quantity = experiment["quantity"]
    distinct = DISTINCT_KEYS[quantity]
    own_options = set(result) - set(RESULT_KEYS) - set(distinct) if isinstance(result, dict) else set()
    required = {"value": float, **distinct}
    optional = {key: kind for key, kind in RESULT_KEYS.items() if key != "value"} | dict.fromkeys(own_options, object)
    check_keys(result, required, optional, name)
    architecture = dict(experiment["architecture"])
    m1 = architecture.pop("m1", {})
    settings = (
        DEFAULT_PARTS
        | architecture
        | {
            "images": f"{experiment['data']}, {experiment['protocol']}",
            "training_images": experiment["training_images"],
            **experiment.get("training", {}),
            **{f"m1.{option}": value for option, value in m1.items()},
            **{option: result[option] for option in own_options},
        }
    )
    if quantity == "nll":
        settings |= objective_settings(result["objective"], result["num_samples"])
    else:
        settings |= {"quantity": quantity, "labels": result["labels"]}
    return Reported(
        quantity=quantity,
        value=result["value"],
        se=result.get("se"),
        source=experiment["source"],
        settings=settings,
        beyond=tuple(experiment.get("unsupported", ())),
        epochs=result.get("epochs", experiment.get("epochs")),
        batch_size=result.get("batch_size", experiment.get("batch_size")),
        K=experiment.get("K"),
    )


def objective_settings(objective: str, K: int) -> dict[str, Any]:
    """Return the settings of training with an objective of K samples. With one sample ELBO and IWAE are equal."""
    return {"quantity": "nll", "objective": "iwae" if (objective, K) == ("elbo", 1) else objective, "K": K}


def run_settings(checkpoint: dict) -> dict[str, Any]:
    """Return all options of a run, and everything else that decides whether a published number is comparable.

    Besides the options these are `quantity`, `model`, `images` (data set and protocol), the number of
    `training_images` and, depending on the model, `labels`, or `objective` and `K`.

    Args:
        checkpoint: Checkpoint of one of `MODELS` on one of `DATA_SETS`.
    """
    settings, run, model = DEFAULT_PARTS | run_options(checkpoint), checkpoint["run"], checkpoint["model"]
    data = DATA_SETS[run["data"]]
    settings |= {
        "images": f"{data.name}, {run['protocol']}",
        "training_images": data.training_images - settings.get("data.val_size", 0),  # BinaryMNIST has none to split off
    }
    if settings["prior"] == "vamp" and settings["prior_components"] is None:
        settings["prior_components"] = VAMP_COMPONENTS
    if model in CLASSIFIERS:
        return settings | {"model": model, "quantity": "test_error", "labels": settings["data.num_labels"]}
    if settings["objective"] != "elbo":
        settings["beta_warmup"] = 0  # only the ELBO has a warm-up
    of_model = {"LadderVAE": ladder_settings, "DRAW": draw_settings}.get(model, layered_settings)
    return settings | of_model(settings) | objective_settings(settings["objective"], settings["num_samples"])


def layered_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the name of a model by its layers of latents."""
    layers = len(options["z_dim"]) if isinstance(options["z_dim"], list) else 1
    return {"model": {1: "one layer", 2: "two layers"}.get(layers, f"{layers} layers")}


def ladder_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the name of a LadderVAE by its layers of latents, and its sizes where options leave them to the model."""
    conv = options["encoder"] == "conv"
    z_dim = options["z_dim"] or list(ladder.CONV_Z_DIM if conv else ladder.Z_DIM)
    per_scale = (options["layers_per_scale"] or list(ladder.LAYERS_PER_SCALE)) if conv else None
    hidden = options["hidden"] or list(ladder.CONV_HIDDEN if conv else ladder.HIDDEN)
    if len(hidden) == 1:  # for all layers, or for all resolutions
        hidden = hidden * len(z_dim if per_scale is None else per_scale)
    sizes = {"z_dim": z_dim, "hidden": hidden, "layers_per_scale": per_scale}
    return sizes | {"model": f"ladder, {len(z_dim)} layers"}


def draw_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the name of a DRAW, and the sizes of its attention where options leave them to the model."""
    sizes = {"read_size": draw.READ_SIZE, "write_size": draw.WRITE_SIZE} if options["attention"] else {}
    return {"model": "DRAW"} | {name: options[name] or default for name, default in sizes.items()}


def reported(checkpoint: dict) -> dict[str, Reported]:
    """Return the published number whose experiment is nearest to a run, with their differences.

    Only a number without `differences` can be compared with the run.

    Args:
        checkpoint: As `models.read_checkpoint` returns it.

    Returns:
        The number by its quantity, `nll` or `test_error`; empty if every experiment has another quantity, model family,
        data set, protocol, objective, K, prior, posterior or hidden layers, or has attention or not.
    """
    if checkpoint["model"] not in MODELS or checkpoint["run"]["data"] not in DATA_SETS:
        return {}
    run = run_settings(checkpoint)
    moved = [name for name in run if name.startswith("data.max_") and run[name]]
    if moved:
        return {}
    candidates = [
        paper._replace(differences=differences(paper, run, non_default_options(checkpoint)))
        for paper in published_results()
        if all(run.get(name) == paper.settings[name] for name in REQUIRED_AGREEMENT if name in paper.settings)
    ]
    nearest = min(candidates, key=lambda paper: len(paper.differences), default=None)
    return {} if nearest is None else {nearest.quantity: nearest}


def differences(paper: Reported, run: dict[str, Any], not_default: dict[str, Any]) -> tuple[str, ...]:
    """Return the settings in which the experiment of a paper differs from a run, as text.

    Args:
        paper: The published number.
        run: The settings of the run, from `run_settings`.
        not_default: Options of the run that are not at their default.
    """
    differing = [
        describe(name, theirs, run.get(name))
        for name, theirs in paper.settings.items()
        if theirs is None or run.get(name) != theirs
    ]
    others = not_default.keys() - paper.settings.keys()
    differing += [
        f"{name} at its default, not {not_default[name]}"
        for name in sorted(others)
        if name.removeprefix("m1.") not in NOT_COMPARED
    ]
    return (*differing, *paper.beyond)


def describe(name: str, theirs: Any, ours: Any) -> str:
    """Describe a setting in which a paper's experiment and a run differ: "100 latents, not 50"."""
    if name.startswith("m1."):
        return f"{describe(name.removeprefix('m1.'), theirs, ours)} in M1"
    if name in COUNTED:
        number = "an unknown number of" if theirs is None else sizes(theirs)
        return f"{number} {COUNTED[name]}, not {sizes(ours)}"
    if name == "activation":
        return f"{theirs}, not {ours}"
    if name == "batch_norm":
        return "batch norm" if theirs else "no batch norm"
    if name == "classify_grey":
        return f"labels from {'grey' if theirs else 'binarized'} pixels"
    if name == "beta_warmup" and not theirs:
        return "no warm-up of beta"
    return f"{name} {theirs}, not {ours}"


def sizes(value: int | list[int]) -> str:
    """Return a number as text, such as "55,000", or the numbers of all layers, such as "100+50"."""
    return "+".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
