"""Compare results with each other, paired by image, and with published numbers."""

import glob
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np

from evaluation.cache import cache_path
from evaluation.metrics import standard_error
from evaluation.published import DATA_SETS, Reported, reported
from evaluation.schema import ComparedEvaluation, Difference, Evaluation, PublishedReference
from evaluation.tables import comparison_key, plus_minus
from runtime.hparams import non_default_options, run_options
from runtime.run_folder import run_name

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def with_comparisons(
    results: Sequence[Evaluation], checkpoints: Sequence[dict], computed: Mapping[str, np.ndarray] = NOTHING
) -> list[ComparedEvaluation]:
    """Add to each result its differences to earlier runs, the nearest published number, and its training options.

    A difference paired by image has a much smaller standard error than either likelihood, because images that are hard
    for one model are hard for another. Differences are computed between results with the same images and K.

    Args:
        results: As `evaluate_checkpoint` returns them; their per-image values are in the cache.
        checkpoints: The checkpoint of each result.
        computed: Per-image log p(x) by checkpoint path; missing ones are read from the run folders.
    """
    compared = []
    earlier: dict[tuple, list[tuple[Evaluation, np.ndarray]]] = {}
    for result, checkpoint in zip(results, checkpoints, strict=True):
        versus = {}
        if result.nll is not None:
            alike = earlier.setdefault((comparison_key(result), result.num_samples), [])
            values = computed.get(result.checkpoint)
            values = log_px(result) if values is None else values
            if values is not None:
                versus = {run_name(other.checkpoint): paired_difference(values, theirs) for other, theirs in alike}
                alike.append((result, values))
        compared.append(
            ComparedEvaluation(
                **result.to_dict(),
                paper=published_reference(result, checkpoint),
                options=non_default_options(checkpoint),
                all_options=run_options(checkpoint),
                versus=versus,
            )
        )
    return compared


def log_px(result: Evaluation) -> np.ndarray | None:
    """Return the cached per-image log p(x) of a result, `(N,)`; None if no file holds exactly these values."""
    of_any_options = cache_path(Path(result.checkpoint), "likelihoods")
    for file in sorted(of_any_options.parent.glob(f"{glob.escape(of_any_options.stem)}*.npz")):
        try:
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as content:
                values = content["log_px"]
            # Another process may have overwritten the file with values of other weights.
            is_complete = len(values) == result.num_images
            if is_complete and result.nll is not None and np.isclose(-values.mean(), result.nll, rtol=1e-9):
                return values
        except Exception:  # zipfile and numpy raise many types; any failure is a cache miss
            continue
    return None


def paired_difference(values: np.ndarray, others: np.ndarray) -> Difference:
    """Return the difference of two NLLs on the same images.

    Args:
        values: log p(x) per image, `(N,)`.
        others: log p(x) of the other model, whose NLL is subtracted, `(N,)`.
    """
    difference = others - values
    return Difference(difference.mean().item(), standard_error(difference))


def published_reference(result: Evaluation, checkpoint: dict) -> PublishedReference | None:
    """Return the published number nearest to a result; None if none is near enough, or the result lacks the quantity.

    Args:
        result: The evaluation.
        checkpoint: Its checkpoint, as `models.read_checkpoint` returns it.
    """
    for quantity, paper in reported(checkpoint).items():
        own = getattr(result, quantity)
        if own is None:
            continue
        how = f"K = {paper.K}" if paper.K else "mean over draws of labels" if quantity == "test_error" else ""
        epochs = f"{paper.epochs} epochs" if paper.epochs else ""
        source = ", ".join(filter(None, [paper.source, how, epochs]))
        run_conditions = conditions(result, checkpoint, paper)
        if paper.differences:
            differences = "; ".join(paper.differences)
            value = f"{paper.value:.2f}" if quantity == "nll" else plus_minus(paper.value, paper.se, ".2%")
            nearest = f"no published number agrees in all; nearest: {value} ({source})"
            remark = f"{nearest}, with {differences}; {run_conditions}"
            summary = f"nearest: {value}, with {differences}; {run_conditions}"
        else:
            differences = None
            remark = f"{source}; {run_conditions}"
            summary = describe(own, paper, run_conditions)
        return PublishedReference(
            quantity=quantity,
            value=paper.value,
            se=paper.se,
            source=source,
            epochs=paper.epochs,
            differences=differences,
            remark=remark,
            summary=summary,
        )
    return None


def conditions(result: Evaluation, checkpoint: dict, paper: Reported) -> str:
    """Describe how a run's training and evaluation differ from a paper's: "2 epochs of the paper's 3280; K = 50, ...".

    Published test errors are means over several draws of labels; a run has one draw.
    """
    trained = run_options(checkpoint)
    size = trained["data.batch_size"] * trained["trainer.accumulate_grad_batches"]
    size *= checkpoint["run"].get("processes", 1)  # the batch size is per process
    text = "1 epoch" if result.epochs == 1 else f"{result.epochs} epochs"
    if paper.epochs:
        text += f" of the paper's {paper.epochs}"
    if paper.batch_size not in (None, size):
        text += f", in batches of {size}, not {paper.batch_size}"
    if paper.quantity == "test_error":
        return f"{text}; one draw of labels"
    if paper.K not in (None, result.num_samples):
        text += f"; K = {result.num_samples}, not {paper.K}"
    if (result.num_images or 0) < DATA_SETS[checkpoint["run"]["data"]].test_images:
        text += f"; on {result.num_images} images"
    return text


def describe(value: float, paper: Reported, run_conditions: str) -> str:
    """Describe how far a value is from a published one: "1.24 nats above, after 3 epochs ..."."""
    difference = value - paper.value
    amount = f"{abs(difference):.2f} nats" if paper.quantity == "nll" else f"{abs(difference):.2%}"
    return f"{amount} {'above' if difference > 0 else 'below'}, after {run_conditions}"
