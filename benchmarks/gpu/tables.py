"""Results of `python -m benchmarks.gpu` as Markdown."""

from typing import Any

HEADER = """# Measured by `python -m benchmarks.gpu`

{machine}

One run each, without repetitions. `images_per_s` is of the training steps, timed from the start of an epoch to its
validation, with the GPU synchronised at both ends: the median over epochs without the first.
`whole_epoch_images_per_s` is of everything from one epoch to the next, with validation and checkpoint. `peak_mib` is
the memory that tensors of this process take at most, `reserved_mib` that of torch's allocator.
"""
LAST = ("options", "seconds", "peak_mib", "reserved_mib")  # columns on the right


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return one table for each group of results, with a column for each value.

    Args:
        facts: Machine, versions and command.
        rows: Results of the jobs in their order.
    """
    parts = [HEADER.format(machine=", ".join(f"{name} {value}" for name, value in facts.items()))]
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        parts.append(f"## {group}\n\n{table(members)}\n")
    return "\n".join(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of one group as a Markdown table."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("group", "name"))
    columns = [name for name in names if name not in LAST] + [name for name in LAST if name in names]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {row['name']} | {' | '.join(text(row.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def text(value: Any) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|")
