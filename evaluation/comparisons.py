"""Results of several checkpoints beside each other, image by image, and beside the papers'."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np

from evaluation.cache import cache_path
from evaluation.metrics import standard_error
from evaluation.published import TEST_IMAGES, Reported, reported
from evaluation.tables import comparison_key, plus_minus
from runtime.hparams import non_default_options, run_options
from runtime.run_folder import run_name

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def with_comparisons(
    results: Sequence[dict], checkpoints: Sequence[dict], computed: Mapping[str, np.ndarray] = NOTHING
) -> list[dict]:
    """Results with what they are compared with: the runs of their kind before them, image by image, and papers.

    Differences, in `versus` and for the first run in `versus_first`, have a much smaller standard error than either
    likelihood, for an image that is hard for one model is hard for another. They are taken where images and K are the
    same. `options` are those that a run was trained with, other than by default.

    Args:
        results: As `evaluate.evaluate` gives them; it has kept their per-image values.
        checkpoints: Theirs.
        computed: Per-image values by the paths of checkpoints; those of others are read from their run folders.
    """
    found, before = [], {}
    for result, checkpoint in zip(results, checkpoints, strict=True):
        more = published_reference(result, checkpoint) | {"options": non_default_options(checkpoint)}
        if result["nll"] is not None:
            alike = before.setdefault((comparison_key(result), result["num_samples"]), [])
            values = computed.get(result["checkpoint"])
            values = log_px(result) if values is None else values
            versus = {
                run_name(other): paired_difference(values, theirs) for other, theirs in alike if values is not None
            }
            if first := next(iter(versus.values()), None):
                more |= {"versus": versus, "versus_first": first["nll"], "versus_first_se": first["se"]}
            alike += [(result, values)] if values is not None else []
        found.append(result | more)
    return found


def log_px(result: dict) -> np.ndarray | None:
    """The per-image values of a result, `(N,)`, if there is a file of them that is still its own."""
    path = Path(result["checkpoint"])
    options = {"K": result["num_samples"], "images": result.get("images_hash"), "precision": result.get("precision")}
    for file in (cache_path(path, "likelihoods", options), cache_path(path, "likelihoods")):
        try:
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as content:
                values = content["log_px"]
            # another process may have evaluated it meanwhile, with other weights
            if len(values) == result["num_images"] and np.isclose(-values.mean(), result["nll"], rtol=1e-9):
                return values
        except Exception:  # zipfile and numpy raise many kinds; each means that there is no such file
            continue
    return None


def paired_difference(values: np.ndarray, others: np.ndarray) -> dict[str, float | None]:
    """The NLL of values log p(x) minus that of others of the same images, with its standard error."""
    less = others - values
    return {"nll": less.mean().item(), "se": standard_error(less)}


def published_reference(result: dict, checkpoint: dict) -> dict:
    """What a paper reports for such a run, and how far the result is from it; or how the nearest experiment differs.

    A published number is called `paper_nll` or `paper_error` where all that decides its comparability agrees with the
    run, and otherwise `nearest_nll` or `nearest_error`, with `paper_differences`. `paper_remark` is the note below a
    table, `words` what a report says in the row of the run.
    """
    for key, paper in reported(checkpoint).items():
        if result[key] is None:
            continue
        how = f"K = {paper.K}" if paper.K else "mean over draws of labels" if key == "test_error" else ""
        epochs = f"{paper.epochs} epochs" if paper.epochs else ""
        source = ", ".join(filter(None, [paper.source, how, epochs]))
        name = f"{'nearest' if paper.differences else 'paper'}_{'nll' if key == 'nll' else 'error'}"
        found = {name: paper.value, f"{name}_se": paper.se, "paper_source": source, "paper_epochs": paper.epochs}
        made = conditions(result, checkpoint, paper)
        if not paper.differences:
            return found | {"paper_remark": f"{source}; {made}", "words": describe(result, key, paper, made)}
        differs = "; ".join(paper.differences)
        value = f"{paper.value:.2f}" if key == "nll" else plus_minus(paper.value, paper.se, ".2%")
        nearest = f"no published number agrees in all; nearest: {value} ({source})"
        return found | {
            "paper_differences": differs,
            "paper_remark": f"{nearest}, with {differs}; {made}",
            "words": f"nearest: {value}, with {differs}; {made}",
        }
    return {}


def conditions(result: dict, checkpoint: dict, paper: Reported) -> str:
    """How a run was trained and evaluated beside a paper's: "2 epochs of the paper's 3280; K = 50, not 5000".

    The test errors of papers are means over draws of labels, and a run has one.
    """
    trained = run_options(checkpoint)
    size = trained["data.batch_size"] * trained["trainer.accumulate_grad_batches"]
    size *= checkpoint["run"].get("processes", 1)  # each has batches of its own
    epochs = "1 epoch" if result["epochs"] == 1 else f"{result['epochs']} epochs"
    said = epochs + (f" of the paper's {paper.epochs}" if paper.epochs else "")
    said += f", in batches of {size}, not {paper.batch_size}" if paper.batch_size not in (None, size) else ""
    if paper.quantity == "test_error":
        return f"{said}; one draw of labels"
    said += f"; K = {result['num_samples']}, not {paper.K}" if paper.K not in (None, result["num_samples"]) else ""
    return said + (f"; on {result['num_images']} images" if result["num_images"] < TEST_IMAGES else "")


def describe(result: dict, key: str, paper: Reported, made: str) -> str:
    """How far a result is from a paper's, and how it was made, from `conditions`."""
    difference = result[key] - paper.value
    amount = f"{abs(difference):.2f} nats" if key == "nll" else f"{abs(difference):.2%}"
    return f"{amount} {'above' if difference > 0 else 'below'}, after {made}"
