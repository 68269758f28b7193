"""What a person sees while a run goes on, and how it is stopped without loss.

Progress is told by the host after each saved chunk: a bar where standard error is a terminal, a line a chunk elsewhere.
"""

import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from slt.drivers import Part
from slt.engine import Chunk
from slt.results import crew

TOP_PHASES = 7


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so after saving a chunk; `by` is the signal."""

    def __init__(self, by: int):
        super().__init__(f"stopped by {signal.Signals(by).name}")
        self.by = signal.Signals(by)


class Stopping:
    """Context in which a first SIGINT or SIGTERM asks the run to stop after its chunk, and a second ends it at once.

    A thread reads the signals, so that a person is answered while the main thread is inside a compiled program.
    SIGUSR2 asks too, where `patient` or where it had a handler before (submitit sets one); `patient`: only SIGINT can
    end the run at once, for schedulers repeat themselves.
    """

    def __init__(self, console: Console, farewell: str, *, patient: bool = False):
        self.console, self.farewell, self.patient = console, farewell, patient
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers; whoever calls from another has their own
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        theirs = signal.getsignal(signal.SIGUSR2)
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if self.patient else [])]
        if callable(theirs) and theirs is not stop_at_once:  # submitit's, which lets SIGTERM pass on purpose
            numbers = [signal.SIGINT, signal.SIGUSR2]
        for number in numbers:
            self._before[number] = signal.signal(number, _deferred)
        threading.Thread(target=self._listen, daemon=True, name="slt-signals").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)
        self._before = {}

    def _listen(self) -> None:
        while data := os.read(self._read, 1):
            number = data[0]
            if number not in self._before or (self.asked and self.patient and number != signal.SIGINT):
                continue
            if self.asked:
                self.console.show_cursor(True)
                self.console.print(f"\nstopped at once. {self.farewell}")
                os._exit(130)
            self.asked = number
            self.console.print("\nstopping: this chunk is finished and saved first; Ctrl-C again stops at once")
        os.close(self._read)

    def check(self, *, together: bool = False) -> None:
        """Raise Stopped if a signal has asked for it; `together`: asked any process of the run, all of which ask."""
        asked = max(crew.exchange(int(self.asked))) if together else self.asked
        if asked:
            raise Stopped(asked)


def stop_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """A handler for the time when nothing is sampled: what there is, is saved."""
    raise Stopped(number)


def _deferred(number: int, frame: FrameType | None) -> None:
    """The signals' handler: the thread that reads them does the work."""


class Reporter:
    """Told of each chunk as it is saved (slt.drivers.Progress); raises Stopped there when asked to.

    Remaining time is judged from the pace of each part so far, a draw of a bucket counted by its cells, chains and
    samples. Use as a context.
    """

    def __init__(self, parts: Sequence[Part], console: Console, stopping: Stopping, *, quiet: bool = False):
        self.console, self.stopping, self.quiet = console, stopping, quiet
        self.work = {(part.name, b): _cost(part, b) * part.job.schedule.draws for part in parts for b in _buckets(part)}
        self.done = dict.fromkeys(self.work, 0.0)
        self.pace: dict[str, tuple[float, float]] = {}
        self.bar: Progress | None = None
        if not quiet and console.is_terminal:
            shown = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            self.bar = Progress(*shown, TextColumn("{task.fields[note]}"), console=console, transient=True)
            self.task = self.bar.add_task("compiling", total=sum(self.work.values()), note="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, part: Part, chunk: Chunk) -> None:
        """One chunk was saved."""
        key, schedule = (part.name, chunk.bucket), part.job.schedule
        cost = _cost(part, chunk.bucket)
        for earlier in self.work:  # of a resumed run, what was done before is not told
            if earlier == key:
                break
            self.done[earlier] = self.work[earlier]
        self.done[key] = cost * chunk.stop
        draws = (chunk.stop - chunk.first) * len(chunk.cells) * schedule.chains
        worked, seconds = self.pace.get(part.name, (0.0, 0.0))
        if not chunk.compiled:
            self.pace[part.name] = worked + cost * (chunk.stop - chunk.first), seconds + chunk.seconds
        if not self.quiet:
            self._show(part, chunk, draws)
        self.stopping.check(together=True)

    def measured(self, name: str, piece: str) -> None:
        """A piece of a measure was saved, or with no piece the whole."""
        what = f"measured {name}{f': {piece}' if piece else ''}"
        if self.bar is not None:
            self.bar.update(self.task, completed=sum(self.work.values()), description=what, note="")
        elif not self.quiet:
            self.console.print(what, highlight=False, markup=False, soft_wrap=True)
        self.stopping.check()

    def _show(self, part: Part, chunk: Chunk, draws: int) -> None:
        buckets = len(part.job.plan.buckets)
        where = f"{part.name} {chunk.bucket + 1}/{buckets}" if buckets > 1 else part.name
        rate = "compiled" if chunk.compiled else f"{_short(draws / max(chunk.seconds, 1e-9))} draws/s"
        broken = int(np.sum(chunk.status[_on_grid(part, chunk)] != 0))
        notes = [rate, self.left(), phase_counts(part, chunk), f"{broken} chains broken" if broken else ""]
        note = "  ".join(text for text in notes if text)
        if self.bar is not None:
            self.bar.update(self.task, completed=sum(self.done.values()), description=where, note=note)
            return
        share = 100 * sum(self.done.values()) / sum(self.work.values())
        line = f"{share:3.0f}%  {where}  draw {chunk.stop}/{part.job.schedule.draws}  {note}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def left(self) -> str:
        """Remaining time in words, "" while nothing is known."""
        known = {name: seconds / worked for name, (worked, seconds) in self.pace.items() if worked > 0}
        if not known:
            return ""
        typical = sum(known.values()) / len(known)
        seconds = sum((self.work[k] - self.done[k]) * known.get(k[0], typical) for k in self.work)
        return f"{duration(seconds)} left"


def expected_seconds(parts: Sequence[Part], budget: float = 3.0) -> dict[str, float]:
    """Seconds that sampling each part will take, by name: a draw of its largest program is timed, and of others while
    `budget` seconds last; what is left is scaled by cells and samples. Nothing is kept.
    """
    began = time.monotonic()
    by_size = [[(p, b) for b in sorted(_buckets(p), key=lambda b, p=p: -_cost(p, b))] for p in parts]
    turns = [turn for turn in itertools.chain.from_iterable(itertools.zip_longest(*by_size)) if turn is not None]
    with ThreadPoolExecutor() as pool:  # the largest programs compile side by side, and are then timed one by one
        timers = [part.job.timer(part.job.plan.buckets[bucket], pool) for part, bucket in turns[: len(parts)]]
        timed = {(part.name, bucket): time_it() for (part, bucket), time_it in zip(turns, timers, strict=False)}
        for part, bucket in turns[len(parts) :]:
            if time.monotonic() - began > budget:
                break
            timed[part.name, bucket] = part.job.timer(part.job.plan.buckets[bucket], pool)()
    found = {}
    for part in parts:
        known = {b: timed[part.name, b] for b in _buckets(part) if (part.name, b) in timed}
        pace = sum(known.values()) / sum(_cost(part, b) for b in known)
        draw = sum(known.get(b, pace * _cost(part, b)) for b in _buckets(part))
        found[part.name] = draw * part.job.schedule.draws
    return found


def _buckets(part: Part) -> range:
    return range(len(part.job.plan.buckets))


def _cost(part: Part, bucket: int) -> float:
    """How much work one draw of a bucket is, up to a factor that the part's sampler and model set."""
    size, rows = part.job.plan.buckets[bucket]
    overhead = 64  # what a step costs apart from its samples, in samples; only the guess of the time left depends on it
    return sum(len(row) for row in rows) * part.job.schedule.chains * float(size + overhead)


def _on_grid(part: Part, chunk: Chunk) -> np.ndarray:
    return np.array([cell < part.job.plan.grid for cell in chunk.cells])


def phase_counts(part: Part, chunk: Chunk) -> str:
    """How many chains of the grid's cells stand in each phase at the end of a chunk: "6: 12, 5: 3"; "" if unknown."""
    labels = chunk.traces.get("phase")
    if part.phases is None or labels is None or labels.shape[2] == 0:
        return ""
    seen = Counter(np.asarray(labels)[_on_grid(part, chunk), :, -1].ravel().tolist())
    names = dict(enumerate(part.phases.names)) | {-1: "none"}
    shown = [f"{names[int(label)]}: {count}" for label, count in seen.most_common(TOP_PHASES)]
    return ", ".join(shown)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 12 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 1:
        return "under 1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _short(number: float) -> str:
    for scale, letter in ((1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"
