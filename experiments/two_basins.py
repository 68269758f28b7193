"""Two basins on paper: the posterior jumps from the degenerate one to the sharp one, beside exact values.

The number it should show: critical_t[U->V] within 2 per cent of 294.14 (science.md B2), its 90 per cent interval round
it, where leading-order theory says 119.6; a barrier of 1,480 nats there that no local sampler crosses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from slt import plots
from slt.measure.barrier import barrier
from slt.measure.evidence import Budget
from slt.measure.transition import transition
from slt.models import two_basins
from slt.plots import draw
from slt.theory import exact
from slt.typing import Quantity

from . import _hysteresis, _shared

STYLES = draw.palette(["U", "V"]) | {"whole": draw.STYLES[-1]}
WAYS = ("U->V", "V->U")
SAID = {"coexistence": 1.0, "crossover": 0.0}


@dataclass(frozen=True)
class Transition:
    """The crossing of F_U and F_V by `slt.transition`, theory's predictions beside. t: by default about the run's."""

    t: Sequence[float] = ()
    runs: int = 16
    particles: int = 512
    seconds: float = 25.0

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for numbers that cannot be used."""
        _shared.sweep_of(parts, "main")
        if self.t:
            _shared.finite(self, "t", positive=True)
        _shared.whole(self, runs=2, particles=32)
        _shared.finite(self, "seconds", positive=True)

    def __call__(self, site: Any) -> xr.Dataset:
        job = site.parts["main"].job
        t = sorted(self.t) if self.t else site.run.data["main"]["t"].values.tolist()
        if len(t) < 4:  # a run of a few t only: the crossing is sought about them
            t = np.geomspace(min(t) / 3, max(t) * 3, 8).tolist()

        def make() -> dict[str, np.ndarray]:
            found = transition(
                job.model, t=t, exact=exact.two_basins_critical_t(), seconds=self.seconds, key=site.key,
                budget=Budget(runs=self.runs, particles=self.particles),
            )  # fmt: skip
            at = found.critical
            numbers = np.full(4, np.nan) if at is None else np.array([at.value, at.stderr, *at.interval])
            told = {each.name: each.t for each in found.predictions}
            kind = "none" if found.kind is None else found.kind.kind
            return {
                "free_energy": np.asarray(found.free_energy.value),
                "stderr": np.asarray(found.free_energy.stderr),
                "critical": numbers,
                "predicted": np.array(list(told.values())),
                "names": np.array(list(told)),
                "words": np.array([kind, str(found)]),
            }

        one = site.once("crossing", make)
        kind, verdict = (str(each) for each in one["words"])
        parts = {
            "free_energy": (("t", "phase"), one["free_energy"]),
            "stderr": (("t", "phase"), one["stderr"]),
            "critical": (("number",), one["critical"]),
            "predicted": (("theory",), one["predicted"]),
        }
        coords = {
            "t": np.asarray(t, float),
            "phase": ["U", "V"],
            "number": ["value", "stderr", "low", "high"],
            "theory": [str(each) for each in one["names"]],
        }
        return xr.Dataset(parts, coords, {"kind": kind, "verdict": verdict})


@dataclass(frozen=True)
class Barriers:
    """The free-energy profile along w at a few t, its barriers both ways, and escape times of SGLD there."""

    t: Sequence[float] = (1.0, 2.0, 294.14)
    windows: int = 24
    replicates: int = 8
    draws: int = 500
    escape_steps: int = 10_000
    points: int = 401

    def check(self, parts: Mapping[str, Any]) -> None:
        """InputError for numbers that cannot be used."""
        _shared.sweep_of(parts, "main")
        _shared.finite(self, "t", positive=True)
        _shared.whole(self, windows=4, replicates=4, draws=10, escape_steps=0, points=2)

    def __call__(self, site: Any) -> xr.Dataset:
        w = np.linspace(-2, 2, self.points)
        model = site.parts["main"].job.model

        def one(number: int, t: float) -> dict[str, np.ndarray]:
            told = barrier(
                model, order=two_basins.position, between=("U", "V"), t=t, windows=self.windows,
                replicates=self.replicates, draws=self.draws, escape_steps=self.escape_steps,
                key=jax.random.fold_in(site.key, number),
            )  # fmt: skip
            known = np.isfinite(told.value)
            profile = np.interp(w, told.x[known], told.value[known], np.nan, np.nan)
            ways = (told.forward, told.back)
            times = [(np.nan, np.nan, np.nan) if e is None else (e.time.value, e.time.stderr, e.lower) for e in
                     (way.escape for way in ways)]  # fmt: skip
            return {
                "profile": profile,
                "barrier": np.array([[way.barrier.value, way.barrier.stderr] for way in ways], float),
                "escape": np.array(times, float),
            }

        found = [site.once(f"barrier {i}", lambda i=i, t=t: one(i, t)) for i, t in enumerate(self.t)]
        barriers, times = (np.stack([each[name] for each in found]) for name in ("barrier", "escape"))
        numbers = {"barrier": barriers[..., 0], "barrier_stderr": barriers[..., 1]}
        numbers |= {"escape": times[..., 0], "escape_stderr": times[..., 1], "escape_lower": times[..., 2]}
        parts: dict[str, Any] = {name: (("t", "way"), value) for name, value in numbers.items()}
        parts["profile"] = (("t", "w"), np.stack([each["profile"] for each in found]))
        return xr.Dataset(parts, {"t": list(self.t), "way": list(WAYS), "w": w})


def summarise(run: Any) -> dict[str, Quantity]:
    """critical_t[U->V] with its interval, its kind, and what theory predicts, with how far each misses (`miss_`: a part
    of the measured one; the constant term is fitted at the largest t, see `slt.transition`); barriers and escape times
    at their t; hysteresis.
    """
    found: dict[str, Quantity] = {}
    if "transition" in run.measures:
        one = run.measures["transition"]
        value, stderr, low, high = one["critical"].values
        if np.isfinite(value):
            found["critical_t[U->V]"] = Quantity(np.asarray(value), np.asarray(stderr), {}, np.array([low, high]))
        guesses = one["predicted"].values
        found["critical_t_predicted[U->V]"] = Quantity(
            guesses, np.full(guesses.shape, np.nan), {"theory": one["theory"].values.tolist()}
        )
        if np.isfinite(value):
            names = [str(name) for name in one["theory"].values]
            far = zip(names, (guesses / value).tolist(), strict=True)
            found |= {
                f"miss_{name}[U->V]": Quantity(np.array(x - 1), np.array(x * stderr / value), {}) for name, x in far
            }
        found |= _shared.kinds(run, found, lambda part, data, axis: _shared.kept(data, axis, lambda w: w))
        told = found.get("coexistence[U->V]")
        if (told is None or np.isnan(told.value)) and one.attrs["kind"] in SAID:
            found["coexistence[U->V]"] = _shared.known(SAID[one.attrs["kind"]])
    if "barriers" in run.measures:
        one = run.measures["barriers"]
        for way in WAYS:
            for name in ("barrier", "escape"):
                value, stderr = (one[key].sel(way=way).values for key in (name, f"{name}_stderr"))
                value = np.where(np.isfinite(value), value, np.nan)
                found[f"{name}[{way}]"] = Quantity(value, stderr, {"barrier_t": one["t"].values.tolist()})
    return found | _hysteresis.quantities(run)


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    found = {"cartoon": cartoon(run), "mass": mass(run), "free_energy": free_energy(run), "landscape": landscape(run)}
    data = plots.sweeps(run)["main"]
    found |= {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
    found["hysteresis"] = _hysteresis.figure(run, exact.two_basins_critical_t())
    return {name: figure for name, figure in found.items() if figure is not None}


@draw.styled
def cartoon(run: Any) -> Figure | None:
    """The whole story: K, densities at three t, the crossing with its interval and theory's, profiles with barriers."""
    if not {"transition", "barriers"} <= set(run.measures):
        return None
    caption = (
        "Two basins. (a) The landscape. (b) Posterior densities, exact. (c) Difference of the basins' free energies: "
        "exact (line), measured (points, with one standard error), the crossing with its 90 per cent interval (band), "
        "theory's predictions. (d) Free-energy profiles above their lowest point, with the barrier out of U, and the "
        "steps in which SGLD leaves U."
    )
    figure, axes = draw.sheet(draw.PAGE, 4.4, 2, 2, caption)
    (a, b), (c, d) = axes
    w = np.linspace(-2, 2, 4001)
    loss = np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2)
    a.plot(w, loss, color="black")
    for name, at, text in (("U", -1.0, r"$\lambda = 1/4$, $K = 0.01$"), ("V", 1.0, r"$\lambda = 1/2$, $K = 0$")):
        a.annotate(f"${name}$\n{text}", (at, 5.6), color=STYLES[name].colour, ha="center", va="bottom", fontsize=8)
    a.set(xlabel="$w$", ylabel="$K(w)$", ylim=(-0.4, 9))
    critical = exact.two_basins_critical_t()
    for t, style in zip((50.0, critical, 700.0), draw.STYLES[2:5], strict=True):
        density = np.exp(-t * loss + float(exact.two_basins(t).free_energy)) / 4
        b.plot(w, density, color=style.colour, label=f"$t = {t:.0f}$")
    b.set(xlabel="$w$", ylabel="posterior density", yscale="log", ylim=(1e-3, 60))
    b.legend(loc="upper left")
    _crossing(c, run.measures["transition"])
    _profiles(d, run.measures["barriers"])
    for ax, letter in zip((a, b, c, d), "abcd", strict=True):
        ax.set_title(f"({letter})", loc="left")
    return figure


def _crossing(ax: Any, one: xr.Dataset) -> None:
    t = one["t"].values
    fine = _fine(t)
    truth = exact.two_basins(fine)
    ax.plot(fine, truth.free_energy_u - truth.free_energy_v, color="black")
    value = one["free_energy"].values
    gap, error = value[:, 0] - value[:, 1], np.hypot(*one["stderr"].values.T)
    draw.curve(ax, t, gap, error, draw.STYLES[0]._replace(line="none"), rf"measured ({draw.ERRORS})", ls="none")
    ax.axhline(0, color="0.6", lw=0.6)
    at, _, low, high = one["critical"].values
    ends = np.clip(np.nan_to_num([low, high], nan=at, posinf=t[-1], neginf=t[0]), t[0], t[-1])
    ax.axvspan(*ends, color=draw.STYLES[0].colour, alpha=0.3, lw=0)
    looks = {"leading": (1, "leading SLT"), "constant": (2, "with constant"), "laplace": (3, "Laplace")}
    for name, (k, text) in looks.items():
        if name in one["theory"].values and np.isfinite(guess := float(one["predicted"].sel(theory=name))):
            style = draw.STYLES[k]
            ax.axvline(guess, color=style.colour, ls=style.line, lw=0.9, label=f"{text}: {guess:.0f}")
    ax.set(ylabel="$F_U - F_V$ (nats)", ylim=(-2.5, 4))
    draw.label_axis(ax, "t", t)
    ax.set_xlim(0.9 * t[0], 1.1 * t[-1])
    known = [f"{each:.1f}" if np.isfinite(each) else "the grid's end" for each in (low, high)]
    look: dict[str, Any] = {
        "fontsize": 7,
        "title_fontsize": 7,
        "frameon": True,
        "edgecolor": "none",
        "framealpha": 0.85,
    }
    ax.legend(loc="upper left", title=rf"$t_c = {at:.1f}$, 90%: {known[0]} to {known[1]}", **look)


def _profiles(ax: Any, one: xr.Dataset) -> None:
    for i, t in enumerate(one["t"].values):
        style = draw.STYLES[2 + i % 4]
        profile = one["profile"].values[i]
        height = float(one["barrier"].sel(way="U->V").values[i])
        time, lower = (float(one[key].sel(way="U->V").values[i]) for key in ("escape", "escape_lower"))
        steps = f"{time:.3g} steps" if np.isfinite(time) else f"more than {lower:.2g} steps"
        label = f"$t = {t:.4g}$: {height:.4g} nats, {steps}"
        ax.plot(one["w"].values, profile - np.nanmin(profile) + 0.3, color=style.colour, label=label)
    ax.set(xlabel="$w$", ylabel="$F(w) - \\min F + 0.3$ (nats)", yscale="log", ylim=(0.2, 4e5))
    ax.legend(loc="upper left", fontsize=7, title="barrier and escape, $U$ to $V$", title_fontsize=7)


def _fine(t: Any) -> np.ndarray:
    return np.geomspace(min(t), max(t), 300) if len(t) > 1 else np.asarray(t, float)


@draw.styled
def mass(run: Any) -> Figure | None:
    """Mass of V against t over the exact curve, and how far the estimates lie from it."""
    tables = plots.quantities(run)
    if "mass[V]" not in tables:
        return None
    found = tables["mass[V]"]
    t = found["t"].values
    caption = f"Posterior mass of the sharp basin V: exact, and by replica exchange ({draw.ERRORS})."
    figure, axes = draw.sheet(draw.COLUMN, 3.0, 2, 1, caption, sharex=True, height_ratios=[3, 1.2])
    top, below = axes[:, 0]
    top.plot(_fine(t), exact.two_basins(_fine(t)).mass_v, color="black", label="exact")
    look: dict[str, Any] = {"ls": "none", "marker": "o"}
    draw.curve(top, t, found["value"], found["stderr"], STYLES["V"], f"replica exchange, {draw.ERRORS}", **look)
    draw.curve(below, t, found["value"] - exact.two_basins(t).mass_v, found["stderr"], STYLES["V"], **look)
    below.axhline(0, color="black")
    top.axvline(exact.two_basins_critical_t(), color="0.35", lw=0.7, ls=(0, (4, 3)))
    top.annotate(
        r"$t_c$", (exact.two_basins_critical_t(), 1.02), xytext=(3, -2), textcoords="offset points", color="0.35"
    )
    top.set(ylabel="posterior mass of $V$", ylim=(-0.02, 1.05))
    top.legend(loc="upper left")
    below.set_ylabel("difference")
    draw.label_axis(below, "t", t)
    return figure


@draw.styled
def free_energy(run: Any) -> Figure | None:
    """F, and F of each basin as F - log(mass), over the exact curves."""
    tables = plots.quantities(run)
    if "free_energy" not in tables:
        return None
    whole = tables["free_energy"]
    t = whole["t"].values
    truth = exact.two_basins(_fine(t))
    caption = f"Free energies of both basins and of the whole ({draw.ERRORS}); lines: exact."
    figure, axes = draw.sheet(draw.COLUMN, 2.6, 1, 1, caption)
    ax = axes[0, 0]
    curves = {"whole": truth.free_energy, "U": truth.free_energy_u, "V": truth.free_energy_v}
    for name, values in curves.items():
        style = STYLES[name]
        ax.plot(_fine(t), values, color=style.colour, ls=style.line)
        value, stderr = whole["value"], whole["stderr"]
        if name != "whole":
            if f"mass[{name}]" not in tables:
                continue
            share = tables[f"mass[{name}]"]
            known = share["value"].where(share["value"] > 0)
            value, stderr = value - np.log(known), np.hypot(stderr, share["stderr"] / known)
        draw.curve(ax, t, value, stderr, style, f"$F$, {name}", ls="none")
    ax.set_ylabel(r"$F = -\log Z$ (nats)")
    ax.legend(title=f"{draw.ERRORS}; lines: exact")
    draw.label_axis(ax, "t", t)
    return figure


@draw.styled
def landscape(run: Any, picks: int = 3) -> Figure | None:
    """K(w), and below it the draws kept at a few t beside the exact densities."""
    data = plots.sweeps(run)["main"]
    if "params" not in data or "kept_draw" not in data.coords:
        return None
    w = np.linspace(-2, 2, 2001)
    loss = np.minimum(0.01 + (w + 1) ** 4, 20 * (w - 1) ** 2)
    chosen = np.unique(np.linspace(0, data.sizes["t"] - 1, picks).astype(int))
    caption = "The landscape, and draws after burn-in at three t (bars) beside the exact densities (lines)."
    figure, axes = draw.sheet(draw.COLUMN, 1.3 + 0.8 * len(chosen), 1 + len(chosen), 1, caption, sharex=True)
    axes[0, 0].plot(w, loss, color="black")
    axes[0, 0].set(ylabel="$K(w)$", ylim=(1e-3, 20), yscale="log")
    for name, at in {"U": -1.0, "V": 1.0}.items():
        axes[0, 0].annotate(f"${name}$", (at, 3.0), color=STYLES[name].colour, ha="center")
    after = int((~data["burn_in"].values).argmax()) if "burn_in" in data.coords else 0
    kept = data["kept_draw"].values >= after
    for ax, place in zip(axes[1:, 0], chosen, strict=True):
        t = float(data["t"].values[place])
        draws = data["params"].isel(t=place, kept=kept).values.ravel()
        counts, edges = np.histogram(draws[np.isfinite(draws)], bins=np.linspace(-2, 2, 161))
        counts = counts / (max(1, counts.sum()) * 0.025)
        sharp = edges[:-1] >= exact.TWO_BASINS_BOUNDARY
        for part, name in ((~sharp, "U"), (sharp, "V")):
            ax.bar(edges[:-1][part], counts[part], 0.025, align="edge", color=STYLES[name].colour, alpha=0.5)
        density = np.exp(-t * loss + float(exact.two_basins(t).free_energy)) / 4
        ax.plot(w, density, color="black", lw=0.8)
        ax.set_ylabel("density")
        ax.text(0.02, 0.85, f"$t = {t:g}$", transform=ax.transAxes, va="top")
    axes[-1, 0].set_xlabel("$w$")
    return figure
