"""Signals that come before a command is ready for them: while Python loads what slt needs, seconds long.

Ctrl-C ends the process at once, for nothing is written yet; a scheduler's signal is noted, and acted on when sampling
is set up. This file loads nothing, so that it is there first.
"""

import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType

WORKER = "SLT_WORKER"
"""Environment variable of a worker: its Seat, descriptors of messages, results and the line to its parent; JSON."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
HANDS_BACK = ("--preemptible", "--only")
"""Options of a job that is handed back to its scheduler when it is told to stop."""

noted: list[int] = []
"""The scheduler's signals that came early."""


def listen(words: Sequence[str]) -> None:
    """Handle signals from now on, where nobody else does; `words` are those of the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once())
    if any(word.partition("=")[0] in HANDS_BACK for word in words):
        for number in (signal.SIGTERM, signal.SIGUSR2):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, note)
    if WORKER in os.environ:  # which was started with all of them blocked, lest one comes before this
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def loaded() -> None:
    """All is loaded: Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _at_once():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def note(number: int, frame: FrameType | None) -> None:
    """A handler that keeps the signal for later."""
    noted.append(number)


def _at_once() -> Callable[[int, FrameType | None], None] | signal.Handlers:
    """What ends this process; a worker, whose parent has the words, also while it waits for others outside Python."""
    return signal.SIG_DFL if WORKER in os.environ else _leave


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was written\n")
    os._exit(130)  # an exception would come out of some library's import, as whatever that makes of it
