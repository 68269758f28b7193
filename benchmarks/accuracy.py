"""How accurate are learning coefficients, free energies and criteria, and can their errors be believed?

    python benchmarks/accuracy.py --seeds 9 --json benchmarks/accuracy.json --figure docs/images/accuracy.png

Every target (see targets.py) is estimated by `slt.llc` with no setting given, once for every seed, and by SGLD as the
field runs it (fixed step, full batch, 4 chains x 800 steps, the spread of the chains as the error). Prints one line a
target: exact value, relative error, stated error, share of stated 90 per cent intervals that cover, seconds. JSON: a
list under "targets", the summary under "families".

Then, unless --only llc, free energies by every route and criteria against exact values (evidence.py): JSON lists under
"free_energies" and "criteria", by estimator under "estimators".
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import evidence
import jax
import jax.numpy as jnp
import numpy as np
from targets import Target, targets

import slt
from slt import observables
from slt.engine import prepare
from slt.measure.coefficient import Z90
from slt.measure.llc import temperatures
from slt.measure.losses import chosen
from slt.samplers import SGLD

SMALL = 0.5  # below, errors are absolute: 0.02 counts as 2 per cent would


def field_practice(target: Target, seed: int) -> tuple[float, float]:
    """SGLD at devinterp's default step (its epsilon 1e-4), 4 chains x 800 steps, chain spread as the error."""
    model, data, n = chosen(target.loss, target.params, target.data, target.prior)
    job = prepare(
        model,
        SGLD(step_size=0.5e-4),
        temperatures(model, n, "1/log n", target.t, target.gamma),
        {"delta": observables.trace(observables.loss)},
        slt.Schedule(draws=800, chains=4, burn_in=200),
        key=jax.random.key(seed),
        start=slt.Start(jax.tree.map(lambda leaf: leaf[None], target.params), jnp.array([False])),
        centres=[target.params],
        data=data,
    )
    chains = target.t * np.asarray(job.run().traces["delta"])[0, :, 200:].mean(-1)
    return float(chains.mean()), float(chains.std(ddof=1))


def measure(target: Target, seeds: int, old: bool) -> dict[str, Any]:
    """All estimates of one target."""
    exact, uncertainty = target.exact()
    rows = []
    for seed in range(seeds):
        began = time.perf_counter()
        given = {} if isinstance(target.loss, slt.Model) else {"prior": target.prior}
        found = slt.llc(target.loss, target.params, target.data, t=target.t, gamma=target.gamma, seed=seed, **given)
        rows.append(
            {
                "value": found.value, "stderr": found.stderr, "flags": list(found.flags),
                "seconds": time.perf_counter() - began,
            }
        )  # fmt: skip
    scale = abs(exact) if abs(exact) >= SMALL else 1.0
    error = np.array([abs(row["value"] - exact) for row in rows])
    within = [e <= Z90 * np.hypot(row["stderr"], uncertainty) for e, row in zip(error, rows, strict=True)]
    record = {
        "family": target.family, "name": target.name, "t": target.t, "exact": exact, "exact_stderr": uncertainty,
        "estimates": rows, "error": (error / scale).tolist(), "covered": [bool(one) for one in within],
        "relative": abs(exact) >= SMALL,
    }  # fmt: skip
    if old:
        value, stderr = field_practice(target, 0)
        record["sgld"] = {"value": value, "stderr": stderr, "error": abs(value - exact) / scale}
    return record


def line(record: dict[str, Any]) -> str:
    """One line of the table."""
    value = np.array([row["value"] for row in record["estimates"]])
    stated = np.median([row["stderr"] for row in record["estimates"]])
    spent = [row["seconds"] for row in record["estimates"]]
    sgld = record.get("sgld")
    field = "" if sgld is None else f"  sgld {sgld['value']:9.3f} ({100 * sgld['error']:6.1f}%)"
    known = f"{record['exact']:9.4f}({record['exact_stderr']:.3f})"
    worst, covers = 100 * max(record["error"]), 100 * np.mean(record["covered"])
    return (
        f"{record['family']:13s} {record['name']:24s} t={record['t']:<8g} {known} {value.mean():9.4f} +-{stated:.4f}  "
        f"median {100 * np.median(record['error']):5.2f}%  worst {worst:5.2f}%  covers {covers:3.0f}%  "
        f"{max(spent):5.1f}s{field}"
    )


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all targets and by family."""
    found = {}
    for family in ["all", *dict.fromkeys(record["family"] for record in records)]:
        chosen = [record for record in records if family in ("all", record["family"])]
        errors = np.concatenate([record["error"] for record in chosen])
        covered = np.concatenate([record["covered"] for record in chosen])
        spent = [row["seconds"] for record in chosen for row in record["estimates"]]
        found[family] = {
            "estimates": len(errors), "median_error": float(np.median(errors)), "worst_error": float(errors.max()),
            "coverage_90": float(covered.mean()), "slowest_s": float(max(spent)),
        }  # fmt: skip
        old = [record["sgld"]["error"] for record in chosen if "sgld" in record]
        if old:
            found[family]["sgld_median_error"] = float(np.nanmedian(old))
    return found


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Relative error of every estimate in its stated standard errors' company."""
    import matplotlib.pyplot as plt

    families = list(dict.fromkeys(record["family"] for record in records))
    fig, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for record in records:
        at = families.index(record["family"]) + np.random.default_rng(len(record["name"])).uniform(-0.3, 0.3)
        axis.plot([at] * len(record["error"]), np.maximum(record["error"], 1e-5), ".", color="#0072B2", ms=3)
        if "sgld" in record:
            axis.plot(at, np.clip(record["sgld"]["error"], 1e-5, 30), "x", color="#D55E00", ms=5)
    axis.axhline(0.02, color="grey", lw=0.8, ls="--")
    axis.set(yscale="log", xticks=range(len(families)), ylabel=r"$|\hat\lambda-\lambda(t)|/\lambda(t)$")
    axis.set_xticklabels(families, rotation=30, ha="right")
    axis.plot([], [], ".", color="#0072B2", label="slt.llc, no settings")
    axis.plot([], [], "x", color="#D55E00", label="SGLD, fixed step")
    axis.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=200)


def coefficients(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """The learning coefficients, saved after every target; those that the JSON has already are not measured again."""
    records = content.setdefault("targets", [])
    for target in targets():
        if args.family not in (None, target.family):
            continue
        known = {(record["family"], record["name"], record["t"]) for record in records}
        if (target.family, target.name, target.t) not in known:
            records.append(measure(target, args.seeds, not args.no_sgld))
            content["families"] = summary(records)
            save(args, content)
            jax.clear_caches()
        print(line(next(r for r in records if (r["name"], r["t"]) == (target.name, target.t))), flush=True)
    for family, numbers in summary(records).items():
        print(f"{family:13s}", {key: round(value, 4) for key, value in numbers.items()})
    if args.figure is not None:
        draw(records, args.figure)


def others(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """Free energies and criteria."""
    tables = {"free_energies": evidence.free_energies(args.repeats), "criteria": evidence.criteria(4 * args.repeats)}
    for name, rows in tables.items():
        content[name] = []
        for row in rows:
            content[name].append(row)
            save(args, content)
    content["estimators"] = evidence.summary([*content["free_energies"], *content["criteria"]])
    save(args, content)
    for name, numbers in content["estimators"].items():
        print(f"{name:22s}", {key: round(value, 4) for key, value in numbers.items()})


def save(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write the JSON, if one is asked for."""
    if args.json is not None:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(args.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=9, help="of every learning coefficient")
    parser.add_argument("--repeats", type=int, default=3, help="of every free energy")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--only", choices=("llc", "others"), help="only learning coefficients, or only the others")
    parser.add_argument("--no-sgld", action="store_true")
    parser.add_argument("--json", type=Path, help="written after every target; what it holds is not measured again")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    content = json.loads(args.json.read_text()) if args.json is not None and args.json.exists() else {}
    if args.only != "others":
        coefficients(args, content)
    if args.only != "llc":
        others(args, content)


if __name__ == "__main__":
    main()
