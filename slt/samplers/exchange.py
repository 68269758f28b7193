"""Replica exchange (parallel tempering) around any sampler: non-reversible swaps, a ladder that tunes itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Sampler, State, sampler, static
from slt.samplers.mcmc import HMC
from slt.typing import InputError, Key, Scalar

AXES = ("t", "beta", "n")
FIRST_ROUND = 64  # steps of the first round of tuning; each round is twice as long as the last


class Tally(NamedTuple):
    """Rejections of swaps since the round began, between each rung and the next."""

    rejected: Float[Array, " pairs"]
    tried: Float[Array, " pairs"]
    steps: Int[Array, ""]
    length: Int[Array, ""]


class LadderState(NamedTuple):
    """A whole ladder: everything has a leading axis of rungs, lowest first.

    inner: states of the inner sampler, which stay with their rung but for the position; values: the rungs'
    coordinates; sums: S = sum_i l_i(w) - l_i(w_ref) over the data of the rung below, of its own, and of the rung above;
    walker: who is here; heading: 1 on its way up from the bottom, 2 down from the top, 0 before it reached the bottom.
    """

    inner: State
    values: Float[Array, " rungs"]
    sums: Float[Array, "rungs 3"]
    walker: Int[Array, " rungs"]
    heading: Int[Array, " rungs"]
    trips: Int[Array, " rungs"]
    parity: Int[Array, ""]
    tally: Tally

    @property
    def position(self) -> Position:
        return self.inner.position


class Layout(NamedTuple):
    """Which rungs are what, by number: static. An anchor never moves: rung 0 at the value 0, and the grid's own."""

    grid: Bool[np.ndarray, " rungs"]
    anchor: Bool[np.ndarray, " rungs"]
    below: Int[np.ndarray, " rungs"]
    above: Int[np.ndarray, " rungs"]
    share: Float[np.ndarray, " rungs"]


@sampler
class ReplicaExchange(Sampler):
    """Replicas at every value of one grid coordinate, and at extra rungs between, that exchange neighbours' positions.

    One step is one round of proposed swaps, of the even and of the odd pairs in turn (deterministic even-odd,
    non-reversible: Okabe et al. 2001; Syed et al. 2022), and then `swap_every` steps of `inner` at each rung. A pair
    a, b swaps with probability min(1, exp([E_a(w_a) + E_b(w_b)] - [E_a(w_b) + E_b(w_a)])), E_r(w) =
    n_r beta_r L_n_r(w), from per-sample differences evaluated once; the prior cancels. As exact as `inner` is.

    axis: "t" (of a potential), "beta", or "n" (data sets nested by prefix).
    rungs: extra rungs from the value 0, where only the prior is left (it must be proper), up to the smallest grid
      value; along n these have the smallest n and a beta lowered in proportion. between: extra rungs in each gap.
    tune: in burn-in the extra rungs move to where the rejections between two fixed rungs are all equal (local barriers
      of Syed et al. 2022), after rounds of 64, 128, 256, ... steps; the grid's values never move, and after burn-in
      nothing does.

    Called with a posterior whose leaves have a leading axis of rungs; n and beta are read at the grid's rungs.
    Info.delta [rungs]: L_n(w) - L_n(w_ref), full data, at each rung's n. Diagnostics [rungs]: rung (its coordinate),
    walker (who is there), swap (acceptance probability of the swap proposed with the rung above, NaN where none was),
    round_trips (times the walker went from the lowest rung to the highest and back), and those of `inner`.
    """

    inner: Sampler = HMC()
    axis: str = static(default="t")
    rungs: int = static(default=8)
    between: int = static(default=0)
    swap_every: int = static(default=1)
    tune: bool = static(default=True)

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As exact as the inner sampler."""
        return self.inner.exact

    @property
    def coupled(self) -> str:
        return self.axis

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return ("rung", "walker", "swap", "round_trips", *self.inner.diagnostics)

    @property
    def wants_reference_grad(self) -> bool:
        return self.inner.wants_reference_grad

    def check(self) -> None:
        if not isinstance(self.inner, Sampler):
            raise InputError("sampler.inner", self.inner, "must be a sampler, such as slt.samplers.HMC")
        if self.inner.coupled is not None:
            raise InputError("sampler.inner", type(self.inner).__name__, "is coupled itself: ladders do not nest")
        if self.axis not in AXES:
            raise InputError("sampler.axis", self.axis, f"must be one of {', '.join(AXES)}")
        for name, low in (("rungs", 0), ("between", 0), ("swap_every", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"sampler.{name}", value, f"must be a whole number, at least {low}")
        if self.axis == "n" and self.between and self.wants_reference_grad:
            raise InputError(
                "sampler.between", self.between, "extra n have no gradient at the centre: no control variate"
            )
        try:
            self.inner.check()
        except InputError as error:
            raise InputError(error.field.replace("sampler.", "sampler.inner.", 1), error.value, error.cure) from error

    def ladder(
        self, values: Sequence[float] | np.ndarray
    ) -> tuple[Float[np.ndarray, " rungs"], Bool[np.ndarray, " rungs"]]:
        """(values of all rungs at the start, ascending; which are the grid's). Host side."""
        grid = np.asarray(values, np.float64)
        if grid.size == 0 or not np.isfinite(grid).all() or grid[0] < 0 or (np.diff(grid) <= 0).any():
            raise InputError(f"grid.{self.axis}", list(values), "a ladder needs increasing finite values >= 0")
        if grid[0] == 0 and (self.rungs or self.between):
            raise InputError(f"grid.{self.axis}", 0.0, "a ladder adds 0 itself: leave it out, or set sampler.rungs = 0")
        layout = self._layout(self.rungs + grid.size + self.between * (grid.size - 1))
        full = np.zeros(layout.grid.size)
        full[layout.grid] = grid
        lower, upper, share = full[layout.below], full[layout.above], layout.share
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(lower > 0, np.exp((1 - share) * np.log(lower) + share * np.log(upper)), upper * share**3)
        return np.where(layout.anchor, full, spread), layout.grid

    def _layout(self, size: int) -> Layout:
        cells, rest = divmod(size - self.rungs + self.between, 1 + self.between)
        if cells < 1 or rest:
            raise InputError("sampler.rungs", self.rungs, f"does not fit a ladder of {size} rungs: use sampler.ladder")
        grid = np.zeros(size, bool)
        grid[self.rungs :: 1 + self.between] = True
        anchor = grid | (np.arange(size) == 0)
        number = np.arange(size)
        below = np.maximum.accumulate(np.where(anchor, number, 0))
        above = np.minimum.accumulate(np.where(anchor, number, size)[::-1])[::-1]
        share = (number - below) / np.maximum(above - below, 1)
        return Layout(grid, anchor, below, above, share)

    def __call__(self, posterior: Posterior) -> Algorithm:
        ladder = _Ladder(self, posterior)
        return Algorithm(ladder.init, ladder.step, ladder.adapt)


class _Ladder:
    """The algorithm of one ladder: `ReplicaExchange` bound to its posteriors."""

    def __init__(self, sampler: ReplicaExchange, posterior: Posterior):
        self.sampler = sampler
        self.posterior = posterior
        self.size = posterior.n.shape[0]
        self.layout = sampler._layout(self.size)
        # the rungs share everything but n and beta: unstacked, so that data are read once and not once a rung
        shared = dataclasses.replace(jax.tree.map(lambda leaf: leaf[0], posterior), reference_grad=None)
        self.shared = dataclasses.replace(shared, fewer=None) if sampler.axis == "n" else shared
        self.full_batch_delta = getattr(sampler.inner, "batch_size", 0) is None

    def first_values(self) -> Float[Array, " rungs"]:
        """The rungs' coordinates at the start, from those of the grid alone."""
        n, beta = self.posterior.n, self.posterior.beta
        if self.sampler.axis != "n":
            found = beta if self.sampler.axis == "beta" else n.astype(beta.dtype) * beta
            return jnp.where(self.layout.anchor & ~self.layout.grid, 0, found)
        full = jnp.where(self.layout.grid, n, 0).astype(beta.dtype)
        lower, upper = full[self.layout.below], full[self.layout.above]
        share = jnp.asarray(self.layout.share, beta.dtype)
        safe = jnp.where(lower > 0, lower, 1)
        spread = jnp.where(lower > 0, safe * (upper / safe) ** share, upper * share**3)
        return jnp.where(self.layout.anchor, full, spread)

    def place(self, values: Float[Array, " rungs"]) -> tuple[Int[Array, " rungs"], Float[Array, " rungs"]]:
        """(n, beta) of every rung at these coordinates; the grid's own as given."""
        n, beta = self.posterior.n, self.posterior.beta
        if self.sampler.axis == "beta":
            return n, jnp.where(self.layout.grid, beta, values)
        if self.sampler.axis == "t":
            return n, jnp.where(self.layout.grid, beta, values / n.astype(values.dtype))
        where = np.flatnonzero(self.layout.grid)
        least = n[where[0]]
        size = jnp.clip(jnp.ceil(values).astype(n.dtype), least, n[where[-1]])
        scale = jnp.minimum(values / least.astype(values.dtype), 1)
        between = beta[where[0]] if where.size == 1 else jnp.interp(values, n[where].astype(values.dtype), beta[where])
        return jnp.where(self.layout.grid, n, size), jnp.where(self.layout.grid, beta, between * scale)

    def each(self, fn: Any, values: Float[Array, " rungs"], *arguments: Any) -> Any:
        """fn(posterior of the rung, *its share of the arguments) at every rung."""

        def one(n: Scalar, beta: Scalar, grad: Position | None, *rest: Any) -> Any:
            return fn(dataclasses.replace(self.shared, n=n, beta=beta, reference_grad=grad), *rest)

        return jax.vmap(one)(*self.place(values), self.posterior.reference_grad, *arguments)

    def sums(self, values: Float[Array, " rungs"], position: Position) -> Float[Array, "rungs 3"]:
        """S of each walker at the n of the rung below, its own and the one above, from one pass over the data."""
        n, _ = self.place(values)
        if self.sampler.axis != "n":
            total = self.each(lambda p, w: p.total(w), values, position)
            return jnp.stack([total] * 3, axis=-1)
        below, above = jnp.concatenate([n[:1], n[:-1]]), jnp.concatenate([n[1:], n[-1:]])

        def masked(posterior: Posterior, position: Position, counts: Int[Array, " 3"]) -> Float[Array, " 3"]:
            every = dataclasses.replace(posterior, n=n[-1]).differences(position)
            return jnp.sum(
                jnp.where(jnp.arange(every.shape[0], dtype=counts.dtype) < counts[:, None], every, 0), axis=-1
            )

        return self.each(masked, values, position, jnp.stack([below, n, above], axis=-1))

    def init(self, position: Position, key: Key) -> LadderState:
        values = self.first_values()
        keys = jax.random.split(key, self.size)
        inner = self.each(lambda p, w, k: self.sampler.inner(p).init(w, k), values, position, keys)
        walker = jnp.arange(self.size, dtype=jnp.int32)
        zero = jnp.zeros((self.size - 1,), values.dtype)
        tally = Tally(zero, zero, jnp.zeros((), jnp.int32), jnp.full((), FIRST_ROUND, jnp.int32))
        heading = (walker == 0).astype(jnp.int32)
        trips, parity = jnp.zeros_like(walker), jnp.zeros((), jnp.int32)
        return LadderState(inner, values, self.sums(values, position), walker, heading, trips, parity, tally)

    def step(self, key: Key, state: LadderState) -> tuple[LadderState, Info]:
        swap_key, init_key, inner_key = jax.random.split(key, 3)
        state, swap = self._swap(swap_key, init_key, state)
        inner, told = self._advance(inner_key, state)
        n = self.place(state.values)[0].astype(state.values.dtype)
        if told.delta is not None and self.full_batch_delta and self.sampler.axis != "n":
            sums = jnp.stack([-n * told.delta] * 3, axis=-1)
        else:
            sums = self.sums(state.values, inner.position)
        diagnostics = {
            **told.diagnostics,
            "rung": state.values,
            "walker": state.walker,
            "swap": swap,
            "round_trips": state.trips,
        }
        new = state._replace(inner=inner, sums=sums, parity=1 - state.parity)
        return new, Info(-sums[:, 1] / n, told.acceptance, diagnostics)

    def _swap(self, swap_key: Key, init_key: Key, state: LadderState) -> tuple[LadderState, Float[Array, " rungs"]]:
        """One round of swaps, and the inner states at their new positions."""
        if self.size == 1:
            return state, jnp.full((1,), jnp.nan, state.values.dtype)
        _, beta = self.place(state.values)
        down, own, up = state.sums[:, 0], state.sums[:, 1], state.sums[:, 2]
        stay = beta[:-1] * own[:-1] + beta[1:] * own[1:]
        change = beta[1:] * up[:-1] + beta[:-1] * down[1:]
        if self.sampler.axis != "n":  # the same, with less rounding
            stay, change = jnp.zeros_like(stay), (beta[1:] - beta[:-1]) * (own[:-1] - own[1:])
        proposed = jnp.arange(self.size - 1, dtype=jnp.int32) % 2 == state.parity
        accept = jnp.where(proposed, jnp.exp(jnp.minimum(change - stay, 0)), jnp.nan)
        taken = jax.random.uniform(swap_key, accept.shape, accept.dtype) < accept  # False for NaN
        step = taken.astype(jnp.int32)
        source = jnp.arange(self.size, dtype=step.dtype) + jnp.append(step, 0) - jnp.append(0, step)
        position = jax.tree.map(lambda leaf: leaf[source], state.inner.position)
        walker, heading, trips = state.walker[source], state.heading[source], state.trips[source]
        rung = np.arange(self.size)
        bottom, top = rung == 0, rung == self.size - 1
        trips = trips + (bottom & (heading == 2)).astype(trips.dtype)
        heading = jnp.where(bottom, 1, jnp.where(top & (heading == 1), 2, heading))
        inner = self._moved(init_key, state, position)
        moved = state._replace(inner=inner, walker=walker, heading=heading, trips=trips)
        return moved, jnp.append(accept, jnp.nan)

    def _moved(self, key: Key, state: LadderState, position: Position) -> State:
        def move(posterior: Posterior, inner: State, position: Position, key: Key) -> State:
            algorithm = self.sampler.inner(posterior)
            return algorithm.init(position, key) if algorithm.relocate is None else algorithm.relocate(inner, position)

        keys = jax.random.split(key, self.size)
        return self.each(move, state.values, state.inner, position, keys)

    def _advance(self, key: Key, state: LadderState) -> tuple[State, Info]:
        def once(number: Any, inner: State) -> tuple[State, Info]:
            keys = jax.random.split(jax.random.fold_in(key, number), self.size)
            return self.each(lambda p, k, s: self.sampler.inner(p).step(k, s), state.values, keys, inner)

        inner = state.inner
        if self.sampler.swap_every > 1:
            inner = jax.lax.fori_loop(0, self.sampler.swap_every - 1, lambda i, s: once(i, s)[0], inner)
        return once(self.sampler.swap_every - 1, inner)

    def adapt(self, state: LadderState, info: Info) -> LadderState:
        """Tune the inner samplers, and the extra rungs at the end of a round."""
        own = {"rung", "walker", "swap", "round_trips"}
        told = Info(info.delta, info.acceptance, {k: v for k, v in info.diagnostics.items() if k not in own})

        def tune(posterior: Posterior, inner: State, told: Info) -> State:
            adapt = self.sampler.inner(posterior).adapt
            return inner if adapt is None else adapt(inner, told)

        state = state._replace(inner=self.each(tune, state.values, state.inner, told))
        if not self.sampler.tune or self.layout.anchor.all():
            return state
        swap = info.diagnostics["swap"][:-1]
        proposed = jnp.isfinite(swap)
        rejected = state.tally.rejected + jnp.where(proposed, 1 - swap, 0)
        tried = state.tally.tried + proposed.astype(swap.dtype)
        steps = state.tally.steps + 1
        done = steps >= state.tally.length
        moved = jnp.where(done, self._equalised(state.values, rejected / jnp.maximum(tried, 1)), state.values)
        tally = Tally(
            jnp.where(done, 0, rejected),
            jnp.where(done, 0, tried),
            jnp.where(done, 0, steps),
            jnp.where(done, 2, 1) * state.tally.length,
        )
        sums = state.sums
        if self.sampler.axis == "n" and self.sampler.between:  # an n may have changed
            sums = self.sums(moved, state.inner.position)
        return state._replace(values=moved, sums=sums, tally=tally)

    def _equalised(self, values: Float[Array, " rungs"], rates: Float[Array, " pairs"]) -> Float[Array, " rungs"]:
        """Where rejections, if these were their rates, would be alike in every gap between two anchors."""
        barrier = jnp.append(0, jnp.cumsum(jnp.clip(rates, 1e-3, 1)))
        low, high = barrier[self.layout.below], barrier[self.layout.above]
        wanted = low + jnp.asarray(self.layout.share, values.dtype) * (high - low)
        return jnp.where(self.layout.anchor, values, jnp.interp(wanted, barrier, values))
