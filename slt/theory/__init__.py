"""Exact values and asymptotics from singular learning theory, each with its source.

lambda and m, in exact arithmetic, without JAX or NumPy (`slt theory` on the command line):

- `elementary`: regular models, squares, normal crossings, plane curves, tanh networks, mixtures, ReLU units
- `newton`: polynomials by their Newton polyhedron, and squares of polynomials
- `linear_networks`: deep linear networks, reduced-rank regression, the local value at a given optimum
- `asymptotics`: F and lam(t) to leading orders, from a `coefficient.Coefficient`

F(t) and lam(t) at finite t, in float64:

- `exact`: closed forms for single potentials
- `quadrature`: any potential of one to three variables, whole and by region
- `factorisation`, `two_layer`: scalar chains, power-law factorisation, two-layer linear networks
- `reference`: two-layer linear networks beyond that, sampled, with a standard error
- `regression`: linear regression and all criteria
"""
