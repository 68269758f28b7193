"""Transitions between phases from arrays of estimates: where free energies cross, of what kind, and what theory says.

- `crossing`: the crossing of two phases' free energies with its interval; crossings of single data paths
- `masses`: the same from the shares of ladders' draws in each phase
- `kind`: coexistence, crossover or unresolved
- `predictions`: leading orders of singular learning theory, Laplace and exact values beside the measured crossing
"""
