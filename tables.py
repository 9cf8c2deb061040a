"""Results of evaluate.py as tables, one for each kind of result, and what there is to say about their numbers."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

DOUBTFUL = 0.1  # share of images whose k-hat is too high, from which on a sentence says so


def run_folder(path: Path) -> Path:
    """The run folder of a checkpoint."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def run_name(result: dict) -> str:
    """The run folder, and which of its checkpoints where that is not the best."""
    path = Path(result["checkpoint"])
    return f"{run_folder(path)}" if path.stem == "best" else f"{run_folder(path)} ({path.stem})"


def plus_minus(mean: float, se: float | None, form: str) -> str:
    """A mean and its standard error, where there is one; `form` may ask for a plus, which is the mean's."""
    return f"{mean:{form}}" + (f" ± {se:{form.lstrip('+')}}" if se is not None else "")


# Each with the key of a result without which its cell is empty
COLUMNS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "run": ("checkpoint", run_name),
    "model": ("model", lambda r: r["model"]),
    "NLL ± SE": ("nll", lambda r: plus_minus(r["nll"], r["nll_se"], ".2f")),
    "bf16 - fp32": ("bf16_bias", lambda r: plus_minus(r["bf16_bias"], r["bf16_bias_se"], ".4f")),
    "K": ("num_samples", lambda r: str(r["num_samples"])),
    "to the first": ("versus_first", lambda r: plus_minus(r["versus_first"], r["versus_first_se"], "+z.2f")),
    "paper": ("paper_nll", lambda r: f"{r['paper_nll']:.2f} [{r['note']}]"),
    "AIS NLL ± SE (images)": (
        "ais_nll",
        lambda r: f"{plus_minus(r['ais_nll'], r['ais_nll_se'], '.2f')} ({r['ais_images']})",
    ),
    "AIS - NLL": ("ais_lowers_nll", lambda r: plus_minus(-r["ais_lowers_nll"], r["ais_lowers_nll_se"], "+z.2f")),
    "AIS gap": ("ais_gap", lambda r: plus_minus(r["ais_gap"], r["ais_gap_se"], "z.2f")),
    "ELBO": ("elbo", lambda r: f"{r['elbo']:.2f}"),
    "rate": ("rate", lambda r: f"{r['rate']:.2f}"),
    "distortion": ("distortion", lambda r: f"{r['distortion']:.2f}"),
    "active units": ("active_units_per_layer", lambda r: "+".join(map(str, r["active_units_per_layer"]))),
    "ESS": ("ess_median", lambda r: f"{r['ess_median']:.1f}"),
    "k-hat > 0.7": ("k_hat_above", lambda r: f"{r['k_hat_above']:.0%}"),
    "loss": ("loss", lambda r: f"{r['loss']:.2f}"),
    "5-NN": ("knn_error", lambda r: f"{r['knn_error']:.2%}"),
    "linear": ("probe_error", lambda r: f"{r['probe_error']:.2%}"),
    "test error": ("test_error", lambda r: f"{r['test_error']:.2%}"),
    "paper's": ("paper_error", lambda r: f"{plus_minus(r['paper_error'], r['paper_error_se'], '.2%')} [{r['note']}]"),
}


class Kind(NamedTuple):
    """What a result is about. Results of different kinds are never compared in one table.

    Args:
        about: The quantity, or the criterion of a model without a likelihood.
        data: The data set, and how its images differ from those published.
        protocol: Which pixels the model is given.
        num_images: Test images.
        file: Of data that have no name of their own. Not to be shown: where data lie is nobody's business.
    """

    about: str
    data: str
    protocol: str
    num_images: int
    file: str


def kind(result: dict) -> Kind:
    """The kind of a result."""
    file = str(result["data_root"]) if result["data"] == "NPZ" else ""
    data = " ".join(filter(None, [result["data"], Path(file).name, result["variant"]]))
    about = result["quantity"] or f"{result['criterion']}, summed over pixels,"
    return Kind(about, data, result["protocol"], result["num_images"] or 0, file)


def rows(result: dict) -> list[dict]:
    """The row of a model, and those of the classifiers beside it, which have nothing but a test error."""
    baselines = (result["baselines"] or {}).items()
    return [
        result,
        *({"checkpoint": result["checkpoint"], "model": name, "test_error": error} for name, error in baselines),
    ]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def title(results: Sequence[dict]) -> str:
    """What the numbers of a table are, from results of one kind."""
    about, data, protocol, num_images, _ = kind(results[0])
    classified = max(result["test_error_images"] or 0 for result in results)
    error = f"; errors of {classified} test images" if classified else ""
    unit = "; nats per image" if results[0]["quantity"] else " (no likelihood)"
    return f"{data}, protocol {protocol}: {about} of {num_images} test images{unit}{error}"


class Table(NamedTuple):
    """Results of one kind: what they are, cells as text under their columns, and remarks."""

    title: str
    columns: list[str]
    lines: list[list[str]]
    remarks: list[str]


def by_kind(results: Sequence[dict]) -> list[Table]:
    """One table for each quantity, data set, protocol and number of images."""
    found = []
    for _, group in groupby(sorted(results, key=kind), key=kind):
        group = list(group)
        sources = list(dict.fromkeys(source for result in group if (source := result.get("paper_source"))))
        listed = [
            row | {"note": sources.index(row["paper_source"]) + 1 if row.get("paper_source") else None}
            for result in group
            for row in rows(result)
        ]
        columns = [name for name, (key, _) in COLUMNS.items() if any(row.get(key) is not None for row in listed)]
        lines = [
            [cell(row) if row.get(key) is not None else "-" for key, cell in map(COLUMNS.get, columns)]
            for row in listed
        ]
        remarks = (
            [f"[{number}] {source}" for number, source in enumerate(sources, 1)] + failures(group) + warning(group)
        )
        found.append(Table(title(group), columns, lines, remarks))
    return found


def failures(results: Sequence[dict]) -> list[str]:
    """A sentence for each run that has learned nothing: a collapsed posterior, or a likelihood worse than the mean."""
    said = []
    for result in results:
        nll, pixels = result.get("nll"), result.get("pixels_nll")
        # a collapsed model is as good as the mean image, and chance may leave it a little behind
        if nll is not None and pixels is not None and nll > pixels + max(1.0, 0.01 * abs(pixels)):
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
    """A sentence where importance-sampled likelihoods should not be trusted, and by how much AIS moves them."""
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
        return [f"{said} evaluate.py --ais says how far."]
    by = [f"{plus_minus(r['ais_lowers_nll'], r['ais_lowers_nll_se'], 'z.2f')} ({run_name(r)})" for r in moved]
    return [f"{said} AIS lowers it by {', '.join(by)} nats on the images that it was run on."]


def tables(results: Sequence[dict]) -> str:
    """All results as text: their tables, and those of content and pose."""
    parts = []
    for table in by_kind(results):
        parts += [table.title, *aligned([table.columns, *table.lines]), *table.remarks, ""]
    return "\n".join([*parts, *disentangled(results)])


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


def disentangled(results: Sequence[dict]) -> list[str]:
    """The lines of tables of how well models tell content from pose, one for each data set and its moves."""

    def about(result: dict) -> str:
        data, protocol = kind(result)[1:3]
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
        parts += [what, *aligned([("run", "model", *MEASURES), *lines]), ""]
    return parts
