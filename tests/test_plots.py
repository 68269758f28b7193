"""Figures are drawn, complete and legible, from runs that have everything and from runs that lack most of it."""

import re
import warnings
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments import superposition, two_basins
from slt import plots
from slt.models import superposition as model
from slt.plots import draw
from slt.theory import exact
from slt.typing import Quantity

NAMES = ["6", "5", "5+", "4 family", "fewer"]
MINIMA = [(6, 0), (5, 0), (5, 1), (4, 1), (3, 0)]
T = np.round(np.geomspace(10, 1000, 25), 1)
N = [30, 100, 300, 1000, 3000]
STARTS = ["6", "5", "5+", "4", "prior", "prior"]


def _coords(draws: int, burn: int, every: int, starts: list[str]) -> dict[str, Any]:
    kept = np.arange(0, draws, every)
    return {
        "chain": np.arange(len(starts)),
        "draw": np.arange(draws),
        "start": ("chain", np.array(starts, object)),
        "burn_in": ("draw", np.arange(draws) < burn),
        "kept_draw": ("kept", kept),
    }


def _labels(rng: np.random.Generator, shape: tuple[int, ...], flip: float) -> np.ndarray:
    """Labels that stay for a while and then jump."""
    jump = rng.random(shape) < flip
    jump[..., 0] = True
    fresh = rng.integers(0, len(NAMES), shape)
    last = np.maximum.accumulate(np.where(jump, np.arange(shape[-1]), 0), axis=-1)
    return np.take_along_axis(fresh, last, axis=-1).astype(np.int8)


def _weights(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    corners = np.stack([np.asarray(model.kgon(k, plus)) for k, plus in MINIMA])
    return corners[labels] + 0.08 * rng.standard_normal((*labels.shape, 18))


def population(rng: np.random.Generator, draws: int = 200, chains: int = 4) -> xr.Dataset:
    """What replica exchange over t leaves, with seven rungs beyond the grid."""
    coords = _coords(draws, 40, 50, ["prior"] * chains)
    labels = _labels(rng, (len(T), chains, draws), 0.05)
    rungs = len(T) + 7
    values = np.concatenate([[0, 0.5, 1, 2, 4, 6, 8], T])
    walker = np.stack([rng.permutation(rungs) for _ in range(chains * draws)], axis=-1).reshape(rungs, chains, draws)
    ladder = ("chain", "rung", "draw")
    swap = np.broadcast_to(rng.uniform(0.5, 0.9, (1, rungs, 1)), (chains, rungs, draws)).copy()
    swap[:, -1] = np.nan
    return xr.Dataset(
        {
            "delta": (("t", "chain", "draw"), 0.02 + 8 / T[:, None, None] * rng.gamma(8, 1 / 8, labels.shape)),
            "offset": ("t", np.full(len(T), 0.048)),
            "phase": (("t", "chain", "draw"), labels, {"names": NAMES, "rule": "hull vertices"}),
            "params": (("t", "chain", "kept", "params_0"), _weights(rng, labels[..., ::50])),
            "status": (("t", "chain"), np.zeros((len(T), chains), np.int8)),
            "swap": (ladder, swap),
            "walker": (ladder, walker.transpose(1, 0, 2)),
            "round_trips": (ladder, np.cumsum(rng.random((chains, rungs, draws)) < 0.01, axis=-1)),
            "rung_value": (ladder, np.broadcast_to(values[None, :, None], (chains, rungs, draws))),
        },
        coords | {"t": T, "rung": np.arange(rungs), "rung_on_grid": ("rung", np.arange(rungs) >= 7)},
        {"coupled": "t"},
    )


def data(rng: np.random.Generator, n: list[int] = N, beta: tuple[str, ...] = ("1", "1/log n")) -> xr.Dataset:
    """What free chains on data leave; the last chain is broken half-way through its draws."""
    grid, draws = (len(n), len(beta), 3, len(STARTS)), 300
    labels = _labels(rng, (*grid, draws), 0.005)
    delta = 0.02 * labels + 4 / np.reshape(n, (-1, 1, 1, 1, 1)) * rng.gamma(8, 1 / 8, labels.shape)
    weights = _weights(rng, labels[..., ::50])
    delta[..., -1, 150:], labels[..., -1, 150:], weights[..., -1, 3:, :] = np.nan, -1, np.nan
    dims = ("n", "beta", "data_seed", "chain")
    return xr.Dataset(
        {
            "delta": ((*dims, "draw"), delta),
            "offset": (dims[:-1], np.full(grid[:-1], 5.53)),
            "phase": ((*dims, "draw"), labels, {"names": NAMES, "rule": "hull vertices"}),
            "params.W": ((*dims, "kept", "params.W_0", "params.W_1"), weights[..., :12].reshape(*grid, -1, 2, 6)),
            "params.b": ((*dims, "kept", "params.b_0"), weights[..., 12:]),
            "status": (dims, np.broadcast_to(np.arange(len(STARTS)) == len(STARTS) - 1, grid).astype(np.int8)),
        },
        _coords(draws, 50, 50, STARTS) | {"n": n, "beta": np.array(beta, object), "data_seed": [0, 1, 2]},
    )


def _population_quantities(prefix: str = "population.") -> dict[str, Quantity]:
    coords = {"t": T.tolist()}
    bumps = np.stack([np.exp(-((np.log(T) - m) ** 2)) for m in np.linspace(7, 3, len(NAMES))])
    found = {}
    for name, mass, basin in zip(NAMES, bumps / bumps.sum(0), [0, 2, 1, 3, 5], strict=True):
        found[f"mass[{name}]"] = Quantity(mass, 0.02 + 0 * T, coords)
        found[f"loss[{name}]"] = Quantity(0.048 + 0.02 * basin / 3 + 8 / T, 0.3 / T, coords)
        found[f"llc[{name}]"] = Quantity(7 + basin / 4 + 0 * T, 0.1 + 0 * T, coords)
    for name, shift in {"free_energy": 0.0, "free_energy_mbar": 0.02}.items():
        found[name] = Quantity(8 * np.log(1 + T) + shift, 0.05 + 0 * T, coords)
    found["free_energy_difference"] = Quantity(0.02 + 0 * T, 0.03 + 0 * T, coords)
    return {prefix + name: quantity for name, quantity in found.items()}


def _data_quantities(dataset: xr.Dataset) -> dict[str, Quantity]:
    shape = tuple(dataset.sizes[d] for d in ("n", "beta", "data_seed"))
    coords = {"n": dataset["n"].values.tolist(), "beta": dataset["beta"].values.tolist()}
    n = np.broadcast_to(dataset["n"].values[:, None], shape[:2]).astype(float)
    found = {}
    for k, name in enumerate(NAMES):
        share = np.broadcast_to(np.linspace(0.1, 0.3, shape[0])[:, None, None] * (k + 1) / 3, shape)
        found[f"occupancy[{name}]"] = Quantity(share, 0.05 * np.ones(shape), coords | {"data_seed": [0, 1, 2]})
        found[f"loss[{name}]"] = Quantity(5.5376 + 0.01 * k + 4 / n, 1 / n, coords)
        found[f"llc[{name}]"] = Quantity(6 + k / 2 + 10 / n, 5 / n, coords)
    return found


def _run(parts: dict[str, xr.Dataset], quantities: dict[str, Quantity], config: Any = None) -> Any:
    foreign = {"model": {"_target_": "elsewhere.make"}}
    tree = xr.DataTree.from_dict(parts)
    return SimpleNamespace(
        data=tree,
        quantities=quantities,
        measures={},
        config=config or foreign | {"parts": dict.fromkeys(parts, foreign)},
    )


@pytest.fixture
def demo(rng: np.random.Generator) -> Any:
    on_data = data(rng)
    population_model = {"model": {"_target_": "slt.models.superposition.population"}}
    config = {"model": {"_target_": "slt.models.superposition.make"}, "parts": {"population": population_model}}
    quantities = _data_quantities(on_data) | _population_quantities()
    return _run({"main": on_data, "population": population(rng)}, quantities, config)


def checked(figures: dict[str, Figure], layout: bool = True) -> None:
    """Every axis that has ticks says what it shows, no text is smaller than 8 pt, and drawing warns of nothing."""
    for name, figure in figures.items():
        if not layout:
            figure.set_layout_engine("none")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()
        assert figure.get_label(), name
        assert figure.get_figwidth() in (draw.COLUMN, draw.PAGE), name
        for ax in figure.axes:
            for which in "xy":
                row = [ax, *getattr(ax, f"get_shared_{which}_axes")().get_siblings(ax)]
                if which == "y":  # panels beside each other name their height once
                    spec = ax.get_subplotspec()
                    row += [other for other in figure.axes if spec and other.get_subplotspec().rowspan == spec.rowspan]
                ticks = [text.get_text() for text in getattr(ax, f"get_{which}ticklabels")()]
                named = any(getattr(other, f"get_{which}label")() for other in row)
                assert named or all(re.search("= |from|chain|ladder", text) for text in ticks), (name, which)
            for text in ax.findobj(matplotlib.text.Text):
                assert not text.get_text() or text.get_fontsize() >= 8, (name, text)


def test_superposition_figures(demo: Any) -> None:
    figures = superposition.figures(demo)
    assert set(figures) == {
        *("population_phase_mass", "population_llc", "population_traces", "population_polygons"),
        *("data_occupancy", "data_llc", "data_traces", "data_polygons", "data_dwell", "free_energy", "ladder"),
        "population_crossings",
    }
    checked(figures)


def test_default_figures(demo: Any) -> None:
    figures = plots.default_figures(demo)
    expected = {"traces", "phases", "llc", "dwell"}
    more = {"population_traces", "population_phases", "population_llc", "population_ladder", "population_free_energy"}
    assert set(figures) == expected | more
    checked(figures, layout=False)


def test_two_basins_figures(rng: np.random.Generator) -> None:
    t = np.array([10, 20, 50, 100, 150, 200, 250, 300, 400, 500, 700, 1000.0])
    truth, coords = exact.two_basins(t), {"t": t.tolist()}
    base = population(rng).isel(t=slice(0, len(t))).drop_vars(["params", "phase"])
    base = base.assign_coords(t=t).assign(
        params=(("t", "chain", "kept", "params_0"), rng.normal(-1, 0.3, (12, 4, 4, 1)))
    )
    base["phase"] = (base["delta"] > base["delta"].mean()).astype(np.int8)
    base["phase"].attrs |= {"names": ["U", "V"], "rule": "w above the boundary"}
    noise = 0.01 * rng.standard_normal(len(t))
    quantities = {
        "mass[V]": Quantity(truth.mass_v + noise, 0.01 + 0 * t, coords),
        "mass[U]": Quantity(1 - truth.mass_v - noise, 0.01 + 0 * t, coords),
        "free_energy": Quantity(truth.free_energy + noise, 0.01 + 0 * t, coords),
    }
    figures = two_basins.figures(_run({"main": base}, quantities))
    assert set(figures) == {"mass", "free_energy", "landscape", "traces", "ladder"}
    checked(figures)
    drawn = figures["mass"].axes[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), exact.two_basins(drawn.get_xdata()).mass_v)


def test_phases_keep_their_colours(demo: Any) -> None:
    styles = draw.palette(NAMES)
    assert len({style.colour for style in styles.values()}) == len(NAMES)
    assert len({style.marker for style in styles.values()}) == len(NAMES)
    assert draw.palette(NAMES[:2]) == {name: styles[name] for name in NAMES[:2]}
    many = draw.palette([str(k) for k in range(30)])
    assert len({(style.colour, style.marker) for style in many.values()}) == 30
    figure = plots.share_figure(demo, "population")
    assert figure is not None
    drawn = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert {name: drawn[name] for name in NAMES} == {name: styles[name].colour for name in NAMES}


def test_phase_colours_differ_for_the_colour_blind() -> None:
    # Viénot, Brettel and Mollon's (1999) deuteranope, in linear RGB.
    def seen(colour: str) -> np.ndarray:
        rgb = np.power(to_rgb(colour), 2.2)
        lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
        blind = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
        return np.clip(np.linalg.inv(lms) @ blind @ lms @ rgb, 0, 1) ** (1 / 2.2)

    colours = [seen(style.colour) for style in draw.palette(NAMES).values()]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[:i]]
    assert min(gaps) > 0.15


@pytest.mark.parametrize("lacking", ["phases", "quantities", "one n", "one beta", "one draw", "all broken", "starts"])
def test_what_is_missing_is_left_out(rng: np.random.Generator, lacking: str) -> None:
    on_data = data(rng, N[:1] if lacking == "one n" else N, ("1",) if lacking == "one beta" else ("1", "1/log n"))
    quantities = _data_quantities(on_data)
    if lacking == "phases":
        on_data = on_data.drop_vars("phase")
        quantities = {"loss": quantities["loss[6]"], "llc": quantities["llc[6]"]}
    elif lacking == "quantities":
        quantities = {}
    elif lacking == "one draw":
        on_data = on_data.isel(draw=slice(-1, None), kept=slice(0, 1))
        on_data["kept_draw"] = ("kept", on_data["draw"].values)
    elif lacking == "all broken":
        on_data["delta"][:] = np.nan
        on_data["phase"][:] = -1
        nothing = {k: Quantity(np.nan * q.value, np.nan * q.stderr, q.coords) for k, q in quantities.items()}
        quantities = nothing
    elif lacking == "starts":
        on_data = on_data.drop_vars(["start", "params.W", "params.b"]).drop_dims("kept")
    run = _run({"main": on_data}, quantities)
    figures = superposition.figures(run)
    assert ("data_traces" in figures, "data_llc" in figures) == (True, lacking not in ("quantities", "all broken"))
    checked(figures, layout=False)
    assert {name.removeprefix("data_") for name in figures} - {"polygons"} == {
        name.replace("phases", "occupancy") for name in plots.default_figures(run)
    }


def test_axes_of_any_kind(rng: np.random.Generator) -> None:
    # A ladder along beta at one n, and a control parameter with a localiser: neither t nor n to draw along.
    labels = [f"{value:g}" for value in np.linspace(0, 1, 21)]
    along_beta = data(rng, N[:1], tuple(labels)).assign_attrs(coupled="beta")
    tables = _data_quantities(along_beta)
    extra = population(rng).isel(t=slice(0, 1)).drop_dims("rung").drop_vars("phase")
    extra = xr.concat([extra.assign_coords(gamma=g) for g in (0.0, 1.0, 100.0)], "gamma", data_vars="all")
    extra = xr.concat([extra.assign_coords(angle=a) for a in (0.1, 0.2)], "angle", data_vars="all")
    coords = {"t": [10.0], "gamma": [0.0, 1.0, 100.0], "angle": [0.1, 0.2]}
    tables["other.llc"] = Quantity(np.ones((1, 3, 2)), np.ones((1, 3, 2)), coords)
    figures = plots.default_figures(_run({"main": along_beta, "other": extra}, tables))
    assert set(figures) == {"traces", "phases", "llc", "other_traces", "other_llc"}
    checked(figures, layout=False)
    assert figures["other_llc"].axes[0].get_xlabel() == draw.AXES["gamma"]


def test_traces_have_the_colour_of_the_phase() -> None:
    styles = list(draw.palette(["a", "b"]).values())
    _, axes = draw.sheet(draw.COLUMN, 2.0)
    labels, values = np.array([[0, 0, 1, -1]]), np.array([[1.0, 2.0, 3.0, 2.0]])
    draw.traces(axes[0, 0], np.arange(4), values, labels, styles)
    drawn = [(line.get_color(), line.get_ydata().tolist()) for line in axes[0, 0].lines]
    assert drawn == [(styles[0].colour, [1.0, 2.0]), (styles[1].colour, [3.0]), (draw.OUTSIDE.colour, [2.0])]


def test_frame_is_not_flattened_by_uncertain_points() -> None:
    values, errors = np.array([1.0, 2.0, 3.0, -80.0]), np.array([0.1, 0.1, 0.1, 60.0])
    one = draw.table(Quantity(values, errors, {"n": [1, 2, 3, 4]}))
    _, axes = draw.sheet(draw.COLUMN, 2.0)
    draw.frame(axes[0], [("n", {"a": one})], [7.0, None], draw.palette(["a"]), log=False)
    low, high = axes[0, 0].get_ylim()
    assert -1 < low < 0.9
    assert 7 < high < 8
    marked = [line.get_xdata().tolist() for line in axes[0, 0].lines]
    assert marked == [[], [4]]


def test_level_tags_do_not_overlap() -> None:
    _, axes = draw.sheet(draw.COLUMN, 2.0)
    axes[0, 0].set_ylim(0, 1)
    draw.levels(axes[0, 0], {"a": 0.5, "b": 0.501, "c": 0.5, "d": None, "e": 0.9})
    tags = {text.get_text(): text.xy[1] for text in axes[0, 0].texts}
    assert list(tags) == ["a, c", "b", "e"]
    assert tags["b"] - tags["a, c"] > 0.08
    assert tags["e"] == pytest.approx(0.9)


def test_dwell_times(rng: np.random.Generator) -> None:
    on_data = data(rng, [30, 100], ("1",))
    on_data["phase"][:] = 0
    on_data["phase"][1, 0, 0, 0, 60:] = 1  # the tenth draw after burn-in, one of 15 chains that are well
    found = plots.dwell_times(on_data)
    assert set(found) == {"6"}
    np.testing.assert_allclose(found["6"]["value"], [[np.inf], [10 + 14 * 249]])


def test_polygon_survives_degenerate_columns() -> None:
    _, axes = draw.sheet(draw.COLUMN, 2.0, 1, 3)
    for ax, columns in zip(axes[0], [np.zeros((2, 6)), np.ones((2, 2)), np.full((2, 6), np.nan)], strict=True):
        draw.polygon(ax, columns, np.zeros(columns.shape[1], bool), draw.STYLES[0])


def test_average_takes_the_larger_error() -> None:
    quantity = Quantity(
        np.array([[1.0, 3.0], [1.0, 1.0]]), np.array([[0.1, 0.1], [0.6, 0.8]]), {"n": [1, 2], "data_seed": [0, 1]}
    )
    mean = draw.average(draw.table(quantity))
    np.testing.assert_allclose(mean["value"], [2.0, 1.0])
    np.testing.assert_allclose(mean["stderr"], [1.0, 0.5])


def test_save_writes_both_formats_whole(tmp_path: Any, demo: Any) -> None:
    def drawn() -> dict[str, Figure]:
        return {"mass": plots.share_figure(demo, "population")}

    paths = plots.save(drawn(), tmp_path / "figures")
    assert sorted(path.name for path in paths) == ["mass.pdf", "mass.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["mass.pdf", "mass.png"]
    pdf = (tmp_path / "figures" / "mass.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    before = matplotlib.rcParams["font.size"]
    again = plots.save(drawn(), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    assert matplotlib.rcParams["font.size"] == before


def test_save_leaves_nothing_half_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, _ = draw.sheet(draw.COLUMN, 2.0)
    (tmp_path / "a.pdf").write_text("old")

    def fail(path: Any, **_: Any) -> None:
        path.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save({"a": figure}, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pdf", "old")]
