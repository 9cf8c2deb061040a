"""What papers report for the same data, protocol, architecture and objective as a run, with where it stands."""

from typing import NamedTuple

BURDA = "Burda et al. (2015), Table 1"
STATIC = "Burda et al. (2015), appendix D"
REPLICATION = "github.com/nbip/IWAE, a replication of Burda et al. (2015)"
RAINFORTH = "Rainforth et al. (2018), 4 runs, 64 samples in training (miwae and piwae: 8 groups of 8)"
KINGMA = "Kingma et al. (2014), Table 1"


class Reported(NamedTuple):
    """A published number.

    Args:
        value: NLL in nats per image, or test error as a fraction.
        se: Its spread over runs, where it is given.
        source: Where it stands.
        epochs: That the authors trained for, where they say so.
        K: Importance samples per test image.
    """

    value: float
    se: float | None
    source: str
    epochs: int | None = None
    K: int | None = None


# Networks of Burda et al. (2015): 784-200-200-50, and 784-200-200-100 with 100-100-100-50 above; tanh
PIXELS = {"encoder": "mlp", "decoder": "mlp", "likelihood": "bernoulli"}
ONE_LAYER = PIXELS | {"z_dim": 50, "hidden": [200, 200], "activation": "tanh"}
TWO_LAYERS = ONE_LAYER | {"z_dim": [100, 50], "inner_hidden": [100, 100]}
M1 = PIXELS | {"z_dim": 50, "hidden": [500, 500]}  # of Kingma et al. (2014)
MOVES = ("max_rotation", "max_shift", "max_scaling")  # of images that are others than the papers'

# (protocol, layers, objective): test NLL of models trained with K = 1, 5, 50, after the budget of Burda et al. (2015)
BY_K = {
    ("dynamic", 1, "elbo", BURDA): (86.76, 86.47, 86.35),
    ("dynamic", 1, "iwae", BURDA): (86.76, 85.54, 84.78),
    ("dynamic", 1, "dreg", REPLICATION): (86.08, 84.90, 84.32),
    ("dynamic", 2, "elbo", BURDA): (85.33, 85.01, 84.78),
    ("dynamic", 2, "iwae", BURDA): (85.33, 83.89, 82.90),
    ("larochelle", 1, "iwae", STATIC): (88.71, 87.63, 87.10),
}
# objective, of one layer on dynamic images: test NLL and its spread, trained with K = 64
OF_64 = {"elbo": (86.21, 0.19), "iwae": (84.52, 0.02), "piwae": (84.46, 0.06), "miwae": (84.97, 0.10),
         "ciwae 0.05": (84.57, 0.09), "ciwae 0.5": (85.24, 0.08)}  # fmt: skip

# (protocol, layers, objective, K in training): test NLL
LIKELIHOODS: dict[tuple[str, int, str, int], Reported] = {
    (*about, K): Reported(nll, None, source, 3280, 5000)
    for (*about, source), values in BY_K.items()
    for K, nll in zip((1, 5, 50), values, strict=True)
} | {("dynamic", 1, objective, 64): Reported(*nll, RAINFORTH, None, 5000) for objective, nll in OF_64.items()}

# Networks of Kingma et al. (2014): M2 on pixels, and on the 50 latents of an M1, where 100 labels had a narrower one
M2_HIDDEN = {("M1M2", 100): [300]}  # others: [500]

# (model, labels): test error, mean over draws of labels
ERRORS: dict[tuple[str, int], Reported] = {
    ("M2", 100): Reported(0.1197, 0.0171, KINGMA),
    ("M2", 600): Reported(0.0494, 0.0013, KINGMA),
    ("M2", 1000): Reported(0.0360, 0.0056, KINGMA),
    ("M2", 3000): Reported(0.0392, 0.0063, KINGMA),
    ("M1M2", 100): Reported(0.0333, 0.0014, KINGMA, 3000),
    ("M1M2", 600): Reported(0.0259, 0.0005, KINGMA, 3000),
    ("M1M2", 1000): Reported(0.0240, 0.0002, KINGMA, 3000),
    ("M1M2", 3000): Reported(0.0218, 0.0004, KINGMA, 3000),
}


def is_of(options: dict, architecture: dict) -> bool:
    """Whether a model's options are those of an architecture."""
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    given = PIXELS | {"inner_hidden": [100, 100]} | given  # what is left out is as the models have it by default
    return all(given.get(key) == value for key, value in architecture.items())


def reported(checkpoint: dict) -> dict[str, Reported]:
    """What papers report for such a run, under `nll` and `test_error`; nothing where none is known to.

    Args:
        checkpoint: As `models.read_checkpoint` gives it.
    """
    model, options, run = checkpoint["model"], checkpoint["hyper_parameters"], checkpoint["run"]
    data = checkpoint.get("datamodule_hyper_parameters", {})
    if run["data"] not in ("MNIST", "BinaryMNIST") or any(data.get(move) for move in MOVES):
        return {}
    if model in ("M2", "M1M2"):
        alike = (model, data.get("num_labels"))
        same = is_of(options, PIXELS | {"z_dim": 50, "hidden": M2_HIDDEN.get(alike, [500])})
        same &= run["protocol"] == "dynamic" and (model == "M2" or is_of(options["m1_options"], M1))
        return {"test_error": ERRORS[alike]} if same and alike in ERRORS else {}
    layers = {"VAE": 1, "IWAE": 1, "HierarchicalVAE": 2}.get(model)
    if layers is None or not is_of(options, ONE_LAYER if layers == 1 else TWO_LAYERS):
        return {}
    if options.get("beta", 1) != 1 or options.get("batch_norm") or options.get("num_groups") not in (None, 8):
        return {}
    found = LIKELIHOODS.get((run["protocol"], layers, *trained_by(model, options)))
    return {"nll": found} if found else {}


def trained_by(model: str, options: dict) -> tuple[str, int]:
    """Objective, as the tables above call it, and K."""
    usual, K = ("iwae", 5) if model == "IWAE" else ("elbo", 1)
    objective, K = options.get("objective", usual), options.get("num_samples", K)
    if objective == "ciwae":
        return f"ciwae {options['ciwae_beta']}", K
    return "iwae" if K == 1 and objective == "elbo" else objective, K  # of one sample they are the same
