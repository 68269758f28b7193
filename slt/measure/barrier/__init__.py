"""The barrier between two basins: the free-energy profile along an order parameter, its saddle, and escape times.

Bayesian preference and metastability side by side: which basin the posterior weighs more (Delta F), and how long a
local sampler stays where it is (barrier, escape time).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slt.estimators.profile import Curve
from slt.measure.barrier import escape, saddle, umbrella
from slt.measure.barrier.escape import Escape
from slt.measure.barrier.pilot import Front, Layout, bias_from, moved, pilot, starts
from slt.measure.barrier.reading import Reading, cores, found_curve, near_top, read
from slt.measure.barrier.saddle import Saddle
from slt.measure.barrier.umbrella import Bias, Order, Projection, Umbrella
from slt.model import Model
from slt.phases import Basin
from slt.posterior import Posterior
from slt.samplers.base import Sampler
from slt.samplers.mcmc import HMC
from slt.samplers.sgld import SGLD
from slt.typing import Batch, Estimate, InputError, Key, Params

__all__ = ["Escape", "Profile", "Saddle", "Way", "barrier"]

ROUNDS = 2  # in which the bias is mended before the production


class Way(NamedTuple):
    """One direction, out of one basin into the other."""

    barrier: Estimate
    "(i), the headline: F(saddle) - F(minimum of the basin), of the density of the order parameter"
    from_basin: Estimate
    "(ii): F(saddle) - (-log of the probability of the whole basin): it depends on the unit of the order parameter"
    minimum: Estimate
    "where the basin's minimum of F lies"
    escape: Escape | None


@dataclass(frozen=True)
class Profile:
    """Free energy F(x) = -log p(order = x) of the posterior, normalised over all x, and the barrier in it.

    x, value, stderr [point]: the profile, finest about its top; NaN where no draw fell. Add the free energy F_n of
    the posterior where it is known to have the absolute -log int exp(-n beta L) prior delta(order - x).
    forward, back: from basin a to basin b and the way back. preference: F_b - F_a of the basins, which end where the
    saddle is: above 0 the posterior prefers a. saddle: (x, F) of the profile's highest point between the basins, whose
    kink says whether branches meet there at an angle; top: the mean parameters of draws within a nat of it, draw: the
    one nearest to it (where a symmetry makes the mean meaningless); point: the saddle of the potential found from such
    draws. centres, swaps: the windows and the acceptance of their exchanges. hysteresis: (difference of the top over
    both basins' mean, difference of the preference) between replicates started from the two ends. local: the sampler
    of the escapes. flags: what speaks against the numbers, a sentence each; verdict: all in a few sentences.
    """

    x: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    forward: Way
    back: Way
    preference: Estimate
    saddle: tuple[Estimate, Estimate]
    kink: bool
    top: Params
    draw: Params
    point: Saddle
    centres: np.ndarray
    swaps: np.ndarray
    hysteresis: tuple[Estimate, Estimate]
    fronts: tuple[Front, Front]
    local: Sampler | None
    curve: Curve
    flags: tuple[str, ...]
    verdict: str


def barrier(
    model: Model,
    *,
    order: Order | None = None,
    between: Sequence[Params | str | Basin] | None = None,
    t: float | None = None,
    data: Batch | None = None,
    n: int | None = None,
    beta: float = 1.0,
    gamma: float = 0.0,
    centre: Params | None = None,
    windows: int = 32,
    replicates: int = 16,
    draws: int = 4000,
    thin: int = 1,
    burn_in: int = 300,
    sampler: Sampler | None = None,
    local: Sampler | None = None,
    escape_steps: int = 10_000,
    escape_chains: int = 64,
    key: Key | None = None,
) -> Profile:
    """The free-energy profile along order(params) between two basins, its barrier, and escape times beside it.

    model: an slt.Model; a potential takes t, any other data, n (default all of them) and beta. order(params) -> scalar,
    smooth almost everywhere; default the projection on the line from a to b, 0 at a and 1 at b. between: two points:
    parameters, names of basins in the model's truth, or Basins; default the truth's two basins. gamma, centre: of the
    localised posterior (centre default the first point).

    Windows place themselves: a pilot drives a front of chains from each point to the other, each window where the last
    one's mean force and spread put it; from the mean forces comes a bias that flattens the profile. In production
    `windows` harmonic windows share this bias; a third of them lies evenly in x, a third evenly in the length that the
    pilot's windows had, a third logarithmically about the top. Two rounds of a quarter of the draws mend the bias
    first. `replicates` independent sets of all windows (the first half started from the front of the lower end, the
    rest from the upper) run in one program, neighbours exchange after every step; `draws` draws a window, `thin` steps
    apart, are kept and reweighted by MBAR, after `burn_in` steps that tune the sampler.

    sampler: one of slt's Metropolis-adjusted, self-tuning samplers, default HMC(leapfrogs=8).
    local: whose escape times are taken, with its own step; default SGLD of step 0.1 over the largest curvature met in
    the basins. escape_steps: the most steps a chain takes, 0 for none; escape_chains: chains each way.

    Errors come from the replicates and the autocorrelation in them. What bias remains: curvature of the flattened
    density inside one bin (far below the error where the pilot succeeded), and whatever the order parameter hides: a
    second slow direction, for which the two halves of the replicates are compared.
    """
    counts = {"windows": (windows, 4), "replicates": (replicates, 4), "draws": (draws, 10), "burn_in": (burn_in, 1)}
    counts |= {"thin": (thin, 1), "escape_steps": (escape_steps, 0), "escape_chains": (escape_chains, 1)}
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(name, value, f"give a whole number, at least {least}")
    for name, value, kind in (("sampler", sampler, Sampler), ("local", local, Sampler), ("key", key, jax.Array)):
        if value is not None and not isinstance(value, kind):
            raise InputError(name, value, f"give {'a key of JAX' if name == 'key' else 'one of slt.samplers'}, or None")
    if not isinstance(gamma, int | float | np.number | jax.Array) or not gamma >= 0:
        raise InputError("gamma", gamma, "must be a number, at least 0")
    a, b = (_point(model, each, place) for place, each in enumerate(_pair(model, between)))
    order = Projection.of(a, b) if order is None else order
    posterior = _posterior(model, order, t, data, n, beta, gamma, a if centre is None else centre)
    a, b = (jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), point) for point in (a, b))
    sampler = HMC(leapfrogs=8) if sampler is None else sampler
    sampler.check()
    at = _orders(posterior, order, (a, b))
    flipped = at[0] > at[1]
    ends = (b, a) if flipped else (a, b)
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)

    fronts = pilot(sampler, posterior, ends, (min(at), max(at)), keys[0])
    knots = bias_from(*fronts)
    layout = Layout(knots, knots[0])
    bias, widths = layout.windows(windows)
    first = starts(fronts, bias.centre, replicates)

    def sample(number: int, first: Any, wanted: int) -> umbrella.Draws:
        return umbrella.produce(
            sampler, posterior, bias, first, jax.random.fold_in(keys[1], number), layout.near, widths,
            burn_in=burn_in, draws=wanted, thin=thin, length=draws,
        )  # fmt: skip

    for number in range(ROUNDS):
        drawn = sample(number, first, max(draws // 4, 10))
        curve = found_curve(layout, bias, drawn, outer=0)
        layout, old = layout.refined(curve.x, curve.value, curve.stderr), bias
        bias, widths = layout.windows(windows)
        first = moved(drawn.positions, old.centre, bias.centre)
    drawn = sample(ROUNDS, first, draws)
    reading = read(layout, bias, drawn)
    positions = cores(reading, drawn, escape_chains)
    passages: tuple[Escape | None, Escape | None] = (None, None)
    if escape_steps:
        local = _local(posterior, positions, keys[2]) if local is None else local
        local.check()
        passages = escape.times(local, posterior, order, positions, reading.goals, keys[3], most=escape_steps)
    near = near_top(reading, drawn)
    between = reading.low.x, reading.high.x
    width = max((layout.near[1] - layout.near[0]) / 6, 1e-6 * (between[1] - between[0]))
    point = saddle.find(posterior, near, reading.top.x, width, between, _radius(drawn))
    return _profile(reading, bias, drawn, fronts, passages, local, point, near, flipped)


def _pair(model: Model, between: Sequence[Any] | None) -> Sequence[Any]:
    if not isinstance(model, Model):
        raise InputError("model", model, "must be an slt.Model: see slt.potential, slt.from_linen, slt.from_numpyro")
    if between is None:
        truth = model.truth()
        between = () if truth is None else truth.basins
        if len(between) != 2:
            raise InputError("between", None, f"this model names {len(between)} basins: say between which two points")
    if not isinstance(between, Sequence) or isinstance(between, str) or len(between) != 2:
        raise InputError("between", between, "give two points: parameters, names of basins, or Basins")
    return between


def _point(model: Model, given: Any, place: int) -> Params:
    if isinstance(given, str):
        truth = model.truth()
        if truth is None:
            raise InputError(f"between[{place}]", given, "this model names no basins: give parameters")
        given = truth.basin(given)
    point = given.params if isinstance(given, Basin) else given
    shapes, want = (jax.tree.map(jnp.shape, each) for each in (point, jax.eval_shape(model.init, jax.random.key(0))))
    if shapes != want:
        raise InputError(f"between[{place}]", shapes, f"a point needs the shapes of the model's parameters, {want}")
    return point


def _posterior(
    model: Model, order: Order, t: Any, data: Any, n: Any, beta: float, gamma: float, centre: Params
) -> Posterior:
    if model.is_potential:
        if t is None or data is not None or n is not None:
            raise InputError("t", t, "a potential takes t, and neither data nor n")
        data, n, beta = jnp.zeros((1, 0)), 1, t
    else:
        if t is not None or data is None:
            raise InputError("data", None if data is None else "with t", "a model with data takes data, n and beta")
        size = min(leaf.shape[0] for leaf in jax.tree.leaves(data))
        n = size if n is None else n
        if not 1 <= n <= size:
            raise InputError("n", n, f"the data have {size} samples")
    if not isinstance(beta, int | float | np.number | jax.Array) or not (np.isfinite(beta) and beta > 0):
        raise InputError("t" if model.is_potential else "beta", beta, "give a positive number")
    centre = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), centre)
    return Posterior.build(Umbrella(model, order), data, n, beta, centre=centre, gamma=gamma)


def _orders(posterior: Posterior, order: Order, points: tuple[Params, Params]) -> tuple[float, float]:
    for point in points:
        try:
            shape = jax.eval_shape(order, point)
        except Exception as error:
            raise InputError("order", order, f"fails at these parameters ({error}): give a pure function") from error
        if getattr(shape, "shape", None) != () or shape.dtype.kind != "f":
            raise InputError("order", shape, "order(params) must return one floating-point number")
        if not np.isfinite(float(posterior.log_density(point))):
            raise InputError("between", point, "the posterior vanishes there: give points inside the prior's support")
    low, high = (float(order(point)) for point in points)
    if not abs(high - low) > 0:
        raise InputError("order", (low, high), "is the same at both points: it cannot tell the basins apart")
    return low, high


def _local(posterior: Posterior, positions: Any, key: Key) -> Sampler:
    some = jax.tree.map(lambda leaf: leaf[:, :8].reshape(-1, *leaf.shape[2:]), positions)
    largest = float(np.nanmax(np.asarray(escape.curvatures(posterior, some, key))))
    return SGLD(step_size=0.1 / max(largest, 1e-30))


def _radius(drawn: umbrella.Draws) -> float:
    """A length in parameter space: the typical distance of last positions over twenty."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(drawn.positions)]
    flat = np.concatenate([leaf.reshape(leaf.shape[0] * leaf.shape[1], -1) for leaf in leaves], axis=1)
    flat = flat[np.isfinite(flat).all(1)]
    return float(np.sqrt(np.square(flat - flat.mean(0)).sum(1).mean())) / 20


def _at(numbers: Estimate, which: int) -> Estimate:
    return Estimate(np.asarray(numbers.value)[which], np.asarray(numbers.stderr)[which])


def _profile(
    reading: Reading, bias: Bias, drawn: umbrella.Draws, fronts: tuple[Front, Front],
    passages: tuple[Escape | None, Escape | None], local: Sampler | None, point: Saddle, near: Any, flipped: bool,
) -> Profile:  # fmt: skip
    curve, numbers = reading.curve, reading.numbers
    up = Way(_at(numbers, 9), _at(numbers, 11), _at(numbers, 2), passages[0])
    down = Way(_at(numbers, 10), _at(numbers, 12), _at(numbers, 4), passages[1])
    forward, back = (down, up) if flipped else (up, down)
    preference, hysteresis = _at(numbers, 8), reading.hysteresis[1]
    if flipped:
        preference, hysteresis = (Estimate(-np.asarray(e.value), e.stderr) for e in (preference, hysteresis))
    swaps = drawn.swaps
    flags = tuple(_flags(reading, drawn, fronts))
    return Profile(
        x=curve.x,
        value=curve.value,
        stderr=curve.stderr,
        forward=forward,
        back=back,
        preference=preference,
        saddle=(_at(numbers, 0), _at(numbers, 1)),
        kink=reading.top.kink,
        top=drawn.top,
        draw=jax.tree.map(lambda leaf: leaf[0], near),
        point=point,
        centres=np.asarray(bias.centre),
        swaps=swaps,
        hysteresis=(reading.hysteresis[0], hysteresis),
        fronts=fronts,
        local=local,
        curve=curve,
        flags=flags,
        verdict=_verdict(forward, back, preference, numbers, local, flags),
    )


def _flags(reading: Reading, drawn: umbrella.Draws, fronts: tuple[Front, Front]) -> list[str]:
    said = []
    if not all(front.arrived for front in fronts):
        reached = [f"{front.mean[-1]:.4g}" for front in fronts if not front.arrived]
        said.append(f"a front did not reach the other end but stopped at x = {', '.join(reached)}")
    weak = np.flatnonzero(~(drawn.swaps > 0.05))
    if len(weak):
        said.append(
            f"windows {weak.tolist()} hardly exchange with the next: more windows, or a smoother order parameter"
        )
    if not drawn.finite.all():
        said.append(
            f"{(~drawn.finite).sum()} of {len(drawn.finite)} replicates became infinite or NaN and are left out"
        )
    for name, gap in zip(("top over the basins", "preference"), reading.hysteresis, strict=True):
        if not abs(gap.value) <= max(4 * gap.stderr, 0.02):
            said.append(
                f"hysteresis: the {name} differs by {gap.value:.2g} +- {gap.stderr:.1g} nats between replicates "
                "started from the two ends: something slow that the order parameter does not see"
            )
    if not np.asarray(reading.numbers.stderr)[9:11].max() <= 0.5:
        said.append("the barrier's error exceeds half a nat: more draws or replicates")
    if not np.asarray(reading.numbers.value)[9:11].min() > 1:
        said.append("a barrier of less than a nat: the profile does not divide these two basins")
    return said


def _pm(estimate: Estimate) -> str:
    return f"{float(estimate.value):.5g} +- {float(estimate.stderr):.1g}"


def _passage(way: Way, sampler: str) -> str:
    told = way.escape
    if told is None:
        return ""
    if not told.arrivals:
        return f"{sampler} never left in {told.steps} steps (escape time above {told.lower:.2g} steps at 95 per cent)"
    return f"{sampler} leaves in {float(told.time.value):.3g} +- {float(told.time.stderr):.1g} steps"


def _verdict(
    forward: Way, back: Way, preference: Estimate, numbers: Estimate, local: Sampler | None, flags: tuple[str, ...]
) -> str:
    gap = float(preference.value)
    better, worse, gain = ("a", "b", gap) if gap > 0 else ("b", "a", -gap)
    name = "" if local is None else type(local).__name__
    if local is not None and hasattr(local, "step_size"):
        name += f" at step {float(local.step_size):.3g}"  # pyright: ignore[reportAttributeAccessIssue]
    said = [
        f"The posterior prefers {better} to {worse} by {gain:.3g} +- {float(preference.stderr):.1g} nats "
        f"({100 / (1 + np.exp(-gain)):.4g} per cent of both)",
        f"between them F rises by {_pm(forward.barrier)} nats from a and {_pm(back.barrier)} from b, at x = "
        f"{_pm(_at(numbers, 0))}",
    ]
    for label, way in (("a", forward), ("b", back)):
        passage = _passage(way, name)
        if passage:
            said.append(f"from {label} {passage}")
    held = forward if better == "b" else back
    if held.escape is not None:
        share = held.escape.arrivals / held.escape.chains
        stay = "mostly stay there: metastable" if share else "stay there, whatever the posterior prefers: metastable"
        said.append(f"so chains started in {worse} {'reach the preferred basin' if share >= 0.5 else stay}")
    text = "; ".join(said) + "."
    return text + (" Not to be trusted: " + "; ".join(flags) + "." if flags else "")
