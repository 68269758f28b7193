"""Matrix factorisation with singular values i^-alpha: exact, sampled, and singular learning theory at every cut-off.

The number it should show: lam(t) sampled within its errors of the exact curve, 11.1 at t = 1, 66.6 at 100, 64.1 at 2000
(16 modes, alpha 0.4, q 8); t L_k + lambda_k log t with its constant and k = all modes is within 1 nat only from t = 178
on (`asymptotic_t`), and between t = 20 and 100 every k is 2 to 5 nats off: modes are learned one by one all the way.
"""

import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from slt import plots
from slt.model import Potential
from slt.models.power_law import PowerLaw
from slt.plots import draw
from slt.theory import factorisation
from slt.theory.exact import Curve
from slt.transitions.predictions import Form
from slt.typing import InputError, Quantity

from . import _shared

NEAR = 1.0
"""Nats within which a prediction of F counts as right."""
HORIZON = 1e9


def factors(run: Any) -> PowerLaw:
    """The factorisation that a run sampled."""
    model = _shared.model(run)
    if not (isinstance(model, Potential) and isinstance(model.fn, PowerLaw)):
        raise InputError("model", model, "this experiment needs slt.models.power_law.make")
    return model.fn


def exact(fn: PowerLaw, t: Any) -> Curve:
    """F(t) and lam(t) by quadrature."""
    return factorisation.power_law(t, fn.modes, fn.alpha, fn.q)


def asymptotic_t(fn: PowerLaw, near: float = NEAR) -> float:
    """The least t from which on the asymptotic form of all modes, constant included, is within `near` nats of F."""
    t = np.geomspace(1e-2, HORIZON, 441)
    off = np.abs(fn.cut_off(t, fn.modes) - exact(fn, t).free_energy) > near
    return float(t[np.flatnonzero(off)[-1] + 1]) if off.any() and not off[-1] else float("nan")


def cut_offs(fn: PowerLaw) -> list[int]:
    """A few numbers of learned modes to draw: 0, 1, 2, 4, .. and all."""
    return [k for k in (0, *(2**i for i in range(20))) if k < fn.modes] + [fn.modes]


def summarise(run: Any) -> dict[str, Quantity]:
    """Exact F and lam at the run's t, `cut_off_error[k]` of the predictions, the best of them, `asymptotic_t`; the
    kind of every critical_t, and what theory says of it.
    """
    fn, t = factors(run), np.asarray(plots.sweeps(run)["main"]["t"].values, float)
    curve, coords = exact(fn, t), {"t": t.tolist()}
    every = np.stack([fn.cut_off(t, k) - curve.free_energy for k in range(fn.modes + 1)])
    best = np.abs(every).argmin(0)
    found = {"free_energy_exact": curve.free_energy, "lam_exact": curve.lam, "best_cut_off": best}
    found["best_cut_off_error"] = np.take_along_axis(every, best[None], 0)[0]
    found |= {f"cut_off_error[{k}]": every[k] for k in cut_offs(fn)}
    numbers = {name: _shared.known(value, coords) for name, value in found.items()}
    numbers |= steps(run, fn) | _shared.kinds(
        run, run.quantities, lambda part, data, axis: _shared.kept(data, axis, fn.squares)
    )
    return numbers | {"asymptotic_t": _shared.known(asymptotic_t(fn))}


def steps(run: Any, fn: PowerLaw) -> dict[str, Quantity]:
    """What the asymptotics of k modes learned say of every critical_t[rank j->rank k], and how far they miss it."""
    data = plots.sweeps(run)["main"]
    names, numbers = plots.phase_names(data), {}
    for name in run.quantities:
        if match := re.fullmatch(r"critical_t\[(rank \d+)->(rank \d+)\]", name):
            seen, _ = _shared.labels(data, "t")
            a, b = (names.index(each) for each in match.groups())
            at = _shared.between(data["t"].values, seen.reshape(1, *seen.shape[-3:]), [a], [b])
            numbers |= _shared.foretold(
                "t", f"{names[a]}->{names[b]}", _shared.theory(form(fn, a), form(fn, b), at), at
            )
    return numbers


def form(fn: PowerLaw, k: int) -> Form:
    """F as if the truth ended after k modes, its constant included."""
    at = np.array([1.0])
    bare = float(fn.cut_off(at, k, constant=False)[0])
    return Form(bare, (k * fn.q + fn.modes - k) / 2, 1, float(fn.cut_off(at, k)[0]) - bare)


def figures(run: Any) -> dict[str, Figure]:
    """All figures of a run, by file name."""
    data = plots.sweeps(run)["main"]
    found = {"coefficient": coefficient(run), "asymptotics": asymptotics(run), "sizes": sizes(run)}
    found |= {"traces": plots.trace_figure(data), "ladder": plots.ladder_figure(data)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _styles(fn: PowerLaw) -> list[tuple[int, Any]]:
    """Cut-offs with their colours, from few modes to all."""
    shown = cut_offs(fn)
    return list(zip(shown, _shared.shades(len(shown)), strict=True))


@draw.styled
def coefficient(run: Any) -> Figure:
    """lam(t) sampled and exact, over what theory says of it at every cut-off: t L_k + lambda_k."""
    fn, tables = factors(run), plots.quantities(run)
    t = np.asarray(plots.sweeps(run)["main"]["t"].values, float)
    fine = np.geomspace(t.min(), t.max(), 200)
    truth = exact(fn, fine).lam
    caption = f"lam(t) = t<K> of {fn.modes} modes with singular values i^-{fn.alpha:g}: exact (line), by replica \
exchange ({draw.ERRORS}), and what theory says if k modes are learned. Ticks: where mode k is learned, 8.5/s_k^2."
    figure, axes = draw.sheet(draw.COLUMN, 2.9, 1, 1, caption)
    ax = axes[0, 0]
    for k, colour in _styles(fn):
        level = (k * fn.q + fn.modes - k) / 2
        rest = float(np.sum(np.square(fn.strengths[k:])))
        ax.plot(fine, fine * rest + level, color=colour, lw=0.8, ls=(0, (4, 1.5)), label=f"$k={k}$")
    ax.plot(fine, truth, color="black", label="exact")
    one = tables["llc"]
    draw.curve(ax, t, one["value"], one["stderr"], draw.STYLES[-1], "sampled", ls="none")
    learned = 8.5 / np.square(fn.strengths)
    ax.plot(learned[learned <= t.max()], np.zeros((learned <= t.max()).sum()), "|", color="0.3", ms=7, clip_on=False)
    ax.set(ylim=(0, 1.45 * truth.max()), ylabel=r"$\mathrm{lam}(t) = t\,\langle K\rangle_t$")
    draw.label_axis(ax, "t", t)
    figure.legend(*ax.get_legend_handles_labels(), ncols=4, loc="outside upper center")
    return figure


@draw.styled
def asymptotics(run: Any) -> Figure:
    """By how many nats each cut-off misses the exact F(t), and the sampled F beside it."""
    fn, tables = factors(run), plots.quantities(run)
    t = np.asarray(plots.sweeps(run)["main"]["t"].values, float)
    fine = np.geomspace(t.min(), t.max(), 200)
    truth = exact(fn, fine).free_energy
    caption = f"What t L_k + lambda_k log t + constant, k modes learned, misses of the exact free energy; dashed: all \
modes without the constant; symbols: thermodynamic integration ({draw.ERRORS}). Dotted: all modes within {NEAR:g} nat."
    figure, axes = draw.sheet(draw.COLUMN, 2.9, 1, 1, caption)
    ax = axes[0, 0]
    for k, colour in _styles(fn):
        ax.plot(fine, fn.cut_off(fine, k) - truth, color=colour, label=f"$k={k}$")
        if k == fn.modes:
            ax.plot(fine, fn.cut_off(fine, k, constant=False) - truth, color=colour, ls=(0, (4, 1.5)))
    if "free_energy" in tables:
        one = tables["free_energy"]
        draw.curve(ax, t, one["value"] - exact(fn, t).free_energy, one["stderr"], draw.STYLES[-1], "sampled", ls="none")
    ax.axhline(0, color="black", lw=0.6)
    ax.axvline(asymptotic_t(fn), color="0.35", lw=0.8, ls=(0, (1, 1.5)))
    ax.set_yscale("symlog", linthresh=10)
    ax.set(ylabel=r"prediction $-$ exact $F$ (nats)", ylim=(-300, 3000))
    draw.label_axis(ax, "t", t)
    figure.legend(*ax.get_legend_handles_labels(), ncols=4, loc="outside upper center")
    return figure


@draw.styled
def sizes(run: Any) -> Figure:
    """Exact lam(t) per mode for more and more modes: the plateau comes at 8.5 N^(2 alpha)."""
    fn = factors(run)
    t = np.geomspace(1, 1e6, 60)
    caption = f"Exact lam(t)/N of N modes (alpha = {fn.alpha:g}, q = {fn.q}); dashed: the learning coefficient, q/2 a \
mode; dots: t = 8.5 N^(2 alpha), where the last mode is learned."
    figure, axes = draw.sheet(draw.COLUMN, 2.4, 1, 1, caption)
    ax = axes[0, 0]
    counts = [fn.modes * 4**i for i in range(3)]
    for count, colour in zip(counts, _shared.shades(len(counts)), strict=True):
        lam = factorisation.power_law(t, count, fn.alpha, fn.q).lam / count
        ax.plot(t, lam, color=colour, label=f"$N={count}$")
        last = 8.5 * count ** (2 * fn.alpha)
        ax.plot(last, np.interp(np.log(last), np.log(t), lam), "o", color=colour)
    ax.axhline(fn.q / 2, color="0.35", lw=0.7, ls=(0, (4, 3)))
    ax.set(ylabel=r"$\mathrm{lam}(t)/N$", ylim=(0, None))
    ax.legend(loc="lower right")
    draw.label_axis(ax, "t", t)
    return figure
