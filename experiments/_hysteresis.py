"""The loop between sweeps of t up and down at several speeds, as a measure of a run, a figure and quantities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from slt.measure.hysteresis import hysteresis
from slt.model import Truth
from slt.plots import draw
from slt.typing import InputError, Quantity

from . import _shared


@dataclass(frozen=True)
class Hysteresis:
    """`slt.hysteresis` of a part's model between the ends of t; control: values of its controls, else as they stand."""

    t: Sequence[float]
    control: Mapping[str, float] = field(default_factory=dict)
    between: tuple[str, str] | None = None
    moves: Sequence[int] = (8, 16, 32, 64, 128)
    chains: int = 128
    part: str = "main"

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for what `slt.hysteresis` would refuse."""
        model = _shared.sweep_of(parts, self.part).model.bind(self.control)
        _shared.finite(self, "t", positive=True)
        _shared.whole(self, moves=1, chains=8)
        for name, few in (("t", 2), ("moves", 3)):
            if len(set(getattr(self, name))) < few:
                raise InputError(name, getattr(self, name), f"needs at least {few} different values")
        known = (model.truth() or Truth()).phases
        for name in self.between or ():
            if known is not None:
                known.index(name)

    def __call__(self, site: Any) -> xr.Dataset:
        model = site.parts[self.part].job.model.bind(self.control)

        def make() -> dict[str, np.ndarray]:
            found = hysteresis(
                model, t=self.t, between=self.between, moves=self.moves, chains=self.chains, key=site.key
            )
            return {
                "share": found.share,
                "t": found.t,
                "rate": found.rate,
                "crossing": np.stack([*found.up[:2], *found.down[:2], *found.width[:2]]),
                "slow": np.array(found.slow[:2]),
                "words": np.array([*found.names, str(found)]),
            }

        one = site.once("loop", make)
        names = ("up", "up_stderr", "down", "down_stderr", "width", "width_stderr")
        parts: dict[str, Any] = {name: (("rate",), row) for name, row in zip(names, one["crossing"], strict=True)}
        parts |= {"share": (("rate", "way", "t"), one["share"]), "slow": (("number",), one["slow"])}
        a, b, verdict = (str(each) for each in one["words"])
        coords = {"rate": one["rate"], "way": ["up", "down"], "t": one["t"], "number": ["value", "stderr"]}
        return xr.Dataset(parts, coords, {"a": a, "b": b, "verdict": verdict})


def quantities(run: Any) -> dict[str, Quantity]:
    """hysteresis[a->b], the width of the loop in e-folds of t over the speed; hysteresis_open[a->b], whether it stays
    open in the limit of slow sweeps (1, 0; NaN where too few sweeps came over to tell), and its width there if known.
    """
    if "hysteresis" not in run.measures:
        return {}
    one = run.measures["hysteresis"]
    name = f"[{one.attrs['a']}->{one.attrs['b']}]"
    value, stderr = one["slow"].values
    stays = np.nan if np.isnan(value) else float(value - 2 * stderr > 0)
    rate = {"rate": one["rate"].values.tolist()}
    found = {
        f"hysteresis{name}": Quantity(one["width"].values, one["width_stderr"].values, rate),
        f"hysteresis_open{name}": Quantity(np.array(stays), np.array(np.nan), {}),
    }
    if np.isfinite(value):
        found[f"hysteresis_slow{name}"] = Quantity(np.array(value), np.array(stderr), {})
    return found


@draw.styled
def figure(run: Any, critical: float = float("nan")) -> Figure | None:
    """Shares along the sweeps, fast to slow, and the width of the loop over the speed. critical: where F are equal."""
    if "hysteresis" not in run.measures:
        return None
    one = run.measures["hysteresis"]
    b, t, rate = one.attrs["b"], one["t"].values, one["rate"].values
    caption = (
        f"Left: share of chains in {b} while t rises (solid, started in {one.attrs['a']}) and falls (dashed), from "
        f"fast (light) to slow (dark) sweeps. Right: width of the loop over the speed ({draw.ERRORS})."
    )
    sheet, axes = draw.sheet(draw.PAGE, 2.6, 1, 2, caption)
    left, right = axes[0]
    for number, shade in enumerate(np.linspace(0.75, 0.0, len(rate))):
        for way, line in (("up", "-"), ("down", "--")):
            label = f"{way}, {rate[number]:.1g}" if number in (0, len(rate) - 1) else None
            left.plot(t, one["share"].sel(way=way).values[number], line, color=str(shade), label=label)
    if np.isfinite(critical):
        left.axvline(critical, color="black", lw=0.8, ls=":")
    left.set(xscale="log", xlabel=draw.AXES["t"], ylabel=f"share of chains in {b}", ylim=(-0.02, 1.02))
    left.legend(title="way, e-folds a move", fontsize=7)
    known = np.isfinite(one["width"].values)
    if known.any():
        right.errorbar(
            rate[known],
            one["width"].values[known],
            one["width_stderr"].values[known],
            ls="none",
            marker="o",
            color="C0",
        )
    value, stderr = one["slow"].values
    if np.isfinite(value):
        right.errorbar(
            [0], [value], [stderr], ls="none", marker="s", color=draw.STYLES[1].colour, label="limit of slow sweeps"
        )
        right.legend()
    elif np.isinf(value):
        right.text(0.5, 0.5, "open at every speed", transform=right.transAxes, ha="center")
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="speed (e-folds of $t$ a move)", ylabel=r"width of the loop, $\log(t_{up}/t_{down})$")
    return sheet
