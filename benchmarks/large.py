"""Deep linear networks to 100 M parameters, their learning coefficients against Aoyagi's; and what bf16 and TF32 do.

After Furman and Lau (arXiv 2402.03698; numbers from the authors' scripts), where gamma = 1 and minibatches are of 500.
Each record says what differs. Without --trained chains start at the most singular optimum, where the local coefficient
is Aoyagi's global one; with it at what Adam has found, where the local one may be another.
"""

import dataclasses
import functools
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from cases import Case, cases
from timing import Running

import slt
from slt.engine import Job
from slt.model import PRECISIONS, Model, Rounded
from slt.models import deep_linear
from slt.priors import Flat

NETWORKS = {  # layers and width
    "10 k": (4, 50), "100 k": (5, 142), "1 M": (8, 354), "10 M": (16, 790), "100 M": (25, 2000),
}  # fmt: skip
ON_CPU = 2  # of them, unless a device can hold more
BATCH, GAMMA = 500, 1.0
PUBLISHED = {
    "n": 1_000_000, "inputs": "uniform on [-10, 10]", "start": "trained by Adam, 50,000 steps at a rate of 0.01",
    "sampler": "SGLD, epsilon 5e-9, 200,000 steps", "batch_size": BATCH, "gamma": GAMMA,
}  # fmt: skip
BITS = {"tf32": 10, "bf16": 7}
"""Bits of a factor's mantissa, the leading one not counted."""


def networks(
    save: Callable[[list[dict[str, Any]]], None],
    names: list[str] | None = None,
    *,
    trained: int = 0,
    rate: float = 1e-3,
    n: int | None = None,
    seconds: float = 120.0,
) -> list[dict[str, Any]]:
    """One record a network: coefficient, its error, Aoyagi's value, steps per second, bytes in use.

    trained: steps of Adam, at `rate`, to the start (0: the exact optimum). n: default 20,000, of wide networks 100,000.
    seconds: of measuring the coefficient. "setting" says what was done, "differs" where `PUBLISHED` did otherwise.
    """
    names = (list(NETWORKS)[:ON_CPU] if jax.default_backend() == "cpu" else list(NETWORKS)) if names is None else names
    records: list[dict[str, Any]] = []
    for name in names:
        layers, width = NETWORKS[name]
        model = deep_linear.make((width,) * (layers + 1), singular_values=(1.0,) * (width // 2), prior=Flat())
        truth, size, chains = model.truth(), layers * width**2, 4
        samples = n or (100_000 if width >= 500 else 20_000)
        if truth is None or truth.lam is None or truth.population_loss is None or truth.loss is None:
            raise RuntimeError("the model knows no coefficient")
        began = time.perf_counter()
        made: dict[str, Any] = {"case": f"large {name}", "sampler": "SGLD", "network": name, "layers": layers}
        made |= {"width": width, "parameters": size, "chains": chains}
        made |= _speed(_job(model, samples, chains), chains, size, min(seconds, 2.0))
        jax.clear_caches()
        data = model.sample(jax.random.key(1), samples)
        start = _trained(model, data, trained, rate) if trained else truth.params
        made["excess_loss"] = float(truth.population_loss(start)) - truth.loss
        found = slt.llc(model, start, data, gamma=GAMMA, batch_size=BATCH, chains=chains, seconds=seconds)
        made |= {"llc": found.value, "stderr": found.stderr, "aoyagi": float(truth.lam), "verdict": found.verdict}
        made |= {"peak_bytes": _peak(), "seconds": time.perf_counter() - began}
        setting = {
            "n": samples, "inputs": "N(0, I)",
            "start": f"trained by Adam, {trained:,} steps at a rate of {rate:g}" if trained else "the exact optimum",
            "sampler": f"slt.llc: BAOAB with a control variate, within {seconds:g} s", "batch_size": BATCH,
            "gamma": GAMMA,
        }  # fmt: skip
        made["setting"] = setting
        made["differs"] = [f"{key}: published {PUBLISHED[key]}" for key in setting if setting[key] != PUBLISHED[key]]
        records.append(made)
        print({key: value for key, value in made.items() if key != "verdict"}, flush=True)
        save(records)
        jax.clear_caches()
    return records


def _job(model: Any, n: int, chains: int) -> Job:
    case = Case("large", model, [n], chains=chains, batch_size=BATCH, epsilon=1e-3, burn_in=1, chunk=64)
    return case.job(case.sampler("SGLD"))


def _speed(job: Job, chains: int, size: int, least: float) -> dict[str, float]:
    """Of whole steps of SGLD, and beside their gradient alone, in turn."""
    running = Running(job)
    running.compile()
    watches = {"step": running, "gradient": timing.gradient(job, BATCH)}
    took = timing.interleaved(watches, least, 3)
    step = float(np.median(took["step"]))
    return {
        "chain_steps_per_s": 1 / step, "gflops": 1e-9 * 6 * size * BATCH / step, "compile_s": running.compile_s,
        "ratio_to_gradient": float(np.median(took["step"] / took["gradient"])),
    }  # fmt: skip


def _trained(model: Model, data: Any, steps: int, rate: float) -> Any:
    """Where Adam gets on the data from N(0, 1/width), in minibatches; RuntimeError where it diverges."""
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))
    width = jax.tree.leaves(zero)[0].shape[0]
    found = slt.train(
        model, optimiser="adam", learning_rate=rate, steps=steps, runs=1, loss="data", data=data, batch_size=BATCH,
        start=zero, scale=width**-0.5, checkpoints=[steps], fine=1,
    )  # fmt: skip
    if not found.ok.all():
        raise RuntimeError(f"training diverges at a rate of {rate:g}: take a smaller one")
    return jax.tree.map(jnp.asarray, found.at(0, -1))


def _peak() -> int:
    """Bytes in use at the most so far: of the device, on a CPU of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Emulated(Rounded):
    """What `Rounded` does on an accelerator, on a CPU, which multiplies whole floats: of deep linear networks only."""

    def log_likelihood(self, params: Any, batch: Any) -> Any:
        inner: Any = self.inner
        (x, y), dot = batch, _dot(BITS[self.precision])
        weights = [params[f"w{i}"] for i in range(len(params))]
        if x.shape[0] > max(inner.net.module.widths):  # as the network does it
            output = dot(x, functools.reduce(dot, weights))
        else:
            output = functools.reduce(dot, weights, x)
        return inner.likelihood.log_density(output, y)


def _dot(bits: int) -> Any:
    """a @ b and its derivatives, the factors of each product rounded."""

    def near(a: Any) -> Any:
        return jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=bits)

    @jax.custom_vjp
    def dot(a: Any, b: Any) -> Any:
        return near(a) @ near(b)

    def backward(factors: Any, g: Any) -> Any:
        a, b = map(near, factors)
        return near(g) @ b.T, a.T @ near(g)

    dot.defvjp(lambda a, b: (dot(a, b), (a, b)), backward)
    return dot


def precision(seconds: float = 5.0, names: tuple[str, ...] = ("dln", "mlp")) -> list[dict[str, Any]]:
    """For each precision of a config: chain-steps per second and how far the coefficient moves, same keys.

    On a CPU the rounding is emulated: the deviation is that of an accelerator, and steps per second are null.
    """
    records: list[dict[str, Any]] = []
    emulated = jax.default_backend() == "cpu"
    for name in names:
        plain, exact, draws = cases()[name], None, 0
        for kind in PRECISIONS:
            rounded = emulated and kind != "highest"
            model = Emulated(plain.model, kind) if rounded else Rounded(plain.model, kind)
            case = dataclasses.replace(plain, model=model)
            running = Running(case.job(case.sampler("SGLD")))
            running.compile()
            running.settle()
            draws = draws or timing.filling(running, seconds)  # as many in every precision
            took = running(draws, keep=True)
            seen = running.seen("delta").astype(np.float64)
            nbeta = case.n[0] / math.log(case.n[0])
            found = slt.estimators.llc.llc(seen, np.array([nbeta]))
            value, error = float(np.asarray(found.value)[0]), float(np.asarray(found.stderr)[0])
            exact = (value, error) if exact is None else exact
            records.append(
                {
                    "case": name, "precision": kind, "emulated": rounded,
                    "chain_steps_per_s": None if rounded else running.chains * draws / took,
                    "llc": value, "stderr": error, "deviation": value - exact[0],
                    "deviation_stderr": math.hypot(error, exact[1]),
                }
            )  # fmt: skip
            print(records[-1], flush=True)
    return records
