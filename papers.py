"""What papers report for the same data, protocol, architecture and objective as a run, with where it stands."""

from typing import NamedTuple

BURDA = "Burda et al. (2015), Table 1"
STATIC = "Burda et al. (2015), appendix D"
REPLICATION = "github.com/nbip/IWAE, a replication of Burda et al. (2015)"
RAINFORTH = "Rainforth et al. (2018), 4 runs, 64 samples in training"
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
BUDGET = {"epochs": 3280, "K": 5000}
M1 = PIXELS | {"z_dim": 50, "hidden": [500, 500]}  # of Kingma et al. (2014)
MOVES = ("max_rotation", "max_shift", "max_scaling")  # of images that are others than the papers'

# (protocol, layers, objective, K in training): test NLL
LIKELIHOODS: dict[tuple[str, int, str, int], Reported] = {
    ("dynamic", 1, "elbo", 1): Reported(86.76, None, BURDA, **BUDGET),
    ("dynamic", 1, "elbo", 5): Reported(86.47, None, BURDA, **BUDGET),
    ("dynamic", 1, "elbo", 50): Reported(86.35, None, BURDA, **BUDGET),
    ("dynamic", 1, "iwae", 5): Reported(85.54, None, BURDA, **BUDGET),
    ("dynamic", 1, "iwae", 50): Reported(84.78, None, BURDA, **BUDGET),
    ("dynamic", 2, "elbo", 1): Reported(85.33, None, BURDA, **BUDGET),
    ("dynamic", 2, "elbo", 5): Reported(85.01, None, BURDA, **BUDGET),
    ("dynamic", 2, "elbo", 50): Reported(84.78, None, BURDA, **BUDGET),
    ("dynamic", 2, "iwae", 5): Reported(83.89, None, BURDA, **BUDGET),
    ("dynamic", 2, "iwae", 50): Reported(82.90, None, BURDA, **BUDGET),
    ("dynamic", 1, "dreg", 5): Reported(84.90, None, REPLICATION, **BUDGET),
    ("dynamic", 1, "dreg", 50): Reported(84.32, None, REPLICATION, **BUDGET),
    ("dynamic", 1, "elbo", 64): Reported(86.21, 0.19, RAINFORTH, None, 5000),
    ("dynamic", 1, "iwae", 64): Reported(84.52, 0.02, RAINFORTH, None, 5000),
    ("dynamic", 1, "piwae", 64): Reported(84.46, 0.06, f"{RAINFORTH}, 8 groups of 8", None, 5000),
    ("dynamic", 1, "miwae", 64): Reported(84.97, 0.10, f"{RAINFORTH}, 8 groups of 8", None, 5000),
    ("larochelle", 1, "elbo", 1): Reported(88.71, None, STATIC, **BUDGET),
    ("larochelle", 1, "iwae", 5): Reported(87.63, None, STATIC, **BUDGET),
    ("larochelle", 1, "iwae", 50): Reported(87.10, None, STATIC, **BUDGET),
}

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


def plain(value):
    """Options as they are compared: tuples as lists, none as what is left out."""
    return list(value) if isinstance(value, tuple) else value


def is_of(options: dict, architecture: dict) -> bool:
    """Whether a model's options are those of an architecture."""
    defaults = PIXELS | {"inner_hidden": [100, 100]}
    return all(plain(options.get(key, defaults.get(key))) == value for key, value in architecture.items())


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
    iwae = model == "IWAE"
    K, objective = options.get("num_samples", 5 if iwae else 1), options.get("objective", "iwae" if iwae else "elbo")
    if K == 1 and objective in ("iwae", "stl", "dreg"):
        objective = "elbo"  # the same bound
    found = LIKELIHOODS.get((run["protocol"], layers, objective, K))
    return {"nll": found} if found else {}
