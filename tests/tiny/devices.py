"""python devices.py FOLDER: the same jobs over one and four host devices; arrays to FOLDER, JSON at the end."""

import contextlib
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from slt import observables as ob
from slt.cells import grid
from slt.engine import prepare, program
from slt.engine.mesh import spread
from slt.engine.schedule import Schedule
from slt.models import deep_linear, gaussian_location
from slt.samplers.baoab import BAOAB
from slt.samplers.exchange import ReplicaExchange
from slt.samplers.mcmc import HMC

WATCH = {"delta": ob.trace(ob.loss), "params": ob.trace(ob.parameters, every=10), "moments": ob.mean(ob.parameters)}
STEPS = BAOAB(step_size=0.1)
LOCATION = gaussian_location.make()
MODELS = {
    "cells": (LOCATION, STEPS, grid(LOCATION, n=[9, 16], data_seed=[0, 1]), Schedule(200, 4, 50, chunk=50)),
    "uneven": (LOCATION, STEPS, grid(LOCATION, n=[16], data_seed=range(5)), Schedule(150, 3, 50, chunk=50)),
    "one": (LOCATION, HMC(step_size=0.2, leapfrogs=3), grid(LOCATION, n=[16]), Schedule(150, 8, 50, chunk=50)),
    "ladders": (LOCATION, ReplicaExchange(HMC(step_size=0.2, leapfrogs=3), axis="beta", rungs=4),
                grid(LOCATION, n=[16], data_seed=[0, 1, 2]), Schedule(150, 2, 50, chunk=50)),
}  # fmt: skip
told = {}


def save(folder, name, trace, devices, **more):
    flat = {}
    for kind, tree in (("trace", trace.traces), ("fold", trace.folds)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            flat[kind + "." + jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    np.savez(folder / f"{name}.npz", status=trace.status, broken_at=trace.broken_at, **flat)
    told[name] = {"devices": devices, **more}


def main(folder):
    assert jax.device_count() == 4
    for name, (model, sampler, cells, schedule) in MODELS.items():
        for devices in (1, 4):
            job = prepare(model, sampler, cells, WATCH, schedule, key=jax.random.key(0), spread=spread(devices))
            held, more = [], {}
            trace = job.run(on_chunk=lambda chunk, held=held: held.append(chunk.carry.status.sharding.device_set))
            if name == "cells":
                more["collectives"] = collectives(job)
            save(folder, f"{name}-{devices}", trace, max(map(len, held)), **more)
    for first, then in ((4, 1), (1, 4)):
        model, sampler, cells, schedule = MODELS["uneven"]
        asked = [spread(first), spread(then)]
        jobs = [prepare(model, sampler, cells, WATCH, schedule, key=jax.random.key(0), spread=one) for one in asked]
        chunks = []

        def stop(chunk, chunks=chunks):
            chunks.append(chunk._replace(carry=jax.tree.map(jnp.copy, chunk.carry)))
            raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            jobs[0].run(on_chunk=stop)
        rest = jobs[1].run(restore=lambda bucket, like, c=chunks: (c[0].carry, c[0].stop))
        whole = np.concatenate([chunks[0].traces["delta"], rest.traces["delta"]], axis=2)
        rest.traces["delta"] = whole
        save(folder, f"again-{then}", rest, then)
    large = deep_linear.make(widths=[8, 12, 8])
    for devices in (1, "2x2"):
        job = prepare(large, BAOAB(step_size=0.01), grid(large, n=[50], data_seed=[0, 1]), WATCH, Schedule(60, 2, 10),
                      key=jax.random.key(0), spread=spread(devices))  # fmt: skip
        split = []

        def look(chunk, split=split):
            for leaf in jax.tree.leaves(chunk.carry.state.position):
                shard = leaf.addressable_shards[0].data.shape
                split.append(shard[2:] != leaf.shape[2:])

        save(folder, f"large-{devices}", job.run(on_chunk=look), 4, split=any(split))
    print(json.dumps(told))


def collectives(job):
    """The collectives in the bucket's compiled program."""
    bucket = job.plan.buckets[0]
    given, start = job._laid(bucket, job.posteriors(bucket))
    over = job.mesh(bucket)
    carry = program.begin(*given, start, job.watched, over)
    text = (
        program.advance.lower(*given, carry, 0, 1, 1, 0, observables=job.watched, length=8, mesh=over)
        .compile()
        .as_text()
    )
    return sorted(set(re.findall(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", text)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
