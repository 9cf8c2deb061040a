"""The command line of evaluate.py."""

from typing import Literal

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from callbacks import CALLBACKS
from cli.train_options import add_figure_options
from models.estimators.ais import Settings

AIS_IMAGES = 100
MOST = {"--ais_chains": 100_000, "--ais_temperatures": 10_000_000, "--ais_leapfrogs": 10_000}  # that can ever end
EVALUATION = (
    "Evaluates checkpoints on test images. A checkpoint knows its model, data and protocol. Each run folder gets an "
    "evaluation.json and log_px.npy, the per-image values in test order, of its best.ckpt (evaluation_last.json of "
    "last.ckpt, and so on), and each result under its setting in evaluations/. All runs together are printed as tables."
)


def build_evaluation_parser() -> ArgumentParser:
    """The options of evaluate.py."""
    options = ArgumentParser(prog="evaluate.py", description=EVALUATION, exit_on_error=False, allow_abbrev=False)
    add = options.add_argument
    add("checkpoints", nargs="+", type=str, help="Paths of .ckpt files or run folders, or patterns.")
    add("--num_samples", type=int, default=1000, help="K, importance samples per image.")
    limit = "Evaluate the likelihood on the first N test images; by default on all, M2, M1M2 and AffineVAE on 1000."
    add("--limit", type=int | None, default=None, help=limit)
    precision = "bf16 computes likelihoods with matrix products in 16 bits, and measures what that changes."
    add("--precision", type=Literal["fp32", "bf16"], default="fp32", help=precision)
    baselines = (
        "Fit classifiers of scikit-learn to the same labels, on pixels and on the latents of a VAE or of the M1 of an "
        "M1M2; by default beside an M2 or M1M2 that was given few labels."
    )
    add("--baselines", action=ActionYesNo, default=None, help=baselines)
    figures = f"Figures to draw, of {', '.join(CALLBACKS)}; by default those that the model supports, but for "
    add("--figures", type=list[str] | None, default=None, help=f"{figures}latent_codes_tsne.")
    overwrite = (
        "Let results take the place of larger ones (more images, larger K, with AIS) in evaluation.json; by default "
        "smaller ones are printed and kept in evaluations/ alone."
    )
    add("--overwrite", action=ActionYesNo, default=False, help=overwrite)
    add_figure_options(options)
    add_ais_options(options)
    report = "Folder for the tables of all runs as JSON, CSV and Markdown, and a figure."
    add("--report", type=str | None, default=None, help=report)
    wandb = "Add results to the W&B runs that made the checkpoints, and one table of all."
    add("--wandb", type=Literal["off", "offline", "online"], default="off", help=wandb)
    side_by_side = "Folder for figures of all models beside each other: reconstructions, codes, random points."
    add("--side_by_side", type=str | None, default=None, help=side_by_side)
    add("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    devices = "Devices that share the work; by default one, or those of torchrun."
    add("--devices", type=int, default=0, help=devices)
    threads = "Threads of the processor; by default OMP_NUM_THREADS or by the size of the model."
    add("--threads", type=int | None, default=None, help=threads)
    add("--data.root", type=str | None, default=None, help="Where the data lies, if it has moved.")
    own = "Refused unless it is the checkpoint's own."
    add("--data.binarization", type=str | None, default=None, help=own)
    return options


def add_ais_options(parser: ArgumentParser) -> None:
    """The options of annealed importance sampling."""
    add, defaults = parser.add_argument, Settings()
    annealing = "Annealed importance sampling too: log p(x) from prior and decoder alone, with a bound on its error."
    add("--ais", action=ActionYesNo, default=False, help=annealing)
    add("--ais_images", type=int, default=AIS_IMAGES, help="Test images that it is run on, the first ones.")
    add("--ais_chains", type=int, default=defaults.chains, help="Chains per image; 16 in Wu et al. (2017).")
    temperatures = "Distributions between prior and posterior; 10,000 in Wu et al. (2017), for a GPU."
    add("--ais_temperatures", type=int, default=defaults.temperatures, help=temperatures)
    add("--ais_leapfrogs", type=int, default=defaults.leapfrogs, help="Steps of the trajectory at each of them.")
    start = "Where chains start; posterior, q(z|x), for models with one latent."
    add("--ais_start", type=Literal["prior", "posterior"], default=defaults.start, help=start)


def check_ais(options: Namespace) -> None:
    """ValueError, in a sentence, for options of AIS that mean nothing or do nothing."""
    usual = {"images": AIS_IMAGES, **Settings()._asdict()}
    given = {f"--ais_{name}": getattr(options, f"ais_{name}") for name in usual}
    for name, value in given.items():
        if not isinstance(value, str) and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
        if name in MOST and value > MOST[name]:
            raise ValueError(f"{name} must be at most {MOST[name]:,}; got {value:,}, which would not end.")
    idle = [name for name, value in given.items() if value != usual[name.removeprefix("--ais_")]]
    if idle and not options.ais:
        raise ValueError(f"{', '.join(idle)} would do nothing without --ais: add it.")
