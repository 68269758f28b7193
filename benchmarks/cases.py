"""The cases that benchmarks/speed.py times.

tms    x -> ReLU(W^T W x + b), W 2x6; n = 500, full batch, 8 chains
dln    three linear 10x10 layers; n = 1000, minibatches of 100, 8 chains
mlp    three linear 600x600 layers, 1.08 M parameters; n = 5000, minibatches of 256, 2 chains
sweep  tms on 512 cells (n from 32 to 4096) x 16 chains, full batch
wide   tms with 16,384 chains: for accelerators

n beta = n/log n and gamma = 1. The prior is flat: other libraries know only the localiser.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import slt
from slt import drivers
from slt.engine import Job
from slt.model import Model
from slt.models import deep_linear, superposition
from slt.priors import Flat
from slt.samplers import BAOAB, HMC, SGLD, SGNHT
from slt.samplers.base import Sampler

SAMPLERS = ("SGLD", "BAOAB", "SGNHT", "HMC")


@dataclass(frozen=True)
class Case:
    """One target with its grid, its chains and the step of its samplers.

    epsilon: of SGLD, in units of 1/(1 + gamma + n beta); underdamped samplers take `underdamped` times it (their bias
    is of second order) and a friction in units of sqrt(1 + gamma + n beta). burn_in: steps. chunk: steps brought to the
    host at once. peers: whether other libraries can run it. devices: that share the chains (on a CPU, cores).
    """

    name: str
    model: Model
    n: Sequence[int]
    data_seed: Sequence[int] = (0,)
    chains: int = 8
    batch_size: int | None = None
    start: str = "optimum"
    epsilon: float = 0.1
    underdamped: float = 1.0
    friction: float = 1.0
    leapfrogs: int = 10
    burn_in: int = 500
    chunk: int = 1024
    peers: bool = True
    devices: int | None = None

    def sampler(self, name: str) -> Sampler:
        """One of SAMPLERS, with this case's step; HMC takes the full batch."""
        if name == "HMC":
            return HMC(leapfrogs=self.leapfrogs, jitter=0.9, target=0.9)
        given: dict[str, Any] = {"per_nbeta": True, "batch_size": self.batch_size}
        if name == "SGLD":
            return SGLD(step_size=self.epsilon, **given)
        kind = {"BAOAB": BAOAB, "SGNHT": SGNHT}[name]
        return kind(step_size=self.epsilon * self.underdamped, friction=self.friction, **given)

    def job(self, sampler: Sampler, **options: Any) -> Job:
        """Made as `slt run` makes it, with the observables that it always watches; n beta = n/log n and gamma = 1."""
        burn_in = min(self.burn_in, 64) if isinstance(sampler, HMC) else self.burn_in
        chunk = options.pop("chunk", max(1, self.chunk // steps(sampler)))
        schedule = slt.Schedule(draws=2**30, chains=self.chains, burn_in=burn_in, chunk=chunk)
        axes = {"n": list(self.n), "beta": ["1/log n"], "gamma": [1.0], "data_seed": list(self.data_seed)}
        return drivers.assemble(
            self.model,
            sampler,
            schedule,
            axes=axes | options.pop("axes", {}),
            start=[self.start],
            devices=self.devices,
            **options,
        ).job


def steps(sampler: Sampler) -> int:
    """Gradients a draw: a chain-step is one of them, of HMC a leapfrog."""
    return int(sampler.leapfrogs) if isinstance(sampler, HMC) else 1


def cases(quick: bool = False) -> dict[str, Case]:
    """All cases by name; quick: with a burn-in too short for coefficients, and two n of the sweep's eight."""
    tms, sizes = superposition.make(c=6, prior=Flat()), [32, 64, 128, 256, 512, 1024, 2048, 4096]
    dln = deep_linear.make(widths=(10,) * 4, singular_values=(1.0,) * 5, prior=Flat())
    mlp = deep_linear.make(widths=(600,) * 4, singular_values=(1.0,) * 5, prior=Flat())
    made = [
        Case("tms", tms, [500], burn_in=4000, chunk=4096),
        Case("dln", dln, [1000], batch_size=100, epsilon=0.02, burn_in=20000, chunk=4096),
        Case("mlp", mlp, [5000], batch_size=256, chains=2, epsilon=1e-3, burn_in=4, chunk=8, leapfrogs=4),
        Case("sweep", tms, sizes, data_seed=range(64), chains=16, burn_in=32, chunk=32, peers=False),
        Case("wide", tms, [500], chains=16384, burn_in=32, chunk=64, peers=False),
    ]
    if quick:
        made = [dataclasses.replace(case, burn_in=min(case.burn_in, 500)) for case in made]
        made[3] = dataclasses.replace(made[3], n=[sizes[0], sizes[-1]])
    return {case.name: case for case in made}
