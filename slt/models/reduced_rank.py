"""Reduced-rank regression, x -> x A B: the deep linear network of one hidden layer (Aoyagi and Watanabe 2005)."""

from slt.adapters import Network
from slt.models import deep_linear
from slt.priors import Gaussian, Normal, Prior
from slt.theory import linear_networks

_PRIOR, _LIKELIHOOD = Normal(), Gaussian()


def make(
    inputs: int = 4,
    hidden: int = 2,
    outputs: int = 4,
    singular_values: tuple[float, ...] = (1.0,),
    prior: Prior = _PRIOR,
    likelihood: Gaussian = _LIKELIHOOD,
) -> Network:
    """y = x M + N(0, sigma^2 I), x ~ N(0, I), fitted by w0: [inputs, hidden] times w1: [hidden, outputs].

    The true rank is the number of singular values of M. Controls: target.scale (of M), prior.scale, likelihood.sigma.
    """
    coefficient = linear_networks.reduced_rank(inputs, hidden, outputs, len(singular_values))
    return deep_linear.network((inputs, hidden, outputs), singular_values, prior, likelihood, coefficient)
