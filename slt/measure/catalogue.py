"""What discovery hands back: a catalogue of phases, with the partition and the basins it defines."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slt.model import Model, Truth, Wrapped
from slt.phases import Basin, Descent, Nearest, NearestLevel, Phases, Points
from slt.typing import Batch, Estimate, InputError, Key, Params, Scalar


@dataclass(frozen=True)
class Population(Wrapped):
    """The potential of a model's own population loss: exp(-t L(w)) prior(w), parameters as the model's."""

    @property
    def is_potential(self) -> bool:
        return True

    def truth(self) -> None:
        return None

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, " b"]:
        return -jnp.broadcast_to(loss_of(self.inner)(params), (batch.shape[0],))

    def sample(self, key: Key, num: int) -> Batch:
        return jnp.zeros((num, 0))


def has_exact(model: Model) -> bool:
    """Whether the loss is known without data."""
    return model.is_potential or (model.truth() or Truth()).population_loss is not None


def loss_of(model: Model) -> Callable[[Params], Scalar]:
    """The model's exact loss: a potential's own, or the closed form of its truth."""
    if model.is_potential:
        return lambda params: -model.log_likelihood(params, jnp.zeros((1, 0)))[0]
    exact = (model.truth() or Truth()).population_loss
    if exact is None:
        raise InputError("model", type(model).__name__, "knows no population loss: give data")
    return exact


@dataclass(frozen=True)
class Loss:
    """params -> L(w), exact (data None) or on data held as a constant; equal by value."""

    model: Model
    data: Points | None = None

    def __call__(self, params: Params) -> Scalar:
        if self.data is None:
            return loss_of(self.model)(params)
        return -jnp.mean(self.model.log_likelihood(params, self.data.tree))


@dataclass(frozen=True)
class Functions:
    """params -> what the model computes at probe samples: predictions, or log p(z_i|w) where it predicts nothing."""

    model: Model
    probes: Points

    def __call__(self, params: Params) -> Array:
        predict = getattr(self.model, "predict", None)
        if predict is not None and isinstance(self.probes.tree, tuple):
            return jnp.ravel(predict(params, self.probes.tree[0]))
        return jnp.ravel(self.model.log_likelihood(params, self.probes.tree))


@dataclass(frozen=True)
class Catalogue:
    """The phases found, from the lowest loss up; arrays over phases [p] (and values of t or n [k]).

    params: the representative w_a of each; loss: L(w_a), L_n on data; gradient: |grad L| there, highest: the largest
    curvature; rank, null, negative: eigenvalues of its Hessian above, within and below +-1e-4 of the largest (-1 for
    more than 400 parameters); kind: "minimum", "saddle", or "slope" where no critical point is near. copies: distinct
    minima merged as one another's images. lam: lam(t) at `lam_t` by HMC localised with
    `gamma`, NaN at a saddle; where the minima are a manifold it tends to rank/2.
    axis, at [k]: the coordinate of the draws and its values; share: Estimate [k, p] of the draws there; unassigned [k]:
    draws of no phase. labels: of the draws used, [k, chain, draw], -1 for none.
    """

    names: tuple[str, ...]
    params: tuple[Params, ...]
    loss: np.ndarray
    gradient: np.ndarray
    highest: np.ndarray
    rank: np.ndarray
    null: np.ndarray
    negative: np.ndarray
    kind: tuple[str, ...]
    copies: np.ndarray
    lam: Estimate
    lam_t: float
    gamma: np.ndarray
    axis: str
    at: np.ndarray
    share: Estimate
    unassigned: np.ndarray
    labels: np.ndarray
    rule: str
    centres: tuple[np.ndarray, ...] = dataclasses.field(repr=False, default=())
    exact: Loss | None = dataclasses.field(repr=False, default=None)
    features: Functions | None = dataclasses.field(repr=False, default=None)

    def dominates(self, name: str) -> tuple[float, float] | None:
        """The lowest and highest value of t (or n) at which the phase has the largest share; None where nowhere."""
        most = np.asarray(self.share.value).argmax(axis=1) == self.names.index(name)
        most &= np.asarray(self.share.value).max(axis=1) > 0
        return (float(self.at[most].min()), float(self.at[most].max())) if most.any() else None

    @property
    def table(self) -> list[dict[str, Any]]:
        """A record for each phase, of plain numbers."""
        total = np.asarray(self.share.value).mean(axis=0)
        return [
            {"phase": name, "kind": self.kind[a], "share": float(total[a]), "loss": float(self.loss[a])}
            | {"lam": float(self.lam.value[a]), "lam_stderr": float(self.lam.stderr[a]), "lam_t": self.lam_t}
            | {"rank": int(self.rank[a]), "null": int(self.null[a]), "negative": int(self.negative[a])}
            | {"gradient": float(self.gradient[a]), "copies": int(self.copies[a])}
            | {"axis": self.axis, "dominates": self.dominates(name)}
            | {"most": float(np.asarray(self.share.value)[:, a].max())}
            for a, name in enumerate(self.names)
        ]

    def __str__(self) -> str:
        lines = [f"{'phase':8} {'kind':8} {'share':>6} {'L':>10} {'lambda':>15} {'rank':>4} {'null':>4} {'neg':>4}"]
        for row in self.table:
            lam = f"{row['lam']:.2f} +- {row['lam_stderr']:.2f}" if np.isfinite(row["lam"]) else "-"
            counts = f"{row['rank']:4d} {row['null']:4d} {row['negative']:4d}"
            lines.append(f"{row['phase']:8} {row['kind']:8} {row['share']:6.3f} {row['loss']:10.6f} {lam:>15} {counts}")
        return "\n".join(lines)

    def basins(self) -> tuple[Basin, ...]:
        """The minima as basins, for a `Truth`: starts of further runs and baselines of their coefficients."""
        return tuple(
            Basin(name, self.params[a], name, float(self.loss[a]))
            for a, name in enumerate(self.names)
            if self.kind[a] == "minimum"
        )

    def phases(self, rule: str | None = None, *, steps: int = 1000) -> Phases:
        """The partition that the catalogue defines, for further runs.

        rule "function": the nearest phase in function space (default where there are data); "level": the loss that
        gradient descent reaches, which knows every symmetric copy, at `steps` gradients a label (default otherwise);
        phases of one loss are one there.
        """
        chosen = rule if rule is not None else "level" if self.features is None else "function"
        if chosen == "level" and self.exact is not None:
            order = np.argsort(self.loss, kind="stable")
            apart = np.append(True, np.diff(self.loss[order]) > 1e-6 * (1 + np.abs(self.loss).max()))
            levels, names = self.loss[order][apart], [self.names[i] for i in order[apart]]
            gaps = np.diff(levels)
            near = NearestLevel(self.exact, tuple(map(float, levels)), float(gaps.min() / 2) if gaps.size else np.inf)
            label = Descent(near, self.exact, steps, float(0.5 / max(self.highest.max(), 1e-9)))
            return Phases(tuple(names), label, "the loss that gradient descent reaches")
        if chosen == "function" and self.features is not None:
            which = tuple(a for a, each in enumerate(self.centres) for _ in each)
            label = Nearest(Points(np.concatenate(self.centres)), which, (), self.features)
            return Phases(self.names, label, "the nearest of the phases found, in function space")
        raise InputError("rule", rule, "must be 'level', or 'function' for a catalogue made with data")
