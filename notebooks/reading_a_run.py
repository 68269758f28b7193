# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---


# %% [markdown]
# # Reading a finished run
#
# `slt run` leaves a directory: draws, quantities with errors, figures, and everything needed to make it again. This
# notebook makes a small one, then reads it: named quantities, the draws as xarray, health, figures, two runs side by
# side, and the report. Nothing here samples but the first step, and the whole takes under a minute.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import slt
from slt import cli

# %% [markdown]
# ## 1. A run
#
# A config is a YAML file. This one samples the two-basin landscape $K(w) = \min(0.01 + (w+1)^4, 20 (w-1)^2)$ at six
# values of $t$ by replica exchange. On the command line it would be `slt run mine.yaml --out first`.

# %%
folder = tempfile.TemporaryDirectory()
here = Path(folder.name)
(here / "mine.yaml").write_text("""\
defaults: [{/sampler: exchange}, {/sampler@sampler.inner: hmc}, _self_]
model: {_target_: slt.models.two_basins.make}
grid: {t: [20, 100, 200, 300, 500, 1000]}
sampler: {axis: t, rungs: 8, swap_every: 2, inner: {leapfrogs: 5}}
schedule: {draws: 1500, burn_in: 300, chains: 16, keep_params: 100}
start: [prior]
""")
cli.main(["run", str(here / "mine.yaml"), "--out", str(here / "first"), "--quiet"])

# %% [markdown]
# ## 2. What it found
#
# `slt.load` opens a run, finished or not, and changes nothing. Its `quantities` have a value and a standard error over
# named axes; names in brackets are phases. What they mean: `slt.summarise`; the files: `docs/format.md`.

# %%
run = slt.load(here / "first")
print("complete:", run.complete, "| sampled in", round(run.summary.wall_s), "s")
print(*sorted(run.quantities))

# %%
mass = run.quantities["mass[V]"]
for t, value, error in zip(mass.coords["t"], mass.value, mass.stderr, strict=True):
    print(f"t = {t:6g}   mass of V = {value:.3f} ± {error:.3f}")

# %% [markdown]
# ## 3. How well it went
#
# Before believing a number: did chains break, do they agree, how many independent draws are there? With ladders, did
# they exchange their places (`round_trips`)?

# %%
health = run.health["main"]
print(f"{health['draws']} of {health['planned']} draws, {health['chains']} ladders, {health['broken']} broken")
for name in ("rhat", "ess", "acceptance", "round_trips"):
    print(f"{name:12}", np.array2string(np.asarray(run.quantities[name].value), precision=3))

# %% [markdown]
# ## 4. The draws themselves
#
# `run.data` holds one xarray dataset for each sweep of the run, read from disk when used: axes by name, burn-in marked.
# Anything that is not among the quantities is a line of xarray away.

# %%
data = run.data["main"].to_dataset()
data

# %%
settled = data.sel(draw=~data["burn_in"])
names = data["phase"].attrs["names"]
loss = settled["delta"] + data["offset"]  # K(w) of every draw
share = (settled["phase"] == names.index("V")).mean(("chain", "draw"))
print("share of draws in V:", share.round(3).values)

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].errorbar(mass.coords["t"], mass.value, mass.stderr, fmt="o-", ms=4, capsize=2, color="#D55E00")
axes[0].set(xlabel="$t$", ylabel="posterior mass of $V$", ylim=(-0.05, 1.05))
for t, colour in ((20, "#0072B2"), (300, "#009E73"), (1000, "#CC79A7")):
    axes[1].hist(
        loss.sel(t=t).values.ravel(), np.geomspace(1e-5, 1, 60), histtype="step", color=colour, label=f"$t = {t}$"
    )
axes[1].set(xscale="log", xlabel="$K(w)$ of the draws", ylabel="draws")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## 5. Its figures
#
# `slt run` drew them; `slt plot first` draws them again from the data.

# %%
print(*sorted(path.name for path in (run.path / "figures").glob("*.png")))
Image(run.path / "figures" / "phases.png", width=420)

# %% [markdown]
# ## 6. What made it
#
# The resolved config and the provenance are in the run. `slt resume` and `slt extend first schedule.draws=4000` go on
# from there.

# %%
print(run.config["sampler"])
print({key: run.data.attrs[key] for key in ("digest", "seed", "device")})

# %% [markdown]
# ## 7. Two runs side by side
#
# The same with another seed, and the differences in standard errors: they should look like draws of $N(0, 1)$.

# %%
cli.main(["run", str(here / "mine.yaml"), "seed=1", "--out", str(here / "second"), "--quiet"])
compared = slt.compare(run, slt.load(here / "second"))
print("configs differ in:", compared.config)
for row in compared.rows:
    if row.name == "mass[V]":
        a, b = f"{row.a:.3f} ± {row.a_stderr:.3f}", f"{row.b:.3f} ± {row.b_stderr:.3f}"
        print(f"t = {row.coords['t']:6g}   {a}   {b}   z = {row.z:5.2f}")

# %% [markdown]
# ## 8. All of it in one file
#
# `slt report first` writes an HTML page to keep or to send: every figure and table, the config, how to reproduce it,
# and the phase diagram to explore by pointer. It needs a browser, and no network.

# %%
cli.main(["report", str(here / "first"), "--out", str(here / "first.html")])
print(f"{(here / 'first.html').stat().st_size / 1e6:.1f} MB")
folder.cleanup()
