"""What evaluate.py finds out by annealed importance sampling: a lower bound on log p(x) of test images."""

import numpy as np
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from tqdm import tqdm

import models
from evaluation.metrics import standard_error
from models.estimators.ais import Settings, anneal, bidirectional, tune
from models.estimators.importance import MAX_DECODER_ROWS
from runtime.collectives import map_across_ranks, rank_indices

PILOT_IMAGES = 10
SIMULATED = 50  # images on which the error is bounded
MAX_IMAGES_PER_PASS = 50  # images per pass


def images_per_pass(model: models.Model, settings: Settings) -> int:
    """Return how many images one pass of AIS takes: their chains fill about `MAX_DECODER_ROWS` rows of a decoder."""
    return max(1, min(MAX_IMAGES_PER_PASS, MAX_DECODER_ROWS // (settings.chains * model.decoder_cost)))


def run_ais(model: models.Model, x: Tensor, y: Tensor, pilot: tuple[Tensor, Tensor], settings: Settings) -> dict:
    """Per-image `ais_log_px` and `ais_acceptance`, and per simulated image its `ais_lower` and `ais_upper` bound.

    Args:
        model: A model with `ais_prior` and `ais_log_px`. Without `ais_simulate` there are no bounds.
        x: Test images `(N, C, H, W)`.
        y: Their labels, for conditional models.
        pilot: Other images, for the step sizes, with their labels.
        settings: Chains and temperatures.
    """
    size = images_per_pass(model, settings)
    hidden = None if rank_zero_only.rank == 0 else True  # None: where there is no terminal
    simulated = min(SIMULATED, len(x)) if model.can("ais_simulate") else 0
    parts, more = -(-len(x) // size), -(-simulated // size)
    # every process computes them for itself, to the same bits
    steps = tune(model, pilot[0], settings, *model.condition_args(pilot[1]))

    def moved() -> None:
        bar.update()

    def compute(part: int) -> dict[str, Tensor]:
        images, labels = x[part * size : (part + 1) * size], model.condition_args(y[part * size : (part + 1) * size])
        found = anneal(model, images, settings, steps, *labels, seed=part, moved=moved)
        return {"ais_log_px": found.log_px, "ais_acceptance": found.acceptance}

    def bound(part: int) -> dict[str, Tensor]:
        n = min(size, simulated - part * size)
        # of a conditional model, with the labels of test images
        labels = model.condition_args(y[part * size : part * size + n])
        found = bidirectional(model, n, settings, steps, *labels, seed=part, moved=moved)
        return {"ais_lower": found.lower, "ais_upper": found.upper}

    own_parts, own_more = (len(rank_indices(n)) for n in (parts, more))
    total = settings.temperatures * (own_parts + 2 * own_more)
    with tqdm(total=total, unit="temperature", desc="AIS", disable=hidden, leave=False) as bar:
        found = map_across_ranks(compute, parts)
        if more:
            found |= map_across_ranks(bound, more)
    return {name: values.double().numpy() for name, values in found.items()}


def ais_summary(found: dict[str, np.ndarray], log_px: np.ndarray, settings: Settings) -> dict:
    """The numbers of `evaluation.json`.

    Args:
        found: By `annealed`.
        log_px: Importance-sampled, of the same images and perhaps more.
        settings: Of the chains.
    """
    values, gap = found["ais_log_px"], found["ais_upper"] - found["ais_lower"] if "ais_upper" in found else None
    lowered = values - log_px[: len(values)]
    return {
        "ais_nll": -values.mean(),
        "ais_nll_se": standard_error(values),
        "ais_lowers_nll": lowered.mean(),
        "ais_lowers_nll_se": standard_error(lowered),
        "ais_gap": None if gap is None else gap.mean(),
        "ais_gap_se": None if gap is None else standard_error(gap),
        "ais_acceptance": found["ais_acceptance"].mean(),
        "ais_images": len(values),
        "ais_simulated": 0 if gap is None else len(gap),
        **{f"ais_{name}": value for name, value in settings._asdict().items()},
    }
