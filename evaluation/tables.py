"""Results of evaluate.py as tables, one for each kind of result, and what there is to say about their numbers."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cli.terminal import FILE, Screen, lay_out, number, wrapped
from runtime.run_folder import run_name

LEAST_IMAGES = 50  # to judge a run by: a handful of images may be harder than most
SHORT = 1000  # optimiser steps: until about then the posterior is as narrow as it was initialised, which costs rate
FAR = 10  # times the NLL of the mean image: farther from it no healthy run begins
DOUBTFUL = 0.1  # share of images whose k-hat is too high, from which on a sentence says so


def plus_minus(mean: float, se: float | None, form: str) -> str:
    """A mean and its standard error, where there is one; `form` may ask for a plus, which is the mean's."""
    return number(mean, form) + (f" ± {number(se, form.lstrip('+'))}" if se is not None else "")


def nll(result: dict) -> str:
    """The NLL of a model that has one; what is not finite is null in evaluation.json."""
    return "not finite" if result["nll"] is None else plus_minus(result["nll"], result["nll_se"], ".2f")


# Each with the key of a result without which its cell is empty
COLUMNS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "run": ("checkpoint", run_name),
    "model": ("model", lambda r: r["model"]),
    "NLL ± SE": ("quantity", nll),
    "bf16 - fp32": ("bf16_bias", lambda r: plus_minus(r["bf16_bias"], r["bf16_bias_se"], ".4f")),
    "K": ("num_samples", lambda r: str(r["num_samples"])),
    "to the first": ("versus_first", lambda r: plus_minus(r["versus_first"], r["versus_first_se"], "+z.2f")),
    "paper": ("paper", lambda r: r["paper"]),
    "AIS NLL ± SE (images)": (
        "ais_nll",
        lambda r: f"{plus_minus(r['ais_nll'], r['ais_nll_se'], '.2f')} ({r['ais_images']})",
    ),
    "AIS - NLL": ("ais_lowers_nll", lambda r: plus_minus(-r["ais_lowers_nll"], r["ais_lowers_nll_se"], "+z.2f")),
    "AIS gap": ("ais_gap", lambda r: plus_minus(r["ais_gap"], r["ais_gap_se"], "z.2f")),
    "ELBO": ("elbo", lambda r: number(r["elbo"], ".2f")),
    "rate": ("rate", lambda r: number(r["rate"], ".2f")),
    "distortion": ("distortion", lambda r: number(r["distortion"], ".2f")),
    "active units": ("active_units_per_layer", lambda r: "+".join(map(str, r["active_units_per_layer"]))),
    "ESS": ("ess_median", lambda r: f"{r['ess_median']:.1f}"),
    "k-hat > 0.7": ("k_hat_above", lambda r: f"{r['k_hat_above']:.0%}"),
    "loss": ("loss", lambda r: number(r["loss"], ".2f")),
    "5-NN": ("knn_error", lambda r: f"{r['knn_error']:.2%}"),
    "linear": ("probe_error", lambda r: f"{r['probe_error']:.2%}"),
    "test error": ("test_error", lambda r: f"{r['test_error']:.2%}"),
    "paper's": ("paper's", lambda r: r["paper's"]),
}


# Of a table that is too wide for the terminal, the first of these are shown
IMPORTANCE = ("run", "NLL ± SE", "loss", "test error", "model", "K", "to the first", "paper", "paper's",
              "AIS NLL ± SE (images)", "active units", "ELBO", "k-hat > 0.7", "AIS - NLL", "5-NN", "linear", "rate",
              "distortion", "ESS", "bf16 - fp32", "AIS gap")  # fmt: skip


class ComparisonKey(NamedTuple):
    """What a result is about. Results of different kinds are never compared in one table.

    Args:
        about: The quantity, or the criterion of a model without a likelihood.
        data: The data set, and how its images differ from those published.
        protocol: Which pixels the model is given.
        num_images: Test images.
        images: The hash of these images. Where data lie says nothing: files are moved, copied, and their paths written
            in many ways.
    """

    about: str
    data: str
    protocol: str
    num_images: int
    images: str


def comparison_key(result: dict) -> ComparisonKey:
    """The kind of a result."""
    # results of older versions have no hash where there is no likelihood
    images = result.get("images_hash") or (str(result.get("data_root")) if result["data"] == "NPZ" else "")
    data = " ".join(filter(None, [result["data"], result["variant"]]))
    about = result["quantity"] or f"{result['criterion']}, summed over pixels,"
    return ComparisonKey(about, data, result["protocol"], result["num_images"] or 0, images)


def data_name(results: Sequence[dict]) -> str:
    """The data of results of one kind, with the names of their files if they have no name of their own.

    The folders are not shown: where data lie is nobody's business.
    """
    first = results[0]
    roots = [Path(str(result["data_root"])).name for result in results if result.get("data_root")]
    files = ", ".join(dict.fromkeys(roots)) if first["data"] == "NPZ" else ""
    return " ".join(filter(None, [first["data"], files, first["variant"]]))


def rows(result: dict) -> list[dict]:
    """The row of a model, and those of the classifiers beside it, which have nothing but a test error."""
    baselines = (result["baselines"] or {}).items()
    return [
        result,
        *({"checkpoint": result["checkpoint"], "model": name, "test_error": error} for name, error in baselines),
    ]


def title(results: Sequence[dict]) -> str:
    """What the numbers of a table are, from results of one kind."""
    about, _, protocol, num_images, _ = comparison_key(results[0])
    classified = max(result["test_error_images"] or 0 for result in results)
    error = f"; errors of {classified} test images" if classified else ""
    unit = "; nats per image" if results[0]["quantity"] else " (no likelihood)"
    return f"{data_name(results)}, protocol {protocol}: {about} of {num_images} test images{unit}{error}"


class Table(NamedTuple):
    """Results of one kind: what they are, cells as text under their columns, and remarks."""

    title: str
    columns: list[str]
    lines: list[list[str]]
    remarks: list[str]


def tables_by_key(results: Sequence[dict]) -> list[Table]:
    """One table for each quantity, data set, protocol and number of images."""
    found = []
    for _, group in groupby(sorted(results, key=comparison_key), key=comparison_key):
        group = list(group)
        notes = list(dict.fromkeys(note for result in group if (note := result.get("paper_remark"))))
        listed = [row | paper_cell(row, notes) for result in group for row in rows(result)]
        columns = [name for name, (key, _) in COLUMNS.items() if any(row.get(key) is not None for row in listed)]
        lines = [
            [cell(row) if row.get(key) is not None else "-" for key, cell in map(COLUMNS.get, columns)]
            for row in listed
        ]
        remarks = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
        remarks += failures(group) + warning(group)
        found.append(Table(title(group), columns, lines, remarks))
    return found


def paper_cell(row: dict, notes: Sequence[str]) -> dict[str, str]:
    """The cell of a published number under the name of its column: a dash and a note where it is not comparable."""
    if not row.get("paper_remark"):
        return {}
    note = f"[{notes.index(row['paper_remark']) + 1}]"
    if "paper_nll" in row or "nearest_nll" in row:
        return {"paper": f"{row['paper_nll']:.2f} {note}" if "paper_nll" in row else f"- {note}"}
    comparable = "paper_error" in row
    return {"paper's": f"{plus_minus(row['paper_error'], row['paper_error_se'], '.2%') if comparable else '-'} {note}"}


def margin(result: dict) -> float:
    """By how much an NLL must be worse than that of the mean image to be a sign of failure, in nats."""
    unsure = (result.get("step") or SHORT) < SHORT or result["num_images"] < LEAST_IMAGES
    # a collapsed model is as good as the mean image, and chance may leave it a little behind
    return max(1.0, (FAR if unsure else 0.01) * abs(result["pixels_nll"]))


def failures(results: Sequence[dict]) -> list[str]:
    """A sentence for each run that has learned nothing: a collapsed posterior, or a likelihood worse than the mean.

    Of a run of a few epochs only a likelihood that is far worse says so: it begins behind the mean image.
    """
    said = []
    for result in results:
        nll, pixels = result.get("nll"), result.get("pixels_nll")
        if nll is not None and pixels is not None and nll > pixels + margin(result):
            said.append(
                f"Training has failed ({run_name(result)}): its NLL is worse than {pixels:.2f}, that of the mean "
                "training image with independent pixels. Train longer, or with a lower --model.lr."
            )
        if result.get("active_units") == 0:
            said.append(
                f"The posterior has collapsed ({run_name(result)}): no latent unit is active, and nothing about an "
                "image reaches the decoder."
            )
    return said


def warning(results: Sequence[dict]) -> list[str]:
    """A sentence where importance-sampled likelihoods should not be trusted, and how much at least AIS finds beyond."""
    doubtful = [result for result in results if (result.get("k_hat_above") or 0) > DOUBTFUL]
    if not doubtful:
        return []
    most = max(doubtful, key=lambda result: result["k_hat_above"])
    said = (
        f"Pareto k-hat is above 0.7 for up to {most['k_hat_above']:.0%} of the images ({run_name(most)}): K = "
        f"{most['num_samples']} samples are too few for them, and the NLL, a bound from above, would fall with more."
    )
    moved = [result for result in doubtful if result.get("ais_nll") is not None]
    if not moved:
        return [f"{said} evaluate.py --ais says by how much at least."]
    found = ", ".join(found_by_ais(result) for result in moved)
    return [f"{said} AIS, itself a lower bound on log p(x), finds {found} on the images that it was run on."]


def found_by_ais(result: dict) -> str:
    """How much more log p(x) AIS finds than importance sampling; less than two standard errors count as none."""
    mean, se = result["ais_lowers_nll"], result["ais_lowers_nll_se"]
    by = f"{plus_minus(mean, se, 'z.2f')} nats"
    if mean <= 2 * (se or 0):
        return f"no more with these chains ({by}, {run_name(result)})"
    return f"at least {by} more ({run_name(result)})"


def tables(results: Sequence[dict], screen: Screen = FILE) -> str:
    """All results as text for a screen: their tables, and those of content and pose."""
    parts = []
    for table in tables_by_key(results):
        parts += wrapped(table.title, screen)
        parts += lay_out(table.columns, table.lines, screen, IMPORTANCE)
        parts += [line for remark in table.remarks for line in wrapped(remark, screen)]
        parts.append("")
    return "\n".join([*parts, *disentangled(results, screen)])


# Each measure of content and pose with its key and how it is written
MEASURES: dict[str, tuple[str, str]] = {
    "angle r": ("angle_correlation", ".3f"),
    "shift r": ("shift_correlation", ".3f"),
    "scale r": ("scale_correlation", ".3f"),
    "change r": ("change_correlation", ".3f"),
    "equivariance (°)": ("equivariance_error", ".1f"),
    "canonical var.": ("canonical_variance", ".2f"),
    "reconstr. var.": ("reconstruction_variance", ".2f"),
    "k-means": ("kmeans_accuracy", ".2%"),
    "angle R²": ("angle_r2", ".3f"),
}


def disentangled(results: Sequence[dict], screen: Screen = FILE) -> list[str]:
    """The lines of tables of how well models tell content from pose, one for each data set and its moves."""

    def about(result: dict) -> str:
        data, protocol = data_name([result]), result["protocol"]
        moved = "" if result["variant"] else f", {result['moved']} for this"
        return f"{data}, protocol {protocol}: content and pose of all test images{moved}"

    found = sorted((result for result in results if result["disentanglement"]), key=about)
    parts = []
    for what, group in groupby(found, key=about):
        measured = [(result, result["disentanglement"]) for result in group]
        lines = [
            [run_name(result), result["model"]]
            + [f"{values[key]:{form}}" if values.get(key) is not None else "-" for key, form in MEASURES.values()]
            for result, values in measured
        ]
        parts += [*wrapped(what, screen), *lay_out(("run", "model", *MEASURES), lines, screen), ""]
    return parts
