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
# # A phase transition on paper, in five minutes
#
# A *phase* of a model is a region of its parameters. Which phase the posterior prefers depends on how much data it has
# seen. Singular learning theory says why: the free energy of a phase $a$ with best loss $L_a$ grows as
#
# $$F_a(n) = n L_a + \lambda_a \log n - (m_a - 1) \log\log n + O(1),$$
#
# and the posterior mass of the phase is $e^{-(F_a - F)}$, where $F$ is the free energy of the whole. The learning
# coefficient $\lambda_a$ measures how little volume there is around the best parameters of the phase, $m_a$ is its
# multiplicity. A phase with a small $\lambda$ (much volume) wins at small $n$ even if its loss is worse; a phase with
# the smaller loss wins in the end. Where the two free energies cross, the posterior jumps.
#
# Here we draw a landscape with two phases, sample its posterior over a range of $n$, and watch the jump. Then we check
# every number against exact integrals. The whole notebook takes under a minute on a laptop.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import slt
from slt.samplers import HMC, ReplicaExchange

# %% [markdown]
# ## 1. A landscape of one's own
#
# A landscape is a function $K(w)$ and a prior $\varphi(w)$. They define the density
#
# $$p_t(w) \propto e^{-t K(w)} \varphi(w), \qquad F(t) = -\log \int e^{-t K(w)} \varphi(w)\, dw,$$
#
# where $t$ plays the part of $n$ (for a model with data it is $n\beta$). Ours has two parameters $w = (x, y)$, uniform
# on a square, and is the lower of two surfaces:
#
# - the **cross**, $0.05 + ((x + 1)\, y)^2$: two valleys that cross at $(-1, 0)$. Its floor lies higher, but it is wide:
#   $\lambda = 1/2$ with multiplicity $m = 2$, as for $(w_1 w_2)^2$;
# - the **well**, $3\,((x - 1)^2 + y^2)$: an ordinary minimum in two dimensions, so $\lambda = d/2 = 1$, $m = 1$.


# %%
def cross(w):
    """A wide phase whose loss is 0.05."""
    x, y = w
    return 0.05 + ((x + 1) * y) ** 2


def well(w):
    """A narrow phase whose loss is 0."""
    x, y = w
    return 3 * ((x - 1) ** 2 + y**2)


def landscape(w):
    """K(w), the lower of the two."""
    return jnp.minimum(cross(w), well(w))


def label(w):
    """0 in the cross, 1 in the well."""
    return jnp.asarray(well(w) < cross(w), jnp.int32)


# %% [markdown]
# What we know of the landscape goes into its `Truth`: which phases there are and how they are told apart, and the
# minimum of each. Only the functions are needed to sample; the minima serve as the zero of the learning coefficients.

# %%
names = ("cross", "well")
truth = slt.Truth(
    phases=slt.Phases(names, label, rule="which surface is lower"),
    basins=(
        slt.Basin("cross", jnp.array([-1.0, 0.0]), phase="cross", loss=0.05, lam=0.5, multiplicity=2),
        slt.Basin("well", jnp.array([1.0, 0.0]), phase="well", loss=0.0, lam=1.0, multiplicity=1),
    ),
)
model = slt.potential(landscape, dim=2, prior=slt.Uniform(-2.0, 2.0), truth=truth)

# %% [markdown]
# ## 2. A sweep
#
# One call samples all values of $t$ in one compiled program. Chains that stay in the phase where they began would tell
# nothing of how the posterior weighs the phases, so we use *replica exchange*: a ladder of chains, one at every $t$ and
# four more between there and $t = 0$ (the prior), that trade places. Each of the 8 "chains" below is a whole ladder,
# independent of the others; the standard errors come from how they differ. Most of the time goes into compiling.

# %%
t = np.geomspace(5, 250, 12)
data = slt.sweep(
    model,
    ReplicaExchange(HMC(leapfrogs=5), rungs=4),
    slt.Schedule(draws=2000, chains=8, burn_in=500),
    t=t,
    keep_params=10,  # store every tenth parameter vector, to draw them
)
data

# %% [markdown]
# The result is an `xarray` dataset: `delta` is $K(w)$ less its value at a fixed reference point, `phase` the label of
# each draw, `params` the stored draws. `slt.summarise` turns it into named quantities, each with a standard error.

# %%
quantities = slt.summarise(data)
for name in ("mass[cross]", "mass[well]", "llc[cross]", "llc[well]", "free_energy"):
    one = quantities[name]
    print(f"{name:12}", *(f"{v:6.3f}±{e:.3f}" for v, e in list(zip(one.value, one.stderr, strict=True))[::3]))

# %% [markdown]
# ## 3. What the posterior looks like
#
# Draws at a small, a middle and a large $t$, over the level lines of $K$.

# %%
x, y = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-2, 2, 201))
surface = np.asarray(landscape(jnp.array([x, y])))
kept = data["params"].sel(kept=data["kept_draw"] >= 500)  # after burn-in
colours = {"cross": "tab:blue", "well": "tab:orange"}

figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
for ax, at in zip(axes, (0, 8, 11), strict=True):
    w = kept.isel(t=at).values.reshape(-1, 2)
    ax.contour(x, y, surface, levels=[0.02, 0.1, 0.3, 1, 3], colors="0.6", linewidths=0.6)
    for k, name in enumerate(names):
        chosen = np.asarray(label(w.T)) == k
        ax.plot(*w[chosen].T, ".", ms=1.5, color=colours[name])
    ax.set(title=f"$t = {t[at]:.0f}$", xlabel="$x$", aspect="equal")
axes[0].set_ylabel("$y$")
plt.show()

# %% [markdown]
# ## 4. Masses, free energies and learning coefficients, against the exact ones
#
# In two dimensions the integrals can be done on a grid, which shares no code with the sampler: the lines below. The
# points are the sweep's, ± one standard error.
#
# - The **mass** of the well passes one half near $t = 100$. Setting $0.05\,t = \frac12 \log t$ (losses and learning
#   coefficients alone) would put the transition at $t = 36$: at such sizes the constant terms matter.
# - The **free energy** of a phase is $F_a = F - \log(\text{mass}_a)$. Against $\log t$ the well's becomes a straight
#   line of slope $\lambda = 1$; the cross's bends upwards, because its loss is not zero.
# - The **local learning coefficient** $\hat\lambda_a = t\,(E_a[K] - K_a)$ tends to $\lambda_a$ (dashed). For the well
#   it gets there; for the cross, with $m = 2$, it lags by about $1/\log t$: even its exact values are far from $1/2$.

# %%
fine = np.linspace(-2, 2, 1001)
grid = np.array(np.meshgrid(fine, fine))
K, in_well = np.asarray(landscape(grid), float), np.asarray(label(grid)) == 1
regions = {"cross": (K[~in_well], 0.05), "well": (K[in_well], 0.0)}


def exact(at):
    """Masses, free energies and learning coefficients of both phases at every t of `at`, by sums over a grid."""
    found = {"mass": {}, "F": {}, "llc": {}}
    for name, (inside, lowest) in regions.items():
        weights = [np.exp(-s * inside) for s in at]
        found["F"][name] = -np.log([weight.sum() / K.size for weight in weights])
        found["llc"][name] = at * [weight @ inside / weight.sum() - lowest for weight in weights]
    total = sum(np.exp(-F) for F in found["F"].values())
    found["mass"] = {name: np.exp(-F) / total for name, F in found["F"].items()}
    return found


lines = np.geomspace(5, 250, 60)
curves = exact(lines)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
free_energy = quantities["free_energy"]
for name, lam in (("cross", 0.5), ("well", 1.0)):
    mass, llc = quantities[f"mass[{name}]"], quantities[f"llc[{name}]"]
    enough = mass.value > 0.005  # elsewhere too few draws lie in the phase
    share = np.where(enough, mass.value, np.nan)
    points = {
        "mass": (mass.value, mass.stderr),
        "F": (free_energy.value - np.log(share), np.hypot(free_energy.stderr, mass.stderr / share)),
        "llc": (np.where(enough, llc.value, np.nan), llc.stderr),
    }
    for ax, what in zip(axes, points, strict=True):
        ax.plot(lines, curves[what][name], color=colours[name], lw=1)
        ax.errorbar(t, *points[what], fmt="o", ms=3.5, color=colours[name], label=name)
    axes[2].axhline(lam, color=colours[name], ls="--", lw=0.8)
axes[0].set_ylabel("posterior mass")
axes[1].set_ylabel("free energy $F_a$ (nats)")
axes[2].set_ylabel(r"local learning coefficient $\hat\lambda_a$")
axes[2].set_ylim(0, 1.3)
for ax in axes:
    ax.set(xscale="log", xlabel="$t$")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# The numbers behind the first panel:

# %%
mass, true = quantities["mass[well]"], exact(t)["mass"]["well"]
for row in zip(t, mass.value, mass.stderr, true, strict=True):
    print("t = {:5.1f}   mass of the well {:.4f} ± {:.4f}   exact {:.4f}".format(*row))

# %% [markdown]
# ## Where to go from here
#
# - Change the landscape: raise the cross to 0.1 and the jump comes earlier; widen the well (3 → 1) and it comes earlier
#   too; put `** 4` for `** 2` in the cross and its $\lambda$ falls to 1/4.
# - Have it on disk, resumable and with figures: put the functions into a file, a YAML beside it, and say
#   `slt run my.yaml`. [CONTRIBUTING](../CONTRIBUTING.md) works this through, for models with data, for samplers and for
#   experiments.
# - For a real posterior over data sets, see `slt run superposition/demo`.
