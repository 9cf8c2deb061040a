"""Published numbers, each with what it was measured on, and which of them can be compared with a run."""

from typing import Any, NamedTuple

from runtime.hparams import non_default_options, run_options

BURDA = "Burda et al. (2015), Table 1"
STATIC = "Burda et al. (2015), appendix D"
REPLICATION = "github.com/nbip/IWAE, a replication of Burda et al. (2015)"
RAINFORTH = "Rainforth et al. (2018), mean of 4 runs"
KINGMA = "Kingma et al. (2014), Table 1"


class Reported(NamedTuple):
    """A published number with the experiment that it was measured in.

    Args:
        quantity: `nll` or `test_error`.
        value: NLL in nats per image, or test error as a fraction.
        se: Its spread over runs, where it is given.
        source: Where it stands.
        settings: Options of the same experiment in this program, by the names of `remembered.options`, and the other
            settings of `run_settings`. Options that are not listed had their default. None is a setting that the
            source does not tell: no run is known to agree with it.
        beyond: What the experiment had and no run of this program has.
        epochs: Of training, where the authors say so.
        batch_size: Of training, where the authors say so.
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


# Settings without which two experiments have so little in common that a published number is not mentioned
KINDRED = (
    "quantity", "model", "images", "labels", "objective", "K", "num_groups", "ciwae_beta", "encoder", "decoder",
    "likelihood", "hidden", "inner_hidden", "m1.encoder", "m1.decoder", "m1.likelihood", "m1.hidden",
)  # fmt: skip

# Options that may differ from a paper's, or that another setting stands for: how the optimum is searched for (a report
# lists them), draws, and the scale of a Gaussian likelihood, which none of these papers has. Every option that is
# neither here nor among the settings of a paper counts as a difference unless it is at its default.
NOT_COMPARED = {
    "lr", "lr_final", "lr_schedule", "adam_eps", "steps_per_call", "data.batch_size", "data.labels_per_batch",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip_val", "trainer.precision", "data.seed", "scale",
    "learn_scale", "init",
    "objective", "num_samples", "data.binarization", "data.num_labels", "data.val_size",
}  # fmt: skip

# Networks of Burda et al. (2015): 784-200-200-50, and 784-200-200-100 with 100-100-100-50 above; tanh
PIXELS = {"encoder": "mlp", "decoder": "mlp", "likelihood": "bernoulli", "batch_norm": False}
ONE_LAYER = PIXELS | {"model": "one layer", "z_dim": 50, "hidden": [200, 200], "activation": "tanh"}
TWO_LAYERS = ONE_LAYER | {"model": "two layers", "z_dim": [100, 50], "inner_hidden": [100, 100]}
UNWEIGHTED = {"beta": 1.0, "beta_warmup": 0}  # the KL, which had its full weight from the start

DYNAMIC = {"images": "MNIST, dynamic"}
LAROCHELLE = {"images": "MNIST, larochelle", "training_images": 50_000}


def trained_with(objective: str, K: int) -> dict[str, Any]:
    """The settings of an objective of K samples. With one sample ELBO and IWAE are the same."""
    return {"quantity": "nll", "objective": "iwae" if (objective, K) == ("elbo", 1) else objective, "K": K}


def by_k(source: str, experiment: dict[str, Any], values: dict[str, tuple[float, ...]]) -> list[Reported]:
    """The test NLL of models trained by each objective with K = 1, 5 and 50, on the schedule of Burda et al. (2015).

    Args:
        source: Where they stand.
        experiment: Settings without the objective and K.
        values: By objective.
    """
    return [
        Reported("nll", nll, None, source, experiment | UNWEIGHTED | trained_with(objective, K), (), 3280, 20, 5000)
        for objective, of_objective in values.items()
        for K, nll in zip((1, 5, 50), of_objective, strict=True)
        if (objective, K) != ("iwae", 1) or "elbo" not in values  # those are listed as the ELBO's
    ]


BURDA_IMAGES = DYNAMIC | {"training_images": 59_600}
REPLICATION_IMAGES = DYNAMIC | {"training_images": 60_000}  # it has no validation images

LIKELIHOODS = [
    *by_k(BURDA, ONE_LAYER | BURDA_IMAGES, {"elbo": (86.76, 86.47, 86.35), "iwae": (86.76, 85.54, 84.78)}),
    *by_k(BURDA, TWO_LAYERS | BURDA_IMAGES, {"elbo": (85.33, 85.01, 84.78), "iwae": (85.33, 83.89, 82.90)}),
    *by_k(STATIC, ONE_LAYER | LAROCHELLE, {"iwae": (88.71, 87.63, 87.10)}),
    # The replication has 100 latents where the paper has 50
    *by_k(
        REPLICATION,
        ONE_LAYER | REPLICATION_IMAGES | {"z_dim": 100},
        {"elbo": (86.35, 86.10, 86.06), "iwae": (86.35, 85.18, 84.59), "dreg": (86.08, 84.90, 84.32)},
    ),
    *by_k(
        REPLICATION,
        TWO_LAYERS | REPLICATION_IMAGES,
        {"elbo": (84.83, 84.08, 83.89), "iwae": (84.83, 83.48, 82.82)},
    ),
]

# One layer, trained with K = 64 in all, by objective with its own options: test NLL and its spread
OF_64 = [
    ("elbo", {}, 86.21, 0.19),
    ("iwae", {}, 84.52, 0.02),
    ("piwae", {"num_groups": 8}, 84.46, 0.06),
    ("miwae", {"num_groups": 8}, 84.97, 0.10),
    ("ciwae", {"ciwae_beta": 0.05}, 84.57, 0.09),
    ("ciwae", {"ciwae_beta": 0.5}, 85.24, 0.08),
]
LIKELIHOODS += [
    Reported("nll", nll, se, RAINFORTH, settings, K=5000)
    for objective, more, nll, se in OF_64
    for settings in [ONE_LAYER | DYNAMIC | {"training_images": None} | UNWEIGHTED | trained_with(objective, 64) | more]
]

# Kingma et al. (2014): M2 on pixels, and on the latent of an M1, where 100 labels had a narrower one
SOFTPLUS = {"z_dim": 50, "activation": "softplus", "batch_norm": False, "alpha": 0.1}
FEW_LABELS = DYNAMIC | SOFTPLUS | {"quantity": "test_error", "training_images": 50_000}
M2 = FEW_LABELS | PIXELS | {"model": "M2", "hidden": [500]}
# The M1 is that of the authors' released code
RELEASED_M1 = PIXELS | UNWEIGHTED | {"z_dim": 50, "hidden": [500, 500], "activation": "softplus"}
M1M2 = FEW_LABELS | {"model": "M1M2", "hidden": [500]} | {f"m1.{name}": value for name, value in RELEASED_M1.items()}
GREY_INPUTS = "grey inputs of the encoder, not binarized ones"
WEIGHT_PRIOR = "a Gaussian prior on the weights"
UNKNOWN_M1 = "an M1 not known to be the 500-500 of the released code"

ERRORS = [
    Reported("test_error", error, se, KINGMA, M2 | {"labels": labels}, (GREY_INPUTS, WEIGHT_PRIOR))
    for labels, error, se in [(100, 0.1197, 0.0171), (600, 0.0494, 0.0013), (1000, 0.0360, 0.0056),
                              (3000, 0.0392, 0.0063)]
] + [
    Reported(
        "test_error", error, se, KINGMA, M1M2 | {"labels": labels} | ({"hidden": [300]} if labels == 100 else {}),
        (GREY_INPUTS, WEIGHT_PRIOR, UNKNOWN_M1), 3000, 500 if labels == 100 else None,
    )
    for labels, error, se in [(100, 0.0333, 0.0014), (600, 0.0259, 0.0005), (1000, 0.0240, 0.0002),
                              (3000, 0.0218, 0.0004)]
]  # fmt: skip

MODELS = ("VAE", "IWAE", "HierarchicalVAE", "M2", "M1M2")
TRAINING_IMAGES = 60_000  # of MNIST, validation images included
TEST_IMAGES = 10_000


def run_settings(checkpoint: dict) -> dict[str, Any]:
    """All options of a run, and what else decides whether a published number can be compared with it.

    That is the `quantity`, `model`, `images` (data set and protocol), the number of `training_images` and, where they
    matter, the `labels`, `objective` and `K`.

    Args:
        checkpoint: Of one of `MODELS` on MNIST or BinaryMNIST.
    """
    found, run, model = run_options(checkpoint), checkpoint["run"], checkpoint["model"]
    binary = run["data"] == "BinaryMNIST"
    found |= {
        "images": f"MNIST, {run['protocol']}",
        "training_images": LAROCHELLE["training_images"] if binary else TRAINING_IMAGES - found["data.val_size"],
    }
    if model in ("M2", "M1M2"):
        return found | {"model": model, "quantity": "test_error", "labels": found["data.num_labels"]}
    if found["objective"] != "elbo":
        found["beta_warmup"] = 0  # whatever the default says, other objectives have none
    layers = len(found["z_dim"]) if isinstance(found["z_dim"], list) else 1
    found["model"] = {1: "one layer", 2: "two layers"}.get(layers, f"{layers} layers")
    return found | trained_with(found["objective"], found["num_samples"])


def reported(checkpoint: dict) -> dict[str, Reported]:
    """The published number that agrees best with a run, under `nll` or `test_error`, with how its experiment differs.

    Only one without `differences` can be compared with the run. Nothing is returned where the nearest experiment has
    another quantity, model family, data set, protocol, objective, K or other hidden layers.

    Args:
        checkpoint: As `models.read_checkpoint` gives it.
    """
    if checkpoint["model"] not in MODELS or checkpoint["run"]["data"] not in ("MNIST", "BinaryMNIST"):
        return {}
    run = run_settings(checkpoint)
    moved = [name for name in run if name.startswith("data.max_") and run[name]]
    kindred = [
        paper
        for paper in (*LIKELIHOODS, *ERRORS)
        if not moved and all(run.get(name) == paper.settings[name] for name in KINDRED if name in paper.settings)
    ]
    compared = [
        paper._replace(differences=differences(paper, run, non_default_options(checkpoint))) for paper in kindred
    ]
    nearest = min(compared, key=lambda paper: len(paper.differences), default=None)
    return {} if nearest is None else {nearest.quantity: nearest}


def differences(paper: Reported, run: dict[str, Any], not_default: dict[str, Any]) -> tuple[str, ...]:
    """What the experiment of a paper has and a run has not.

    Args:
        paper: The published number.
        run: From `run_settings`.
        not_default: Options of the run that are not at their default.
    """
    found = [
        describe(name, theirs, run.get(name))
        for name, theirs in paper.settings.items()
        if theirs is None or run.get(name) != theirs
    ]
    others = not_default.keys() - paper.settings.keys()
    found += [
        f"{name} at its default, not {not_default[name]}"
        for name in sorted(others)
        if name.removeprefix("m1.") not in NOT_COMPARED
    ]
    return (*found, *paper.beyond)


def describe(name: str, theirs: Any, ours: Any) -> str:
    """A setting in which a paper's experiment and a run differ: "100 latents, not 50"."""
    if name.startswith("m1."):
        return f"{describe(name.removeprefix('m1.'), theirs, ours)} in M1"
    if name == "z_dim":
        return f"{sizes(theirs)} latents, not {sizes(ours)}"
    if name == "training_images":
        number = "an unknown number of" if theirs is None else f"{theirs:,}"
        return f"{number} training images, not {ours:,}"
    if name == "activation":
        return f"{theirs}, not {ours}"
    if name == "batch_norm":
        return "batch norm" if theirs else "no batch norm"
    if name == "beta_warmup" and not theirs:
        return "no warm-up of beta"
    return f"{name} {theirs}, not {ours}"


def sizes(value: int | list[int]) -> str:
    """Numbers of latents per layer: 50, or 100+50."""
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
