"""Exact values and asymptotics from singular learning theory, each with its source."""
