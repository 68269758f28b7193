"""What benchmarks/speed.py times: the engine's own chains, the floors under a step, the machine's peaks.

A floor is a program of its own, in a loop of the same kind, under the same vmaps and compiler options as the engine's.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from slt.engine import Job, cheap_keys, program
from slt.samplers.base import normal_like


class Watch(Protocol):
    """watch(steps): the seconds that so many steps (of a Running, draws) of all its chains took."""

    chains: int

    def __call__(self, steps: int, /) -> float: ...


def chains(job: Job) -> int:
    """Chains of all cells together."""
    return sum(len(bucket.rows) for bucket in job.plan.buckets) * job.schedule.chains


class Running:
    """A job's chains, advanced a little at a time, as Job.run would advance them, whatever its buckets."""

    def __init__(self, job: Job):
        self.job, self.draws, self.compile_s, self.chains = job, 0, 0.0, chains(job)
        self.posteriors = [job.posteriors(bucket) for bucket in job.plan.buckets]
        pairs = zip(job.plan.buckets, self.posteriors, strict=True)
        self.carries = [job.start_bucket(bucket, posterior) for bucket, posterior in pairs]
        jax.block_until_ready([carry.status for carry in self.carries])
        self.kept: list[list[dict[str, np.ndarray]]] = [[] for _ in self.carries]

    def __call__(self, draws: int, keep: bool = False) -> float:
        """So many draws of all buckets, in chunks; the seconds they took, the traces brought to the host included."""
        before, stop = time.perf_counter(), self.draws + draws
        while self.draws < stop:
            until = min(self.draws + self.job.chunk_length, stop)
            for number, posterior in enumerate(self.posteriors):
                chunk = self.job.advance(number, posterior, self.carries[number], self.draws, until)
                self.carries[number] = chunk.carry
                if keep:
                    self.kept[number].append(chunk.traces)
            self.draws = until
        return time.perf_counter() - before

    def compile(self) -> None:
        """The first draw of all buckets, and in `compile_s` how much longer it took than the second, a program."""
        first, second = self(1), self(1)
        self.compile_s = max(0.0, first - second) / len(self.posteriors)

    def settle(self) -> None:
        """To the end of burn-in."""
        self(max(0, self.job.schedule.burn_in - self.draws))

    def seen(self, name: str, bucket: int = 0) -> np.ndarray:
        """What was kept of an observable: [cells, chains, draws]."""
        return np.concatenate([part[name] for part in self.kept[bucket]], axis=2)


def gradient(job: Job, batch_size: int | None) -> "Loop":
    """value_and_grad of the log density alone; of minibatches with the drawing and gathering of their samples."""

    def one(posterior: Any, key: Any, step: Any, position: Any) -> Any:
        if batch_size is None:
            delta, grad = posterior.value_and_grad(position)
        else:
            delta, grad = posterior.estimate(position, jax.random.fold_in(key, step), batch_size)
        return jax.tree.map(lambda w, g: w - 1e-12 * g - 1e-30 * delta, position, grad)

    return Loop(job, one)


def normals(job: Job) -> "Loop":
    """A standard normal for every parameter, added up."""

    def one(posterior: Any, key: Any, step: Any, position: Any) -> Any:
        drawn = normal_like(jax.random.fold_in(key, step), position)
        return jax.tree.map(lambda w, z: w + 1e-12 * z, position, drawn)

    return Loop(job, one)


class Loop:
    """one(posterior, key, step, position) -> position of every chain of a job, over and over; called with the steps."""

    def __init__(self, job: Job, one: Callable[..., Any]):
        mapped = jax.vmap(jax.vmap(one, (None, 0, None, 0)), (0, 0, None, 0))

        def loop(posteriors: Any, keys: Any, positions: Any, steps: Any) -> Any:
            return jax.lax.fori_loop(0, steps, lambda i, at: mapped(posteriors, keys, i, at), positions)

        self.chains = chains(job)
        self.compiled = jax.jit(loop, donate_argnums=2, compiler_options=program.LONG)
        self.given, self.at = [], []
        for bucket in job.plan.buckets:
            posteriors = job.posteriors(bucket)
            self.given.append((posteriors, job.keys(bucket)))
            self.at.append(job.start_bucket(bucket, posteriors).state.position)
        self(1)

    def __call__(self, steps: int) -> float:
        """The seconds that so many steps take."""
        before = time.perf_counter()
        with cheap_keys():
            pairs = zip(self.given, self.at, strict=True)
            self.at = [self.compiled(*given, at, np.int32(steps)) for given, at in pairs]
        jax.block_until_ready(self.at)
        return time.perf_counter() - before


def intensity(job: Job, batch_size: int | None) -> tuple[float, float]:
    """(floating-point operations, bytes of arguments and results) of one gradient of one chain, as XLA counts them."""
    bucket = job.plan.buckets[-1]
    posterior = jax.tree.map(lambda leaf: leaf[0], job.posteriors(bucket))
    key, position = jax.random.key(0), posterior.centre_position

    def one(posterior: Any, key: Any, position: Any) -> Any:
        if batch_size is None:
            return posterior.value_and_grad(position)
        return posterior.estimate(position, key, batch_size)

    found = jax.jit(one).lower(posterior, key, position).compile().cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return float(found.get("flops", np.nan)), float(found.get("bytes accessed", np.nan))


def peaks(quick: bool = False) -> dict[str, float]:
    """What the device reaches: of a large float32 matrix product in GFLOP/s, and of reading and writing in GB/s."""
    on_cpu = jax.devices()[0].platform == "cpu"
    size, length = (1024, 2**24) if on_cpu or quick else (8192, 2**28)
    a = jnp.ones((size, size), jnp.float32) / size
    x = jnp.ones(length, jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    scale = jax.jit(lambda x: x * 1.000001, donate_argnums=0)

    def matmul() -> float:
        return 2e-9 * size**3 / _seconds(lambda: product(a, a))

    def memory() -> float:
        nonlocal x
        before = time.perf_counter()
        x = jax.block_until_ready(scale(x))
        return 8e-9 * length / (time.perf_counter() - before)

    matmul(), memory()
    rounds = 5 if quick else 15
    return {
        "matmul_gflops": max(matmul() for _ in range(rounds)),
        "memory_gb_per_s": max(memory() for _ in range(rounds)),
    }


def _seconds(fn: Callable[[], Any]) -> float:
    before = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - before


def interleaved(watches: Mapping[str, Watch], seconds: float, rounds: int) -> dict[str, np.ndarray]:
    """Seconds a chain-step by name, one entry a round: each round runs every watch in turn for about `seconds`.

    A machine that is busy for a while is busy for all of them, so ratios within a round hold.
    """
    counts = {name: filling(watch, seconds) for name, watch in watches.items()}
    found: dict[str, list[float]] = {name: [] for name in watches}
    for number in range(rounds):
        for name in list(watches) if number % 2 == 0 else list(reversed(watches)):
            count = counts[name]
            found[name].append(watches[name](count) / (count * watches[name].chains))
    return {name: np.array(values) for name, values in found.items()}


def filling(watch: Watch, seconds: float) -> int:
    """How many steps fill `seconds`, at least 1; tried by fours."""
    count = 1
    while True:
        took = watch(count)
        if took > seconds / 4:
            return max(1, round(count * seconds / took))
        count *= 4
