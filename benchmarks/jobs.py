"""The jobs that are measured, the contenders of each, and this project's target ratios."""

from typing import NamedTuple

OURS, RAW, LIMIT = "elbo-room", "raw loop", "matrix products"
RAW_CONFIGURED = f"{RAW}, in a process set up as ours"


class Job(NamedTuple):
    """The work of one contender.

    Args:
        contender: Module in `contenders/` and function in it, such as "raw.vae".
        batch: Images per step.
        K: Samples of z per image.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse order.
        z_dim: Latent dimensions.
        labels: Number of labelled images, for M2.
        precision: "32" or "bf16".
        flags: Further options of train.py or evaluate.py.
        workers: Worker processes of the DataLoader.
        root: Folder of the data.
    """

    contender: str
    batch: int = 128
    K: int = 1
    hidden: tuple[int, ...] = (400, 400)
    z_dim: int = 20
    labels: int = 0
    precision: str = "32"
    flags: tuple[str, ...] = ()
    workers: int = 0
    root: str = "data"


class Comparison(NamedTuple):
    """Contenders that do the same work.

    Args:
        title: Title of tables and figures.
        contenders: Name -> job.
        targets: (contender, other contender, minimum ratio of their rates).
        seconds: Minimum length of a time slice.
        warm_up: Seconds at the start of each slice that are not counted.
        every_slice: Count the first slice too, and compare means over rounds; for work that varies between slices.
    """

    title: str
    contenders: dict[str, Job]
    targets: tuple[tuple[str, str, float], ...] = ()
    seconds: float = 2.0
    warm_up: float = 0.3
    every_slice: bool = False


ONE_STEP = ("--steps_per_call", "1")  # instead of the default number per call of the Trainer
COMPILED = ("--compile",)
PAPER = ("--model.activation", "softplus", "--model.batch_norm", "false")  # the network of the raw loop and of Pyro
PEERS_OF_VAE = {
    "Pythae": Job("with_pythae.vae"),
    "Lightning + torchvision": Job("with_lightning.vae"),
    "Lightning + torchvision, 2 workers": Job("with_lightning.vae", workers=2),
    "pytorch/examples": Job("pytorch_example.vae"),
    "Pyro": Job("with_pyro.vae"),
    "Pixyz": Job("with_pixyz.vae"),
}
LARGE = Job("raw.vae", batch=1024)
LARGE_BF16 = LARGE._replace(precision="bf16")
IWAE = Job("raw.vae", K=50)
NLL = Job("raw.nll", K=5000)
M2 = Job("raw.m2", batch=200, hidden=(500,), z_dim=50, labels=3000)


def of(job: Job, contender: str, *flags: str, **options) -> Job:
    """Return the same job for another contender."""
    return job._replace(contender=contender, flags=flags, **options)


COMPARISONS = {
    "vae": Comparison(
        "VAE, batch 128",
        {
            OURS: Job("ours.vae"),
            f"{OURS}, S = 1": Job("ours.vae", flags=ONE_STEP),
            f"{OURS}, compiled": Job("ours.vae", flags=COMPILED),
            f"{OURS}, bf16 compiled": Job("ours.vae", flags=COMPILED, precision="bf16"),
            RAW: Job("raw.vae"),
            RAW_CONFIGURED: Job("raw.vae_configured"),
            f"{RAW}, bf16 compiled": Job("raw.vae_compiled", precision="bf16"),
            LIMIT: Job("limit.vae"),
            f"{LIMIT}, bf16": Job("limit.vae", precision="bf16"),
            **PEERS_OF_VAE,
        },
        ((OURS, RAW, 0.95), (OURS, "Pythae", 1.5), (OURS, "Lightning + torchvision", 2.2)),
    ),
    "epochs": Comparison(
        "VAE, batch 128: epochs with validation, figures and checkpoints",
        {
            OURS: Job("ours.vae_epochs"),
            f"{OURS}, S = 1": Job("ours.vae_epochs", flags=ONE_STEP),
            RAW: Job("raw.vae"),
        },
        ((OURS, RAW, 0.85),),
        seconds=15.0,
        warm_up=0.0,
        every_slice=True,
    ),
    "large": Comparison(
        "VAE, batch 1024",
        {
            f"{OURS}, bf16 compiled": of(LARGE_BF16, "ours.vae", *COMPILED),
            f"{RAW}, bf16 compiled": of(LARGE_BF16, "raw.vae_compiled"),
            OURS: of(LARGE, "ours.vae"),
            RAW: LARGE,
            LIMIT: of(LARGE, "limit.vae"),
            f"{LIMIT}, bf16": of(LARGE_BF16, "limit.vae"),
        },
        ((f"{OURS}, bf16 compiled", f"{RAW}, bf16 compiled", 0.9),),
    ),
    "iwae": Comparison(
        "IWAE, K = 50, batch 128",
        {
            OURS: of(IWAE, "ours.vae"),
            f"{OURS}, bf16": of(IWAE, "ours.vae", precision="bf16"),
            RAW: IWAE,
            RAW_CONFIGURED: of(IWAE, "raw.vae_configured"),
            f"{RAW}, bf16": IWAE._replace(precision="bf16"),
            LIMIT: of(IWAE, "limit.vae"),
            f"{LIMIT}, bf16": of(IWAE, "limit.vae", precision="bf16"),
            "Pythae": of(IWAE, "with_pythae.iwae"),
            "Pythae, denormals flushed": of(IWAE, "with_pythae.iwae_flushed"),
        },
        ((OURS, "Pythae", 3.4), (f"{OURS}, bf16", "Pythae", 8.0)),
    ),
    "nll": Comparison(
        "NLL, K = 5000",
        {
            OURS: of(NLL, "ours.nll"),
            f"{OURS}, bf16": of(NLL, "ours.nll", "--precision", "bf16"),
            RAW: NLL,
            f"{RAW}, bf16 compiled": of(NLL, "raw.nll_compiled", precision="bf16"),
            LIMIT: of(NLL, "limit.nll"),
            f"{LIMIT}, bf16": of(NLL, "limit.nll", precision="bf16"),
            "Pythae": of(NLL, "with_pythae.nll"),
            "Pythae, batch_size 1000": of(NLL, "with_pythae.nll_large_batches"),
        },
        ((OURS, "Pythae", 3.2), (OURS, LIMIT, 0.75), (f"{OURS}, bf16", "Pythae", 8.0)),
    ),
    "m2": Comparison(
        "M2, 3000 labels, batch 200",
        {
            OURS: of(M2, "ours.m2", *PAPER),
            f"{OURS}, bf16": of(M2, "ours.m2", *PAPER, precision="bf16"),
            f"{OURS}, its default network": of(M2, "ours.m2"),
            RAW: M2,
            LIMIT: of(M2, "limit.m2"),
            f"{LIMIT}, bf16": of(M2, "limit.m2", precision="bf16"),
            "Pyro": of(M2, "with_pyro.m2"),
            "Pixyz, which draws one label instead of summing": of(M2, "with_pixyz.m2"),
        },
        ((OURS, "Pyro", 2.0),),
    ),
}
