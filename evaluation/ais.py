"""Evaluate a model by annealed importance sampling (AIS): a lower bound, in expectation, on log p(x)."""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

import models
from evaluation.metrics import labels_or_none, standard_error
from models.estimators.ais import Settings, anneal, bidirectional, pilot_temperatures, tune
from models.estimators.passes import MAX_DECODER_ROWS, activation_bytes, free_memory, halved_to_fit
from runtime.collectives import map_across_ranks, rank_indices
from runtime.processes import global_rank

PILOT_IMAGES = 10  # validation images for tuning the step sizes
SIMULATED = 50  # images sampled from the model, for the gap between both bounds
MAX_IMAGES_PER_PASS = 50  # on a CPU
GPU_ROWS = 2**14  # decoder rows per pass on a GPU: fewer take about as long, as launches of kernels take most of it
KEPT_FOR_GRADIENT = 2  # times the memory of a forward pass


def images_per_pass(model: models.Model, settings: Settings, x: Tensor, y: Tensor | None = None) -> int:
    """Return the images per pass of AIS: their chains together need about `MAX_DECODER_ROWS` decoder rows.

    On a GPU they need `GPU_ROWS`, or fewer if its memory is too small.

    Args:
        model: A model on any device.
        settings: Chains and temperatures.
        x: Images, one or more.
        y: Their labels, for conditional models.
    """
    rows = settings.chains * model.decoder_cost
    if x.device.type != "cuda":
        return max(1, min(MAX_IMAGES_PER_PASS, MAX_DECODER_ROWS // rows))
    bytes_per_row = activation_bytes(model, x[:1], None if y is None else y[:1]) * KEPT_FOR_GRADIENT
    return halved_to_fit(GPU_ROWS // rows, settings.chains * bytes_per_row, free_memory(x.device))


def run_ais(
    model: models.Model, x: Tensor, y: Tensor, pilot: tuple[Tensor, Tensor], settings: Settings
) -> dict[str, np.ndarray]:
    """Run AIS on test images, and bidirectional Monte Carlo on images sampled from the model.

    Args:
        model: A model with `ais_prior` and `ais_log_px`. Without `ais_simulate` there are no bounds.
        x: Test images `(N, C, H, W)`.
        y: Their labels, for conditional models.
        pilot: Other images with their labels, for tuning the step sizes.
        settings: Chains and temperatures.

    Returns:
        `ais_log_px` (nats) and `ais_acceptance` per test image, `(N,)`; the bounds `ais_lower` and `ais_upper` on
        log p(x) (nats) per sampled image.
    """
    size = images_per_pass(model, settings, x, labels_or_none(model, y))
    # None hides a bar unless there is a terminal
    new_bar = partial(tqdm, unit="temperature", disable=None if global_rank() == 0 else True, leave=False)
    simulated = min(SIMULATED, len(x)) if model.can("ais_simulate") else 0
    parts, more = -(-len(x) // size), -(-simulated // size)
    with new_bar(total=len(pilot_temperatures(settings)), desc="AIS, pilot run") as pilot_bar:
        # Every rank tunes the step sizes itself and gets identical ones.
        labels_of_pilot = labels_or_none(model, pilot[1])
        steps = tune(model, pilot[0], settings, labels_of_pilot, moved=pilot_bar.update)

    def moved() -> None:
        bar.update()

    def compute(part: int) -> dict[str, Tensor]:
        images, labels = x[part * size : (part + 1) * size], labels_or_none(model, y[part * size : (part + 1) * size])
        result = anneal(model, images, settings, steps, labels, seed=part, moved=moved)
        return {"ais_log_px": result.log_px, "ais_acceptance": result.acceptance}

    def bound(part: int) -> dict[str, Tensor]:
        n = min(size, simulated - part * size)
        # A conditional model samples images with the labels of test images.
        labels = labels_or_none(model, y[part * size : part * size + n])
        result = bidirectional(model, n, settings, steps, labels, seed=part, moved=moved)
        return {"ais_lower": result.lower, "ais_upper": result.upper}

    own_parts, own_more = (len(rank_indices(n)) for n in (parts, more))
    total = settings.temperatures * (own_parts + 2 * own_more)
    with new_bar(total=total, desc="AIS") as bar:
        arrays = map_across_ranks(compute, parts)
        if more:
            arrays |= map_across_ranks(bound, more)
    return {name: values.double().numpy() for name, values in arrays.items()}


def ais_summary(chains: dict[str, np.ndarray], log_px: np.ndarray | None, settings: Settings) -> dict[str, Any]:
    """Return fields of `Evaluation`: means over images of the values from `run_ais`.

    Args:
        chains: From `run_ais`.
        log_px: Importance-sampled log p(x) per image; the first ones are those of AIS. None for a model without
            importance weights.
        settings: Settings of the chains.
    """
    values, gap = chains["ais_log_px"], chains["ais_upper"] - chains["ais_lower"] if "ais_upper" in chains else None
    lowered = None if log_px is None else values - log_px[: len(values)]
    return {
        "ais_nll": -values.mean(),
        "ais_nll_se": standard_error(values),
        "ais_lowers_nll": None if lowered is None else lowered.mean(),
        "ais_lowers_nll_se": None if lowered is None else standard_error(lowered),
        "ais_gap": None if gap is None else gap.mean(),
        "ais_gap_se": None if gap is None else standard_error(gap),
        "ais_acceptance": chains["ais_acceptance"].mean(),
        "ais_images": len(values),
        "ais_simulated": 0 if gap is None else len(gap),
        **{f"ais_{name}": value for name, value in settings._asdict().items()},
    }
