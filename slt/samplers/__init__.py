"""Samplers under one contract (slt.samplers.base); the public ones are listed here.

A sampler needs no entry here to be used: any frozen dataclass of numbers whose call gives an algorithm works under its
`_target_` in a config, from whatever file it lies in. `available` finds the built-in ones by looking, not by registry.
"""

from slt.samplers.baoab import BADODAB, BAOAB
from slt.samplers.base import Algorithm, Info, Sampler, positive, sampler, static
from slt.samplers.bridge import FromBlackJAX, from_blackjax
from slt.samplers.exchange import ReplicaExchange
from slt.samplers.mcmc import HMC, MALA, MCLMC, NUTS
from slt.samplers.psgld import PSGLD
from slt.samplers.sghmc import SGHMC
from slt.samplers.sgld import SGLD
from slt.samplers.sgnht import SGNHT

__all__ = [
    "BADODAB",
    "BAOAB",
    "HMC",
    "MALA",
    "MCLMC",
    "NUTS",
    "PSGLD",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Algorithm",
    "FromBlackJAX",
    "Info",
    "ReplicaExchange",
    "Sampler",
    "available",
    "from_blackjax",
    "positive",
    "sampler",
    "static",
]


def available() -> dict[str, type[Sampler]]:
    """Name -> class of every concrete sampler above that can be made without arguments."""
    found = {name: value for name, value in globals().items() if isinstance(value, type) and issubclass(value, Sampler)}
    return {name: cls for name, cls in sorted(found.items()) if cls not in (Sampler, FromBlackJAX)}
