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
# # The phases of a model nobody has studied
#
# For the models of the field the phases are known: ranks, polygons, numbers of units. For your own model nobody has
# drawn up such a list. `slt.discover` does. It leads draws of the posterior down to the minimum below each, clusters
# these ends (by the function that the model computes there, where there are data), merges those that are images of one
# another under a symmetry, and describes each phase: its loss, its local learning coefficient, the rank of its Hessian,
# whether it is a minimum or a saddle, and its share of the draws.
#
# Here the model is a landscape of two parameters, and we pretend not to know what lies in it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import slt
from slt.samplers import HMC, ReplicaExchange


def landscape(w):
    """K(w), about which we know nothing."""
    x, y = w
    square = jnp.square(x)
    return 2 * square * (square - 1) ** 2 + square * (jnp.square(y) - 1) ** 2 + 0.05 * (square - 1) ** 2


model = slt.potential(landscape, dim=2, prior=slt.Normal())

# %% [markdown]
# ## 1. Draws
#
# Any draws will do, as long as they are shared out among the phases as the posterior has it: so by replica exchange,
# whose ladders of chains at different $t$ trade places. `keep_params` stores every tenth parameter vector.

# %%
t = np.geomspace(5, 300, 8)
data = slt.sweep(
    model,
    ReplicaExchange(HMC(leapfrogs=5), rungs=4),
    slt.Schedule(draws=1500, chains=8, burn_in=500),
    t=t,
    keep_params=10,
)

# %% [markdown]
# ## 2. Discovery
#
# One call. A run on disk is looked through in the same way by the command `slt phases RUN`.

# %%
catalogue = slt.discover(model, data)
print(catalogue)

# %% [markdown]
# Two phases. The lower one has rank 2: an ordinary minimum, $\lambda = d/2 = 1$. The other has a null direction: its
# minima form a line along which the loss stays at 0.05, and $\lambda = 1/2$. What the table does not show is that the
# lower phase has four minima, $(\pm 1, \pm 1)$, images of one another under $x \to -x$ and $y \to -y$. Nobody told
# `discover` of these symmetries: equal loss and equal Hessian spectrum gave them away.

# %%
for name, params, kind in zip(catalogue.names, catalogue.params, catalogue.kind, strict=True):
    print(name, kind, np.round(np.asarray(params), 3))

# %% [markdown]
# ## 3. Where each phase leads
#
# The share of draws at each $t$: the flat valley holds the posterior at small $t$, the four wells take over. On the
# left the kept draws of the smallest and the largest $t$ over the level lines of $K$.

# %%
x, y = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-2.5, 2.5, 201))
surface = np.asarray(landscape(jnp.array([x, y])))
kept = data["params"].sel(kept=data["kept_draw"] >= 500).values
colours = ("tab:blue", "tab:orange")

figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for ax, at in zip(axes, (0, -1), strict=False):
    ax.contour(x, y, surface, levels=[0.01, 0.04, 0.1, 0.3, 1, 3], colors="0.6", linewidths=0.6)
    ax.plot(*kept[at].reshape(-1, 2).T, ".", ms=2, color="0.3")
    ax.set(title=f"$t = {t[at]:.0f}$", xlabel="$x$", ylabel="$y$", xlim=(-2, 2), ylim=(-2.5, 2.5))
share = np.asarray(catalogue.share.value), np.asarray(catalogue.share.stderr)
for name, value, error, colour in zip(catalogue.names, share[0].T, share[1].T, colours, strict=False):
    axes[2].errorbar(t, value, error, fmt="o-", ms=4, capsize=2, color=colour, label=name)
axes[2].set(xscale="log", xlabel="$t$", ylabel="share of the posterior", ylim=(-0.05, 1.05))
axes[2].legend(frameon=False)
plt.show()

# %% [markdown]
# ## 4. The catalogue as a classifier
#
# `catalogue.phases()` is a partition of parameter space, a function that runs inside compiled programs: give it to
# `slt.sweep(..., phases=...)`, and masses, free energies and learning coefficients come by phase, as if the phases had
# always been known. `catalogue.basins()` gives the minima, to start chains from. Here it labels all the kept draws, by
# the loss that descent from each of them reaches, and finds the shares again.

# %%
phases = catalogue.phases(steps=300)
print(phases.names, "by", phases.rule)
labels = np.asarray(jax.jit(jax.vmap(phases.label))(jnp.asarray(kept.reshape(-1, 2)))).reshape(kept.shape[:3])
for k, at in enumerate(t):
    again = [f"{name} {np.mean(labels[k] == i):.3f}" for i, name in enumerate(phases.names)]
    print(f"t = {at:5.1f}   ", "   ".join(again))

# %% [markdown]
# ## Where to go from here
#
# - With data, `slt.discover(model, draws, data)` compares functions: minima that compute the same one are one phase.
# - `slt.discover(..., quench="posterior")` follows each draw to the mode of the posterior at its own $t$, not to a
#   minimum of the loss. A saddle that holds the posterior for a while (a rank not yet learned) is then a phase as well.
# - A phase is a convention as long as the posterior is broad: say which classifier was used.
