"""Chains that are driven by hand, stage by stage: one compiled program whatever the sampler's numbers."""

import time
from dataclasses import dataclass

import jax
import numpy as np

from slt.engine import Job
from slt.samplers.base import Sampler
from slt.typing import Status


@dataclass
class Chains:
    """The chains of a job with a single bucket, advanced as far as asked and no further.

    draws: made so far, alike for all chains; seconds: spent sampling, compilation apart (`compiling`).
    """

    job: Job
    draws: int = 0
    seconds: float = 0.0
    compiling: float = 0.0

    def __post_init__(self) -> None:
        before = time.perf_counter()
        self.posteriors = self.job.posteriors(self.job.plan.buckets[0])
        self._carry = self.job.start_bucket(self.job.plan.buckets[0], self.posteriors)
        jax.block_until_ready(self._carry.status)
        self.compiling += time.perf_counter() - before
        self.status = np.asarray(self._carry.status)

    @property
    def ok(self) -> np.ndarray:
        """Which chains [cells, chains] are not broken."""
        return self.status == Status.OK

    def go(self, draws: int, sampler: Sampler | None = None, adapt: bool = False) -> dict[str, np.ndarray]:
        """What the observables saw at the next draws: [cells, chains, draws, ...] by name.

        sampler: the job's with other numbers; adapt: whether it tunes itself meanwhile.
        """
        stop, parts = self.draws + draws, []
        while self.draws < stop:
            until = min(self.draws + self.job.chunk_length, stop)
            burn_in = until if adapt else 0
            chunk = self.job.advance(0, self.posteriors, self._carry, self.draws, until, sampler, burn_in)
            self._carry, self.status, self.draws = chunk.carry, np.asarray(chunk.status), until
            if chunk.compiled:
                self.compiling += chunk.seconds
            else:
                self.seconds += chunk.seconds
            parts.append(chunk.traces)
        return {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}

    def again(self) -> "Chains":
        """The same chains from their start."""
        return Chains(self.job)
