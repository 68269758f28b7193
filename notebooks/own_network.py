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
# # The coefficient of your own network
#
# You have a network and its trained weights $w^*$. How degenerate is the minimum it sits in? The *local learning
# coefficient* answers with one number. Of all parameters near $w^*$, those whose loss is within $\epsilon$ of
# $L_n(w^*)$ fill a volume that shrinks as $\epsilon^{\lambda}$: an ordinary minimum in $d$ dimensions has
# $\lambda = d/2$, a degenerate one less. It is measured by sampling the posterior near $w^*$,
#
# $$p(w) \propto e^{-n\beta L_n(w)}\, e^{-\frac\gamma2 |w - w^*|^2}, \qquad
#   \hat\lambda = n\beta\, \bigl(E[L_n(w)] - L_n(w^*)\bigr),$$
#
# by default at $\beta = 1/\log n$ (Lau et al., [arXiv:2308.12108](https://arxiv.org/abs/2308.12108)). `slt.llc` needs a
# loss function, $w^*$ and the data; it chooses sampler, step, burn-in and chain length itself, and says in a sentence
# whether the number can be believed. This notebook takes under a minute.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import slt

# %% [markdown]
# ## 1. A network and its data
#
# Two tanh units learn a curve that one unit makes, $y = \tanh 2x$ plus noise. So one unit is spare, and there must be
# directions in which the seven parameters can move at no cost.

# %%
n, sigma = 200, 0.3
rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, (n, 1)).astype(np.float32)
y = (np.tanh(2 * x[:, 0]) + sigma * rng.standard_normal(n)).astype(np.float32)
data = {"x": jnp.asarray(x), "y": jnp.asarray(y)}


class Net(nnx.Module):
    """One hidden layer of tanh units."""

    def __init__(self, hidden, *, rngs):
        self.inner = nnx.Linear(1, hidden, rngs=rngs)
        self.outer = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, x):
        return self.outer(jnp.tanh(self.inner(x)))[:, 0]


graph, state = nnx.split(Net(2, rngs=nnx.Rngs(0)))
start = nnx.to_pure_dict(state)


def loss(params, batch):
    """-log p(y | x, w) of every sample, but for a constant: any pure function of (params, data) will do."""
    return (batch["y"] - nnx.merge(graph, params)(batch["x"])) ** 2 / (2 * sigma**2)


# %% [markdown]
# Note the scale: the loss is a negative log-likelihood, with the $2\sigma^2$. A loss that is off by a factor $c$ is the
# same as a $\beta$ that is off by $c$.
#
# ## 2. Training

# %%
optimiser = optax.adam(optax.cosine_decay_schedule(0.02, 3000))


@jax.jit
def train(params):
    """Full-batch Adam; the trained parameters and the loss of every step."""

    def step(carry, _):
        params, memory = carry
        value, slope = jax.value_and_grad(lambda w: loss(w, data).mean())(params)
        change, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(params, change), memory), value

    (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), None, length=3000)
    return params, losses


params, losses = train(start)
size = sum(leaf.size for leaf in jax.tree.leaves(params))
print(f"{size} parameters, loss {losses[0]:.3f} -> {losses[-1]:.4f}")

# %% [markdown]
# ## 3. The coefficient

# %%
found = slt.llc(loss, params, data, error=0.03, seconds=4)
print(found)
print("compare d/2 =", size / 2)

# %% [markdown]
# The second line is the verdict. It looks at the gradient at $w^*$ (is it a minimum at all?), at whether chains agree
# and stand still, at draws with a lower loss than $w^*$ (then the chains have left its basin and the number means
# nothing), and at what the localiser $\gamma$ contributes. `found.flags` has the same for programs, `found.curvature`
# the Hessian's eigenvalues, `found.settings` what the rules chose.
#
# ## 4. Does the localiser matter?
#
# $\gamma$ keeps the chains near $w^*$, and cuts the flat directions where they are long. `by_log_gamma` is
# $d\hat\lambda / d\log\gamma$, found from the same draws. Here it is beside two measurements more: where the
# coefficient moves with $\gamma$, there is no one number to report without the $\gamma$ it was measured at.

# %%
by_gamma = {gamma: slt.llc(loss, params, data, gamma=gamma, error=0.05, seconds=3) for gamma in (0.25, 4.0)}
by_gamma[1.0] = found
slope = float(found.by_log_gamma.value[0])
for gamma, one in sorted(by_gamma.items()):
    line = found.value + slope * np.log(gamma)
    print(f"gamma = {gamma:<4g}  llc = {one.value:.3f} ± {one.stderr:.3f}   by the slope at gamma = 1: {line:.3f}")

# %% [markdown]
# ## 5. The whole curve
#
# $\lambda$ is a limit; at a finite $t = n\beta$ the sampler measures $\lambda(t) = t\,(E_t[L_n] - L_n(w^*))$. The curve
# shows which scale of loss differences the number is about. The *heat capacity* $t^2\,\mathrm{Var}_t(L_n)$ equals
# $\lambda(t) - d\lambda/d\log t$: where the two curves meet, $\lambda(t)$ stands still and may be called *the*
# coefficient; where they part, it is on its way from one plateau to the next.

# %%
t = np.geomspace(2, n, 5)
curve = slt.llc(loss, params, data, t=t, error=0.06, seconds=4)
print(curve)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
order = np.argsort(x[:, 0])
axes[0].plot(x[:, 0], y, ".", ms=3, color="0.6", label="data")
axes[0].plot(x[order, 0], nnx.merge(graph, params)(data["x"])[order], color="#0072B2", label="network")
axes[0].set(xlabel="$x$", ylabel="$y$")
for what, label, colour in (
    (curve.llc, r"$\hat\lambda(t)$", "#0072B2"),
    (curve.heat_capacity, "heat capacity", "#D55E00"),
):
    axes[1].errorbar(t, what.value, what.stderr, fmt="o-", ms=4, capsize=2, color=colour, label=label)
axes[1].axvline(n / np.log(n), color="0.5", lw=0.8, ls=":")
axes[1].axhline(size / 2, color="0.5", lw=0.8, ls="--")
axes[1].annotate("$d/2$", (t[0], size / 2), xytext=(0, 3), textcoords="offset points", color="0.4")
axes[1].annotate(
    r"$n/\log n$", (n / np.log(n), size / 2 + 0.5), xytext=(3, -12), textcoords="offset points", color="0.4"
)
axes[1].set(xscale="log", xlabel=r"$t = n\beta$", ylim=(0, size / 2 + 0.5))
for ax in axes:
    ax.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - Put in your own: any pytree of parameters, any pure `loss(params, data)`, in JAX, Flax or Equinox. Large data:
#   `batch_size=...` samples by minibatches.
# - Some weights only: `free=` takes a pytree of bools.
# - A model with a prior of its own (`slt.from_nnx`, `slt.from_linen`, `slt.Model`) also has a global posterior:
#   `slt.free_energy`, `slt.criteria` (WAIC, WBIC, PSIS-LOO) and `slt.barrier` ask the other questions of it.
# - A coefficient along training: `slt.train` keeps checkpoints and measures at them.
