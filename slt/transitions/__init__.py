"""Transitions between phases from arrays of estimates: where free energies cross, of what kind, and what theory says.

- `crossing`: the crossing of two phases' free energies with its interval
- `paths`: crossings of single data sets, first and last
- `masses`: crossings from the shares of ladders' draws in each phase
- `kind`: coexistence, crossover or unresolved
- `changepoints`, `falls`: change points of sweeps with a run-wise false-alarm rate
- `lines` (and `walk`, its steps), `maxwell`: lines of coexistence in the plane of t or n and a control parameter
- `predictions`: leading orders of singular learning theory, Laplace and exact values beside the measured crossing
"""
