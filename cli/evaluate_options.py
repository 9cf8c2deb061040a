"""Options of evaluate.py."""

from typing import Literal

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from callbacks import CALLBACKS
from cli.train_options import add_figure_options, add_limit_option
from models.estimators.ais import Settings

AIS_IMAGES = 100
MAX_VALUES = {"--ais_chains": 100_000, "--ais_temperatures": 10_000_000, "--ais_leapfrogs": 10_000}
DESCRIPTION = (
    "Evaluate checkpoints on test images. A checkpoint stores its model, data set and protocol. Results of best.ckpt "
    "are written to the run folder as evaluation.json and log_px.npy (per-image values in test order), those of "
    "last.ckpt as evaluation_last.json, and so on. A W&B artifact is downloaded to runs/wandb/ (or "
    "WANDB_ARTIFACT_DIR), where its results are written too. Each result is also saved under its settings in "
    "evaluations/. Tables of all runs are printed."
)


def build_evaluation_parser() -> ArgumentParser:
    """Return the parser of evaluate.py."""
    parser = ArgumentParser(prog="evaluate.py", description=DESCRIPTION, exit_on_error=False, allow_abbrev=False)
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=str,
        help="Paths of .ckpt files or run folders, glob patterns, or W&B artifacts "
        "(wandb:ENTITY/PROJECT/ARTIFACT:ALIAS).",
    )
    add("--num_samples", type=int, default=1000, help="Importance samples K per image.")
    add_limit_option(parser)
    add(
        "--precision",
        type=Literal["fp32", "bf16"],
        default="fp32",
        help="bf16 computes likelihoods with 16-bit matrix products and measures the difference.",
    )
    add(
        "--compile",
        action=ActionYesNo,
        default=False,
        help="Compile the likelihood with torch.compile, which takes up to a minute per model; for a GPU, or for bf16 "
        "with thousands of images.",
    )
    add(
        "--baselines",
        action=ActionYesNo,
        default=None,
        help="Fit scikit-learn classifiers to the same labels, on pixels and on latent codes of a VAE or of the M1 in "
        "an M1M2; by default only for classifiers trained with few labels.",
    )
    add(
        "--figures",
        type=list[str] | None,
        default=None,
        help=f"Figures to draw, any of {', '.join(CALLBACKS)}; by default all that the model supports except "
        "latent_codes_tsne.",
    )
    add(
        "--overwrite",
        action=ActionYesNo,
        default=False,
        help="Replace larger results (more images, larger K, with AIS) in evaluation.json; by default smaller results "
        "are printed and saved in evaluations/ only.",
    )
    add_figure_options(parser)
    add_ais_options(parser)
    add(
        "--two_sample",
        action=ActionYesNo,
        default=False,
        help="Also measure how well samples can be told from test images: MMD, a nearest-neighbour test, and distances "
        "in features of a classifier that is trained for this.",
    )
    add(
        "--report",
        type=str | None,
        default=None,
        help="Folder for the tables of all runs as JSON, CSV, Markdown and a page for the browser, and figures.",
    )
    add(
        "--wandb",
        type=Literal["off", "offline", "online"],
        default="off",
        help="Add the results to the W&B runs of the checkpoints, and a table of all results.",
    )
    add(
        "--side_by_side",
        type=str | None,
        default=None,
        help="Folder for figures that compare all models: samples, reconstructions, latent codes, random points.",
    )
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--devices", type=int, default=0, help="Number of devices that share the work; by default one, or torchrun's.")
    add(
        "--threads",
        type=int | None,
        default=None,
        help="CPU threads; by default OMP_NUM_THREADS, or a number chosen by the size of the model.",
    )
    add("--data.root", type=str | None, default=None, help="Path of the data, if they have moved.")
    add("--data.binarization", type=str | None, default=None, help="Must equal the protocol of the checkpoint.")
    return parser


def add_ais_options(parser: ArgumentParser) -> None:
    """Add the options of annealed importance sampling."""
    add, defaults = parser.add_argument, Settings()
    add(
        "--ais",
        action=ActionYesNo,
        default=False,
        help="Also run annealed importance sampling, which estimates log p(x) from prior and decoder alone, with a "
        "bound on its error; on grey images also the Parzen window estimate.",
    )
    add("--ais_images", type=int, default=AIS_IMAGES, help="Run AIS on the first N test images.")
    add("--ais_chains", type=int, default=defaults.chains, help="Chains per image; 16 in Wu et al. (2017).")
    add(
        "--ais_temperatures",
        type=int,
        default=defaults.temperatures,
        help="Intermediate distributions; 10,000 in Wu et al. (2017), feasible on a GPU.",
    )
    add("--ais_leapfrogs", type=int, default=defaults.leapfrogs, help="Leapfrog steps per intermediate distribution.")
    add(
        "--ais_start",
        type=Literal["prior", "posterior"],
        default=defaults.start,
        help="Initial distribution of the chains; posterior, q(z|x), is available for models with one latent variable.",
    )


def check_ais(options: Namespace) -> None:
    """Raise ValueError if options of AIS are out of range, or have no effect because --ais is missing."""
    defaults = {"images": AIS_IMAGES, **Settings()._asdict()}
    values = {f"--ais_{name}": getattr(options, f"ais_{name}") for name in defaults}
    for name, value in values.items():
        if not isinstance(value, str) and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
        if name in MAX_VALUES and value > MAX_VALUES[name]:
            raise ValueError(f"{name} must be at most {MAX_VALUES[name]:,}; got {value:,}.")
    changed = [name for name, value in values.items() if value != defaults[name.removeprefix("--ais_")]]
    if changed and not options.ais:
        raise ValueError(f"{', '.join(changed)} has no effect without --ais: add it.")
