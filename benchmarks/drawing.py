"""The figures of benchmarks/speed.py: a roofline, and how cost grows."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

COLOURS = {"SGLD": "#0072B2", "BAOAB": "#D55E00", "SGNHT": "#009E73", "HMC": "#CC79A7"}  # Okabe and Ito
MARKS = {"tms": "o", "dln": "s", "mlp": "^", "sweep": "D", "wide": "v"}


def roofline(content: dict[str, Any], path: Path) -> None:
    """GFLOP/s of the gradient's own operations, within whole steps, under the peaks of the machine; and the floors."""
    rows, peaks = content["cases"], content["peaks"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    x = np.geomspace(0.02, 300, 200)
    left.plot(x, np.minimum(peaks["matmul_gflops"], x * peaks["memory_gb_per_s"]), color="black", lw=1)
    for row in rows:
        left.plot(
            row["flops"] / row["bytes"], row["gflops"], MARKS.get(row["case"], "x"), color=COLOURS[row["sampler"]], ms=6
        )
    for case in dict.fromkeys(row["case"] for row in rows):
        left.plot([], [], MARKS.get(case, "x"), color="grey", label=case)
    left.set(xscale="log", yscale="log", xlabel="operations per byte of one chain's gradient (XLA's count)")
    left.set(ylabel="GFLOP/s of gradients, in whole steps")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    names = [f"{row['case']} {row['sampler']}" for row in rows]
    at = np.arange(len(rows))
    whole = np.array([row["us"] for row in rows])
    gradient, normals = (np.array([row[f"{part}_us"] for row in rows]) / whole for part in ("gradient", "normals"))
    right.barh(at, gradient, color="#56B4E9", label="gradient alone")
    right.barh(at, normals, left=gradient, color="#E69F00", label="normals alone")
    right.axvline(1, color="black", lw=1)
    right.set(yticks=at, yticklabels=names, xlabel="share of the whole step", xlim=(0, None))
    right.tick_params(axis="y", labelsize=7)
    right.invert_yaxis()
    right.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    _save(fig, path)


def scaling(axes: list[dict[str, Any]], path: Path) -> None:
    """Seconds of one step of all chains (or bytes) against each quantity, with the slope that theory gives."""
    columns = 3
    rows = -(-len(axes) // columns)
    fig, panels = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.9 * rows), layout="constrained", squeeze=False)
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for panel, axis in zip(panels.flat, axes, strict=False):
        for number, (name, line) in enumerate(axis["lines"].items()):
            x, y = np.array(axis["at"]), np.array(line["y"])
            colour = list(COLOURS.values())[number]
            panel.plot(x[: len(y)], y, "o-", color=colour, ms=3, lw=1, label=name)
            if line["slope"] is not None:
                last = y[-1] * (x[: len(y)] / x[len(y) - 1]) ** line["slope"]
                shown = last > y.min() / 3
                panel.plot(x[: len(y)][shown], last[shown], "--", color=colour, lw=0.8)
        panel.set(xscale="log", yscale="log", xlabel=axis["label"], ylabel=axis["unit"])
        panel.legend(frameon=False, fontsize=7)
    _save(fig, path)


def _save(fig: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)
