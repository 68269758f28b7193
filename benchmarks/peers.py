"""Other libraries' SGLD on the cases of benchmarks/speed.py, run by the Python of an environment that holds them.

    python -m venv PEERS; PEERS/bin/pip install torch devinterp==1.3.2 canonical-interp==0.2.7
    python benchmarks/speed.py --peers PEERS/bin/python

A server for speed.py: reads one JSON request a line from standard input, answers with one line of JSON. A request names
a peer, the number of steps and a .npz with the case's data, start and numbers; the answer has the chain-steps done, the
seconds they took and the learning coefficient found. {"peer": null} lists the peers that can be had here.
Same model, data, start, step, n beta and localisation as the chains of slt that they stand beside.
"""

import contextlib
import functools
import io
import itertools
import json
import logging
import os
import sys
import time
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
if not hasattr(itertools, "batched"):  # canonical-interp asks for Python 3.12 for this alone

    def _batched(items, size):
        items = iter(items)
        while batch := tuple(itertools.islice(items, size)):
            yield batch

    itertools.batched = _batched

CHAINS = 2  # of devinterp, which runs one chain after another: more of them cost as much each


class Tms(nn.Module):
    """x -> ReLU(W^T W x + b)."""

    def __init__(self, params):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(params["W"]))
        self.b = nn.Parameter(torch.tensor(params["b"]))

    def forward(self, x):
        return torch.relu(x @ self.w.T @ self.w + self.b)


class Linear(nn.Module):
    """x -> x W_0 W_1 ..."""

    def __init__(self, params):
        super().__init__()
        names = sorted(params)
        self.layers = nn.Sequential(*(nn.Linear(*params[name].shape, bias=False) for name in names))
        for layer, name in zip(self.layers, names, strict=True):
            layer.weight.data = torch.tensor(params[name]).T.contiguous()

    def forward(self, x):
        return self.layers(x)


def loss(prediction, y):
    """Minus the log likelihood at unit noise, without its constant: its mean over samples."""
    return 0.5 * (prediction - y).square().sum(-1).mean()


class Tensors(DataLoader):
    """Batches cut out of whole tensors: what a DataLoader does, without its cost for every sample."""

    def __init__(self, x, y, batch_size):
        super().__init__(TensorDataset(x, y), batch_size=batch_size)

    def __iter__(self):
        x, y = self.dataset.tensors
        if self.batch_size == len(x):
            yield x, y
            return
        for index in torch.randperm(len(x))[: len(self) * self.batch_size].split(self.batch_size):
            yield x[index], y[index]


def load(path):
    """(module, inputs, outputs, batch size, numbers) of a case."""
    held = np.load(path)
    params = {name[2:]: held[name] for name in held.files if name.startswith("p.")}
    numbers = {name: float(held[name]) for name in ("n", "nbeta", "gamma", "epsilon", "batch_size", "chains")}
    x, y = torch.tensor(held["x"]), torch.tensor(held["y"])
    size = int(numbers["batch_size"])
    module = Tms(params) if "W" in params else Linear(params)
    return module, x, y, size, numbers


def devinterp(path, steps, whole):
    """devinterp's sampler and its LLC callback: one chain after another, a DataLoader or a whole-tensor loader."""
    from devinterp.optim.sgld import SGLD
    from devinterp.slt.llc import LLCEstimator
    from devinterp.slt.sampler import sample
    from devinterp.utils import make_evaluate

    module, x, y, size, numbers = load(path)
    loader = Tensors(x, y, size) if whole else DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True)
    with torch.no_grad():
        first = loss(module(x), y)
    callback = LLCEstimator(CHAINS, steps, first, nbeta=numbers["nbeta"])
    before = time.perf_counter()
    sample(
        module, loader, [callback], evaluate=make_evaluate(loss), sampling_method=SGLD,
        optimizer_kwargs={"lr": 2 * numbers["epsilon"], "nbeta": numbers["nbeta"], "localization": numbers["gamma"]},
        num_draws=steps, num_chains=CHAINS, init_loss=first, seed=list(range(CHAINS)), verbose=False,
    )  # fmt: skip
    seconds = time.perf_counter() - before
    late = callback.losses[:, steps // 3 :].double().mean() - first
    return {"chain_steps": CHAINS * steps, "seconds": seconds, "llc": float(numbers["nbeta"] * late)}


def canonical_interp(path, steps):
    """canonical-interp: all chains vmapped, one minibatch for all of them; not compiled, which fails on many CPUs."""
    from canonical_interp.slt import LLCEstimator

    module, x, y, size, numbers = load(path)
    chains = int(numbers["chains"])
    estimator = LLCEstimator(
        draws=steps, chains=chains, burnin_steps=0, learning_rate=2 * numbers["epsilon"],
        localization=numbers["gamma"], nbeta=numbers["nbeta"],
    )  # fmt: skip
    with torch.no_grad():
        first = loss(module(x), y)
    before = time.perf_counter()
    estimator.estimate_llc(
        module, Tensors(x, y, size), criterion_fn=loss, compile=False, show_progress=False, current_loss=first, seed=0
    )
    seconds = time.perf_counter() - before
    late = estimator.array_log_l[:, steps // 3 :].double().mean() - first
    return {"chain_steps": chains * steps, "seconds": seconds, "llc": float(numbers["nbeta"] * late)}


PEERS = {
    "devinterp_loader": ("devinterp", functools.partial(devinterp, whole=False)),
    "devinterp_tensor": ("devinterp", functools.partial(devinterp, whole=True)),
    "canonical_interp": ("canonical_interp", canonical_interp),
}


def available():
    """The peers whose library can be imported here, with versions."""
    from importlib import import_module, metadata

    found = {}
    for name, (module, _) in PEERS.items():
        with contextlib.suppress(ImportError):
            import_module(module)
            found[name] = f"{metadata.version(module.replace('_', '-'))}, torch {torch.__version__}"
    return found


@functools.lru_cache
def threads(peer, path):
    """How many threads serve this peer best on this case: one, or one a core."""
    return min((1, os.cpu_count() or 1), key=lambda number: run(peer, path, 4, number)["seconds"])


def run(peer, path, steps, number):
    """A peer with so many threads."""
    torch.set_num_threads(number)
    return PEERS[peer][1](path, steps)


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = io.StringIO()  # the libraries print
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["peer"] is None:
            answer = available()
        else:
            answer = run(asked["peer"], asked["path"], asked["steps"], threads(asked["peer"], asked["path"]))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
