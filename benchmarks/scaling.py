"""How the cost of a step grows with cells, chains, samples, parameters, devices and draws; beside what theory says.

Each quantity over three decades, or to what is there (devices: all of them). Theory: a step costs the same for
every chain, sample and parameter (slope 1 once the device is full, 0 before), d devices take 1/d of the time, a run's
time is in its draws, and folded observables take memory that knows nothing of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cases import Case
from timing import Running

import slt
from slt import observables
from slt.engine import Job, cheap_keys, program
from slt.models import deep_linear, superposition
from slt.priors import Flat
from slt.samplers import SGLD

TMS = superposition.make(c=6, prior=Flat())
WIDTHS = (4, 13, 40, 130, 400)  # of three square layers: 48 to 480,000 parameters
SAMPLES = (32, 256, 2048, 16384, 131072)


def seconds(job: Job, least: float) -> float:
    """Of one step of all chains: the best of three timings of at least `least` seconds."""
    running = Running(job)
    running.compile()
    count = 1
    while running(count) < least:
        count *= 2
    return min(running(count) for _ in range(3)) / count


def case(**fields: Any) -> Job:
    """A job of the toy model unless told otherwise, watched as `slt run` watches it; `devices` as for the engine."""
    options = {"devices": fields.pop("devices", 1)}
    made = Case(**{"name": "", "model": TMS, "n": [64], "chains": 1, "burn_in": 1, "chunk": 256} | fields)
    return made.job(made.sampler("SGLD"), **options)


def folded(draws: int, keep: bool) -> int:
    """Bytes that the program of a run of so many draws holds: with its observables folded, or a trace kept whole."""
    watched = {"mean": observables.trace(observables.loss) if keep else observables.pointwise(observables.differences)}
    schedule = slt.Schedule(draws=draws, chains=8, chunk=draws if keep else None)
    made = slt.prepare(TMS, SGLD(), slt.grid(TMS, n=[512]), watched, schedule, key=jax.random.key(0))
    bucket = made.plan.buckets[0]
    posteriors, keys = made.posteriors(bucket), made.keys(bucket)
    numbers = (np.int32(0), np.int32(1), np.int32(1), np.int32(0))
    with cheap_keys():
        carry = program.begin.eval_shape(made.sampler, posteriors, keys, made.start, made.watched, None)
        lowered = program.advance.lower(
            made.sampler, posteriors, keys, carry, *numbers,
            observables=made.watched, length=made.chunk_length, mesh=None,
        )  # fmt: skip
    found = lowered.compile().memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def measure(save: Callable[[], None], content: dict[str, Any], quick: bool = False) -> list[dict[str, Any]]:
    """One record a quantity: label, unit, the values `at`, and lines by name with their y and the slope of theory."""
    least = 0.02 if quick else 0.2
    decades = [1, 10] if quick else [1, 10, 100, 1000]
    widths, samples = (WIDTHS[:2], SAMPLES[:2]) if quick else (WIDTHS, SAMPLES)
    devices = [d for d in (1, 2, 4, 8, 16, 32) if d <= len(jax.devices())]
    records: list[dict[str, Any]] = content.setdefault("scaling", [])

    def add(label: str, at: list, unit: str, **lines: tuple[list[float], float | None]) -> None:
        found = {name: {"y": y, "slope": slope} for name, (y, slope) in lines.items()}
        records.append({"label": label, "unit": unit, "at": list(at), "lines": found})
        for number, value in enumerate(at):
            print(label, value, unit, *(f"{line['y'][number]:.3g}" for line in found.values()), flush=True)
        save()
        jax.clear_caches()

    step = "seconds a step"
    many = [case(data_seed=range(count), chunk=64) for count in decades]
    add("cells", decades, step, tms=([seconds(job, least) for job in many], 1.0))
    many = [case(chains=count, chunk=64) for count in decades]
    add("chains", decades, step, tms=([seconds(job, least) for job in many], 1.0))
    many = [case(n=[size], chains=8, chunk=64) for size in samples]
    add("n, full batch", list(samples), step, tms=([seconds(job, least) for job in many], 1.0))
    models = [deep_linear.make(widths=(width,) * 4, singular_values=(1.0,), prior=Flat()) for width in widths]
    many = [case(model=model, n=[1000], batch_size=64, chains=8, epsilon=1e-4, chunk=16) for model in models]
    sizes = [3 * width**2 for width in widths]
    add("parameters", sizes, step, **{"three layers": ([seconds(job, least) for job in many], 1.0)})
    wide = [case(chains=512, chunk=64, devices=count) for count in devices]
    add("devices", devices, step, **{"tms, 512 chains": ([seconds(job, least) for job in wide], -1.0)})
    draws, running = [100 * d for d in decades], Running(case(chains=8, chunk=1024))
    running.compile()
    add("draws", draws, "seconds a run", tms=([running(count) for count in draws], 1.0))
    held = [folded(count, keep=False) for count in draws], [folded(count, keep=True) for count in draws]
    add("draws", draws, "bytes on the device", folds=(held[0], 0.0), **{"a trace kept whole": (held[1], 1.0)})
    return records
