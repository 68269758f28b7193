"""What issue 5 asks of the rows that benchmarks/speed.py measures: of two CPU cores, or of an accelerator."""

from collections.abc import Sequence
from typing import Any

LARGE = 1_000_000
"""Parameters from which an accelerator's step may cost little more than its gradient."""
WIDE = 16_384
"""Chains of `tms` that an accelerator runs in one program."""

CPU = (
    ("tms", "ratio_to_devinterp_tensor", 100, 1),
    ("tms", "ratio_to_gradient", 1.6, -1),
    ("dln", "ratio_to_devinterp_tensor", 50, 1),
    ("dln", "ratio_to_gradient", 2.2, -1),
    ("mlp", "ratio_to_devinterp_tensor", 1.4, 1),
    ("mlp", "share_of_floors", 0.8, 1),
)
"""(case, field of SGLD's row, limit, 1 for at least or -1 for at most)."""

Bar = dict[str, Any]
"""bar: its name; value; limit, or None where the value is only to be told; at: "least" or "most"; met, or None."""


def bars(rows: Sequence[dict[str, Any]], platform: str, compiling: Sequence[dict[str, Any]] = ()) -> list[Bar]:
    """What these rows (records of large.py among them) and those of compiling.py are held to on a platform of JAX."""
    return [*(_cpu(rows) if platform == "cpu" else _accelerator(rows)), *_compiling(compiling)]


def line(bar: Bar) -> str:
    """One line of the list."""
    said = f"{bar['bar']}: {bar['value']:.3g}"
    if bar["met"] is None:
        return f"    {said}"
    return f"{'ok' if bar['met'] else 'NO':3s} {said}, at {bar['at']} {bar['limit']:g}"


def _cpu(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    by_name = {(row["case"], row["sampler"]): row for row in rows}
    found = []
    for case, field, limit, sign in CPU:
        value = by_name.get((case, "SGLD"), {}).get(field)
        if value is not None:
            found.append(_bar(f"{case} {field}", value, limit, sign))
    for row in rows:
        found.append(_bar(f"{row['case']} {row['sampler']} compile_s", row["compile_s"], 3.0, -1))
        ratio = row.get("equal_bias", {}).get("hmc_over_sgld")
        if ratio is not None:
            found.append(_bar(f"{row['case']} ESS/s, HMC over SGLD", ratio, 3.0, 1))
    return found


def _accelerator(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    found = []
    for row in rows:
        name = f"{row['case']} {row['sampler']}"
        if row["parameters"] >= LARGE:
            found.append(_bar(f"{name} ratio_to_gradient", row["ratio_to_gradient"], 1.3, -1))
        if row["case"] == "wide":
            found.append(_bar(f"{name} chains in one program", row["chains"], WIDE, 1))
            found.append(_bar(f"{name} share_of_roofline", row["share_of_roofline"], None, 1))
    return found


def _compiling(records: Sequence[dict[str, Any]]) -> list[Bar]:
    demos = [row for row in records if "demo_cold_s" in row]
    found = [_bar(f"{row['config']} demo_cold_s", row["demo_cold_s"], 20.0, -1) for row in demos]
    by_cells = {row["cells"]: row["compile_s"] for row in records if "cells" in row}
    if len(by_cells) > 1:
        few, many = min(by_cells), max(by_cells)
        # the program is the same but for a shape: what is above 1 is the timing's own noise
        found.append(_bar(f"compile_s, {many} over {few} cells", by_cells[many] / by_cells[few], 1.5, -1))
    return found


def _bar(name: str, value: float, limit: float | None, sign: int) -> Bar:
    met = None if limit is None else sign * value >= sign * limit
    return {"bar": name, "value": value, "limit": limit, "at": "least" if sign > 0 else "most", "met": met}
