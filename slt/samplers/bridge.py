"""Any BlackJAX algorithm as a sampler, in one line."""

from collections.abc import Callable
from typing import Any

from slt.posterior import Position, Posterior
from slt.samplers.base import Algorithm, Info, Sampler, State, sampler, static
from slt.typing import InputError, Key


@sampler
class FromBlackJAX(Sampler):
    """Any BlackJAX algorithm as a sampler: fn(log_density, **numbers) gives it. Make one with `from_blackjax`.

    Nothing is tuned; Info carries the acceptance where the kernel tells one. Whether it is exact is its own matter.
    """

    fn: Callable[..., Any] = static(default=None)
    numbers: dict[str, Any] = None  # pyright: ignore[reportAssignmentType]

    def check(self) -> None:
        if not callable(self.fn):
            raise InputError("sampler.fn", self.fn, "must be a function (log_density, **numbers) -> BlackJAX algorithm")

    def __call__(self, posterior: Posterior) -> Algorithm:
        algorithm = self.fn(posterior.log_density, **self.numbers)

        def init(position: Position, key: Key) -> State:
            return algorithm.init(position, key)

        def step(key: Key, state: State) -> tuple[State, Info]:
            new, told = algorithm.step(key, state)
            return new, Info(acceptance=getattr(told, "acceptance_rate", None))

        return Algorithm(init, step)


def from_blackjax(fn: Callable[..., Any], /, **numbers: Any) -> FromBlackJAX:
    """The sampler that runs fn(log_density, **numbers), a BlackJAX algorithm, as in `from_blackjax(blackjax.barker,
    step_size=0.1)`.

    numbers may change without recompiling; what fixes a shape or a loop goes into fn by functools.partial.
    """
    return FromBlackJAX(fn, numbers)
