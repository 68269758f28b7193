"""Deep linear networks to 100 M parameters, their learning coefficients against Aoyagi's; and what bf16 and TF32 do.

The setting of Furman and Lau (arXiv 2402.03698): Gaussian localisation gamma = 1, beta = 1/log n, minibatches of 500.
Chains start at the most singular optimum, where the local coefficient is Aoyagi's global one.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cases import Case, cases
from timing import Running

import slt
from slt.engine import Job
from slt.models import deep_linear
from slt.priors import Flat

NETWORKS = {  # layers and width
    "10 k": (4, 50), "100 k": (5, 142), "1 M": (8, 354), "10 M": (16, 790), "100 M": (25, 2000),
}  # fmt: skip
ON_CPU = 2  # of them, unless a device can hold more
PRECISIONS = ("highest", "tensorfloat32", "bfloat16")


def networks(save: Callable[[list[dict[str, Any]]], None], names: list[str] | None = None) -> list[dict[str, Any]]:
    """One record a network: coefficient, its error, Aoyagi's value, steps per second, bytes in use."""
    names = (list(NETWORKS)[:ON_CPU] if jax.default_backend() == "cpu" else list(NETWORKS)) if names is None else names
    records: list[dict[str, Any]] = []
    for name in names:
        layers, width = NETWORKS[name]
        model = deep_linear.make((width,) * (layers + 1), singular_values=(1.0,) * (width // 2), prior=Flat())
        truth, n = model.truth(), 100_000 if width >= 500 else 20_000
        if truth is None or truth.lam is None:
            raise RuntimeError("the model knows no coefficient")
        size, chains = layers * width**2, 4
        running = Running(_job(model, n, chains))
        running.compile()
        count, began = 8, time.perf_counter()
        while running(count) < 2:
            count *= 2
        took = min(running(count) for _ in range(3)) / count
        made = {"network": name, "layers": layers, "width": width, "parameters": size, "n": n, "chains": chains}
        made |= {"chain_steps_per_s": chains / took, "gflops": 1e-9 * 6 * size * 500 * chains / took}
        stats = jax.devices()[0].memory_stats() or {}
        made["peak_bytes"] = stats.get("peak_bytes_in_use")
        del running
        data = model.sample(jax.random.key(1), n)
        found = slt.llc(model, truth.params, data, batch_size=500, chains=chains, seconds=120.0)
        made |= {"llc": found.value, "stderr": found.stderr, "aoyagi": float(truth.lam), "verdict": found.verdict}
        made["seconds"] = time.perf_counter() - began
        records.append(made)
        print({key: value for key, value in made.items() if key != "verdict"}, flush=True)
        save(records)
        jax.clear_caches()
    return records


def _job(model: Any, n: int, chains: int) -> Job:
    case = Case("large", model, [n], chains=chains, batch_size=500, epsilon=1e-3, burn_in=1, chunk=64)
    return case.job(case.sampler("SGLD"))


def precision(seconds: float = 5.0, names: tuple[str, ...] = ("dln", "mlp")) -> list[dict[str, Any]]:
    """For each precision of matrix products: chain-steps per second and how far the coefficient moves, same keys."""
    records: list[dict[str, Any]] = []
    for name in names:
        case, exact = cases()[name], None
        for kind in PRECISIONS:
            with jax.default_matmul_precision(kind):
                running = Running(case.job(case.sampler("SGLD")))
                running.compile()
                running.settle()
                count = 1
                while running(count) < seconds / 8:
                    count *= 2
                took = running(8 * count, keep=True)
            seen = running.seen("delta").astype(np.float64)
            nbeta = case.n[0] / math.log(case.n[0])
            found = slt.estimators.llc.llc(seen, np.array([nbeta]))
            value, error = float(np.asarray(found.value)[0]), float(np.asarray(found.stderr)[0])
            exact = (value, error) if exact is None else exact
            records.append(
                {
                    "case": name, "precision": kind, "chain_steps_per_s": running.chains * 8 * count / took,
                    "llc": value, "stderr": error, "deviation": value - exact[0],
                    "deviation_stderr": math.hypot(error, exact[1]),
                }
            )  # fmt: skip
            print(records[-1], flush=True)
    return records
