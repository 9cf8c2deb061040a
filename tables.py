"""Results of evaluations as text."""

from itertools import groupby
from pathlib import Path


def run_folder(path: Path) -> Path:
    """The run folder of a checkpoint."""
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def decimals(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


COLUMNS = {
    "run": lambda r: str(run_folder(Path(r["checkpoint"]))),
    "model": lambda r: r["model"],
    "NLL ± SE": lambda r: f"{decimals(r['nll'])} ± {decimals(r['nll_se'])}",
    "K": lambda r: str(r["num_samples"]),
    "ELBO": lambda r: decimals(r["elbo"]),
    "rate": lambda r: decimals(r["rate"]),
    "distortion": lambda r: decimals(r["distortion"]),
    "active units": lambda r: "+".join(map(str, r["active_units_per_layer"])),
    "ESS": lambda r: decimals(r["ess_median"], 1),
}
COLUMNS_WITHOUT_LIKELIHOOD = {"run": COLUMNS["run"], "model": COLUMNS["model"], "loss": lambda r: decimals(r["loss"])}


def kind(result: dict) -> tuple[str, str, str, int]:
    """What a result is about. Results of different kinds are never compared in one table."""
    data = f"NPZ {result['data_root']}" if result["data"] == "NPZ" else result["data"]
    return result["quantity"] or "", data, result["protocol"], result["num_images"] or 0


def tables(results: list[dict]) -> str:
    """All results as text: one table for each quantity, data set, protocol and number of images."""
    parts = []
    for (quantity, data, protocol, num_images), group in groupby(sorted(results, key=kind), key=kind):
        about = (
            f"{quantity} of {num_images} test images"
            if quantity
            else "reconstruction loss of models without a likelihood"
        )
        columns = COLUMNS if quantity else COLUMNS_WITHOUT_LIKELIHOOD
        lines = [list(columns), *([cell(result) for cell in columns.values()] for result in group)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append(f"{data}, protocol {protocol}: {about}; nats per image")
        parts += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        parts.append("")
    return "\n".join(parts)
