"""How fast are steps, against what they must cost, and against other libraries?

    python benchmarks/speed.py --json benchmarks/speed.json --figure docs/images/speed.png --peers PEERS/bin/python
    python benchmarks/speed.py --quick
    python benchmarks/speed.py --scaling docs/images/scaling.png --json benchmarks/scaling.json
    python benchmarks/speed.py --large --precision --json benchmarks/large.json      # --trained 50000 --rate 0.01

For each case (see cases.py) and each of SGLD, BAOAB, SGNHT and HMC: chain-steps per second, one step being one gradient
of one chain (of HMC a leapfrog), with the observables that `slt run` watches and the traces brought to the host. Beside
it, in turn and in the same run: value_and_grad alone in the same loop (of minibatches, with drawing and gathering
them), a normal for each parameter alone, and SGLD of other libraries (peers.py tells how to get them). Everything is
repeated in rounds, and a ratio is the median over rounds of the ratio within a round: on a busy machine read ratios.

JSON: a list under "cases", each with case, sampler, chain_steps_per_s, ratio_to_gradient (seconds of a step over those
of its gradient), share_of_floors (gradient and normals over the step), share_of_roofline (the gradients' operations per
second over what the peaks allow), ess_per_s (of the loss on the full data; null where the run was too short to tell),
compile_s (a program), and ratio_to_NAME (chain-steps per second over the peer's) for each peer, null in cases that the
peers do not know. On a CPU the chains share all its cores (`slt run devices=N`), as the peers' matrix products do.
"equal_bias" of SGLD: its effective draws per second at the step where its learning coefficient is 2 per cent off, and
how many times more HMC makes. "peaks": the largest matrix product and copy measured here;
"compiling": see compiling.py; "bars": what issue 5 asks of two CPU cores, or of an accelerator.

--quick: the same in 60 s on two free cores (peers aside). Each case gets an equal share of the time that is left, and
as many samplers as it can compile in that, in the order above ("left_out": the others); the sweep has two n, burn-in is
short, and minibatch samplers have no ess_per_s.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before anything makes JAX look; of no effect on accelerators
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count()))

import bars
import compiling
import jax
import numpy as np
import timing
from cases import SAMPLERS, Case, cases, steps
from timing import Running, Watch

from slt import observables
from slt.estimators import diagnostics
from slt.samplers import SGLD
from slt.samplers.base import Sampler

BIAS = 0.02
"""Relative bias of the learning coefficient at which SGLD and HMC are compared."""
QUICK = 50.0
"""Seconds after which --quick begins nothing more."""
PEAKS = {"matmul_gflops": math.nan, "memory_gb_per_s": math.nan}


class Peers:
    """The other environment's server; see peers.py."""

    def __init__(self, python: str | None):
        self.names: dict[str, str] = {}
        if python is not None:
            script = str(Path(__file__).with_name("peers.py"))
            self.server = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.names = self.ask(peer=None)

    def ask(self, **request: Any) -> Any:
        """The server's answer."""
        if self.server.stdin is None or self.server.stdout is None:
            raise RuntimeError("the peers' process has no pipes")
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            raise RuntimeError("the peers' process ended: its message stands above")
        return json.loads(line)

    def close(self) -> None:
        """End the server."""
        if self.names and self.server.stdin is not None:
            self.server.stdin.close()
            self.server.wait(timeout=60)


@dataclasses.dataclass
class Peer:
    """One peer on one case, as a Watch. llc: of its longest run."""

    peers: Peers
    name: str
    path: str
    chains: int = 1
    llc: float = float("nan")

    def __call__(self, steps: int, /) -> float:
        found = self.peers.ask(peer=self.name, path=self.path, steps=max(steps, 2))
        self.chains, self.llc = found["chain_steps"] // max(steps, 2), found["llc"]
        return found["seconds"] * steps / max(steps, 2)


def exported(case: Case, folder: str) -> str:
    """The case's data, start and numbers in a file for the peers: SGLD at the same step."""
    job = case.job(case.sampler("SGLD"))
    posterior = jax.tree.map(lambda leaf: leaf[0], job.posteriors(job.plan.buckets[0]))
    data = posterior.data if isinstance(posterior.data, tuple) else (posterior.data, posterior.data)
    n, nbeta = int(posterior.n), float(posterior.nbeta)
    x, y = (np.asarray(leaf)[:n] for leaf in data)
    numbers = {
        "n": n, "nbeta": nbeta, "gamma": float(posterior.gamma), "epsilon": case.epsilon / (2 + nbeta),
        "batch_size": case.batch_size or n, "chains": case.chains,
    }  # fmt: skip
    path = str(Path(folder) / f"{case.name}.npz")
    np.savez(path, x=x, y=y, **numbers, **{f"p.{name}": np.asarray(w) for name, w in posterior.centre.items()})
    return path


def begun(case: Case, name: str) -> Running:
    """The chains of a sampler, compiled and past burn-in."""
    running = Running(case.job(case.sampler(name)))
    running.compile()
    running.settle()
    return running


def measure(
    case: Case, names: list[str], peers: Peers, seconds: float, rounds: int, ess_s: float, share: float = math.inf,
    peaks: dict[str, float] = PEAKS,
) -> list[dict]:  # fmt: skip
    """One row a sampler; of the first ones only where more could not be compiled in half of `share` seconds."""
    began, last, running = time.perf_counter(), 0.0, {}
    for name in names:
        before = time.perf_counter()
        if running and before - began + 1.5 * last > share / 2:
            break
        running[name] = begun(case, name)
        last = time.perf_counter() - before
    names = list(running)
    batches = {name: None if name == "HMC" else case.batch_size for name in names}
    some = next(iter(running.values())).job
    watches: dict[str, Watch] = dict(running)
    watches |= {f"gradient {batch}": timing.gradient(some, batch) for batch in set(batches.values())}
    watches["normals"] = timing.normals(some)
    with tempfile.TemporaryDirectory() as folder:
        rivals = {}
        if case.peers and peers.names:
            path = exported(case, folder)
            rivals = {name: Peer(peers, name, path) for name in peers.names}
        took = timing.interleaved(watches | rivals, seconds, rounds)
    rows = []
    for name in names:
        batch, count = batches[name], steps(running[name].job.sampler)
        step, gradient = took[name] / count, took[f"gradient {batch}"]
        flops, moved = timing.intensity(running[name].job, batch)
        row: dict[str, Any] = {
            "case": case.name, "sampler": name, "cells": len(some.plan.cells), "chains": case.chains,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(some.centres[0])), "batch_size": batch,
            "chain_steps_per_s": float(1 / np.median(step)), "us": micro(step), "gradient_us": micro(gradient),
            "normals_us": micro(took["normals"]), "ratio_to_gradient": float(np.median(step / gradient)),
            "share_of_floors": float(np.median((gradient + took["normals"]) / step)),
            "compile_s": running[name].compile_s, "flops": flops, "bytes": moved,
            "gflops": 1e-9 * flops / float(np.median(step)), "ess_per_s": None,
        }  # fmt: skip
        roof = min(peaks["matmul_gflops"], flops / moved * peaks["memory_gb_per_s"])
        row["share_of_roofline"] = row["gflops"] / roof
        row |= {f"ratio_to_{peer}": None for peer in peers.names}
        row |= {f"ratio_to_{peer}": float(np.median(took[peer] / step)) for peer in rivals}
        if ess_s > 0 and (batch is None or share == math.inf):  # of minibatches the full loss is a program more
            row |= mixing(case, running[name].job.sampler, row, ess_s)
        rows.append(row)
    if rivals:
        for row in rows:
            row["peers_llc"] = {name: peer.llc for name, peer in rivals.items()}
    return rows


def micro(seconds: np.ndarray) -> float:
    """The median, in microseconds."""
    return float(1e6 * np.median(seconds))


def mixing(case: Case, sampler: Sampler, row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Effective draws of the full loss per second at the row's rate, and the learning coefficient."""
    draws = seconds * row["chain_steps_per_s"] / (row["cells"] * case.chains * steps(sampler))
    every = 10 if row["batch_size"] is not None else 1  # the full loss costs as much as several minibatches
    further = {"full": observables.trace(observables.full_loss, every)} if every > 1 else None
    running = Running(case.job(sampler, observables=further, chunk=max(every, case.chunk // steps(sampler))))
    running.settle()
    running(max(every * 20, int(draws)), keep=True)
    effective, value, error = 0.0, [], []
    for number, posterior in enumerate(running.posteriors):
        seen = running.seen("full" if every > 1 else "delta", number).astype(np.float64)
        found = diagnostics.mean(seen, ok=np.isfinite(seen).all(-1))
        effective += float(np.sum(found.ess)) / len(running.posteriors)
        nbeta = np.asarray(posterior.nbeta)
        value.append(nbeta * np.asarray(found.value))
        error.append(nbeta * np.asarray(found.stderr))
    made = seen.shape[2] * every * running.chains * steps(sampler) / len(running.posteriors)
    enough = effective > 5 * running.chains / len(running.posteriors)
    rate = effective / made * row["chain_steps_per_s"]
    return {
        "ess_per_s": rate if enough else None, "ess_per_step": effective / made,
        "llc": float(np.mean(np.concatenate(value))),
        "llc_stderr": float(np.linalg.norm(np.concatenate(error)) / len(np.concatenate(error))),
    }  # fmt: skip


def equal_bias(case: Case, rows: list[dict[str, Any]], seconds: float) -> None:
    """Into SGLD's row: its mixing at the step, larger or smaller, where its bias is BIAS, beside HMC's."""
    by_name = {row["sampler"]: row for row in rows}
    if not {"SGLD", "HMC"} <= by_name.keys() or "llc" not in by_name["HMC"]:
        return
    row, exact = by_name["SGLD"], by_name["HMC"]["llc"]
    sampler, tried = case.sampler("SGLD"), []
    if not isinstance(sampler, SGLD):
        raise TypeError("the case's SGLD is none")
    step, found = case.epsilon, row
    for _ in range(5):
        bias = found["llc"] / exact - 1
        error = math.hypot(found["llc_stderr"], by_name["HMC"]["llc_stderr"]) / exact
        tried.append({"step": step, "bias": bias, "stderr": error, "ess_per_s": found["ess_per_s"]})
        if abs(abs(bias) - BIAS) <= max(0.25 * BIAS, error):
            break
        # of first order in the step; a bias within its error says no more than that the step may grow
        step *= float(np.clip(BIAS / max(abs(bias), error, 1e-9), 1 / 20, 4))
        found = mixing(case, dataclasses.replace(sampler, step_size=step), row, seconds)
    last, other = tried[-1], by_name["HMC"]["ess_per_s"]
    rate = other / last["ess_per_s"] if last["ess_per_s"] and other else None
    row["equal_bias"] = last | {"tried": tried, "hmc_over_sgld": rate}


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    peers = [name for name in row if name.startswith("ratio_to_") and name != "ratio_to_gradient" and row[name]]
    ratios = "  ".join(f"{name.removeprefix('ratio_to_')} x{row[name]:.3g}" for name in peers)
    ess = row.get("ess_per_s")
    return (
        f"{row['case']:6s} {row['sampler']:6s} {row['chain_steps_per_s']:11.4g}/s {row['us']:10.4g} us  gradient "
        f"{row['gradient_us']:10.4g} (x{row['ratio_to_gradient']:.2f})  normals {row['normals_us']:9.4g}  "
        f"floors {100 * row['share_of_floors']:3.0f}%  ESS/s {'-' if ess is None else f'{ess:.4g}':>8s}  "
        f"compile {row['compile_s']:.1f}s  {ratios}"
    )


def machine() -> dict[str, Any]:
    """What this ran on."""
    device = jax.devices()[0]
    found = {"platform": device.platform, "device": device.device_kind, "devices": len(jax.devices())}
    return found | {"processor": platform.machine(), "cores": os.cpu_count(), "jax": jax.__version__}


def save(path: Path | None, content: dict[str, Any]) -> None:
    """Write the JSON, if one is asked for."""
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(path)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute: fewer rounds, what there is time for")
    parser.add_argument("--cases", help="only these, as tms,dln; default all, `wide` only on an accelerator")
    parser.add_argument("--samplers", help="only these, as SGLD,HMC")
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment that holds the other libraries")
    parser.add_argument(
        "--devices",
        type=int,
        help="that share the chains, as slt run's devices=N; default all cores of a CPU, all accelerators",
    )
    parser.add_argument("--rounds", type=int, help="of timing everything in turn")
    parser.add_argument("--seconds", type=float, help="of each timing")
    parser.add_argument("--json", type=Path, help="written after every case")
    parser.add_argument("--figure", type=Path, help="of the roofline")
    parser.add_argument("--scaling", type=Path, metavar="FIGURE", help="instead: how cost grows, in one figure")
    parser.add_argument("--large", action="store_true", help="instead: deep linear networks to 100 M parameters")
    parser.add_argument("--trained", type=int, default=0, metavar="STEPS", help="of Adam, to where --large starts")
    parser.add_argument("--rate", type=float, default=1e-3, help="of that Adam")
    parser.add_argument("--precision", action="store_true", help="instead: bf16 and TF32 and the coefficient")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")  # as slt run does
    content: dict[str, Any] = {"machine": machine()}
    if args.scaling is not None or args.large or args.precision:
        return others(args, content)
    known, on_cpu = cases(args.quick), jax.default_backend() == "cpu"
    chosen = [*known][: -1 if on_cpu or args.quick else None] if args.cases is None else args.cases.split(",")
    wanted = args.samplers.split(",") if args.samplers else list(SAMPLERS)
    rounds, seconds = args.rounds or (3 if args.quick else 7), args.seconds or (0.1 if args.quick else 0.5)
    content |= {"peaks": timing.peaks(args.quick), "cases": [], "left_out": [], "compiling": [], "bars": []}
    peers = Peers(args.peers)
    content["peers"] = peers.names
    print(content["machine"], content["peaks"], content["peers"], flush=True)
    devices = args.devices or (len(jax.devices()) if on_cpu else None)
    known = {name: dataclasses.replace(case, devices=devices) for name, case in known.items()}
    for number, name in enumerate(chosen):
        left = max(0.0, QUICK - (time.perf_counter() - began))
        share = left / (len(chosen) - number) if args.quick else math.inf
        ess_s = 5 * seconds if args.quick else 20 * seconds
        rows = measure(known[name], wanted, peers, seconds, rounds, ess_s, share, content["peaks"])
        if not args.quick and name in ("tms", "dln"):
            equal_bias(known[name], rows, 20 * seconds)
        content["cases"] += rows
        content["left_out"] += [f"{name} {one}" for one in wanted[len(rows) :]]
        content["bars"] = bars.bars(content["cases"], jax.default_backend())
        save(args.json, content)
        print(*map(line, rows), sep="\n", flush=True)
        jax.clear_caches()
    peers.close()
    if not args.quick and args.cases is None:
        content["compiling"] = [*compiling.cells(), compiling.demo()]
        print(*content["compiling"], sep="\n", flush=True)
        content["bars"] = bars.bars(content["cases"], jax.default_backend(), content["compiling"])
    content["seconds"] = time.perf_counter() - began
    save(args.json, content)
    print(*map(bars.line, content["bars"]), sep="\n")
    if content["left_out"]:
        print("no time for", ", ".join(content["left_out"]))
    if args.figure is not None:
        import drawing

        drawing.roofline(content, args.figure)
    return content


def others(args: argparse.Namespace, content: dict[str, Any]) -> dict[str, Any]:
    """The studies in files of their own."""
    if args.scaling is not None:
        import drawing
        import scaling

        content["scaling"] = scaling.measure(lambda: save(args.json, content), content)
        drawing.scaling(content["scaling"], args.scaling)
    else:
        import large

        if args.large:
            content["large"] = large.networks(
                lambda rows: save(args.json, content | {"large": rows}), trained=args.trained, rate=args.rate
            )
            content["bars"] = bars.bars(content["large"], jax.default_backend())
            print(*map(bars.line, content["bars"]), sep="\n")
        if args.precision:
            content["precision"] = large.precision()
    save(args.json, content)
    return content


if __name__ == "__main__":
    main()
