"""Results of evaluations as text."""

from itertools import groupby
from pathlib import Path


def run_folder(path: Path) -> Path:
    """The run folder of a checkpoint."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def decimals(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def name(result: dict) -> str:
    """The run folder, and which of its checkpoints where that is not the best."""
    path = Path(result["checkpoint"])
    return f"{run_folder(path)}" if path.stem == "best" else f"{run_folder(path)} ({path.stem})"


COLUMNS = {
    "run": name,
    "model": lambda r: r["model"],
    "NLL ± SE": lambda r: f"{decimals(r['nll'])} ± {decimals(r['nll_se'])}",
    "K": lambda r: str(r["num_samples"]),
    "ELBO": lambda r: decimals(r["elbo"]),
    "rate": lambda r: decimals(r["rate"]),
    "distortion": lambda r: decimals(r["distortion"]),
    "active units": lambda r: "+".join(map(str, r["active_units_per_layer"] or "-")),
    "ESS": lambda r: decimals(r["ess_median"], 1),
}
COLUMNS_WITHOUT_LIKELIHOOD = {"run": name, "model": COLUMNS["model"], "loss": lambda r: decimals(r["loss"])}


def title(result: dict) -> str:
    """What the numbers of a result are. Results with different titles are never compared in one table."""
    data = f"NPZ {result['data_root']}" if result["data"] == "NPZ" else result["data"]
    if result["quantity"]:
        about = f"{result['quantity']} of {result['num_images']} test images; nats per image"
    else:
        about = f"no likelihood; {result['criterion']} of test images, summed over pixels"
    return f"{data}, protocol {result['protocol']}: {about}"


def tables(results: list[dict]) -> str:
    """All results as text: one table for each quantity, data set, protocol and number of images."""
    parts = []
    for heading, group in groupby(sorted(results, key=title), key=title):
        results_of_kind = list(group)
        columns = COLUMNS if results_of_kind[0]["quantity"] else COLUMNS_WITHOUT_LIKELIHOOD
        lines = [list(columns), *([cell(result) for cell in columns.values()] for result in results_of_kind)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append(heading)
        parts += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        parts.append("")
    return "\n".join(parts)
