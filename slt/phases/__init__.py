"""Phases of a posterior: named regions of parameter space, the classifiers that tell them apart, and their minima.

A classifier is a frozen dataclass called with parameters: jittable, hashable and equal by value, so that a partition
made anew recompiles nothing. A config names one: `phases: {_target_: slt.phases.by_rank, largest: 3, threshold: 0.5}`.
"""

from slt.phases.nearest import Gram, Map, Nearest, Points, UnitMap, by_nearest, unit_symmetries
from slt.phases.partition import Basin, Phases, Statistic
from slt.phases.rules import (
    ActiveUnits,
    Descent,
    HiddenUnits,
    NearestLevel,
    Product,
    Rank,
    Threshold,
    by_level,
    by_rank,
    by_threshold,
    by_units,
)

__all__ = [
    "ActiveUnits",
    "Basin",
    "Descent",
    "Gram",
    "HiddenUnits",
    "Map",
    "Nearest",
    "NearestLevel",
    "Phases",
    "Points",
    "Product",
    "Rank",
    "Statistic",
    "Threshold",
    "UnitMap",
    "by_level",
    "by_nearest",
    "by_rank",
    "by_threshold",
    "by_units",
    "unit_symmetries",
]
