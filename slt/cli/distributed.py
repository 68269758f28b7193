"""One run over several processes: a parent beside each one watches it, and ends all with one sentence when one is lost.

JAX's runtime itself notices a lost process late, and aborts the others with a stack trace.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from slt.cli import early
from slt.cli.early import WORKER
from slt.cli.seats import Seat
from slt.typing import InputError

BEAT, LOST, GRACE = 2.0, 15.0, 3.0  # seconds: between signs of life, without one until lost, to learn who was first
PULSE, HANGS = 1.0, 24.0  # the same between a worker and its parent: what holds Python's lock long is no hang yet
LINE = 4096  # bytes of a message between parents, at most
ORDERLY = (0, 2, 3, 130)  # exit codes that a worker chooses
PEER = 75  # a worker's code where a computation with others failed: likely another process was lost
HUNG = 76  # stands for the code of a worker that is there and gives no sign of life
PER_PROCESS = ("distributed", "devices", "--quiet")  # words in which the commands of one run's processes may differ


def is_worker() -> bool:
    """Whether this process was started by `supervise`."""
    return WORKER in os.environ


def join() -> None:
    """In a worker: join the others, before JAX looks at its devices."""
    place, _, _, line = json.loads(os.environ[WORKER])
    own = Seat(*place)
    threading.Thread(target=_live, args=(line,), daemon=True).start()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"{own.host}:{own.port}", own.size, own.rank)


def work(args: argparse.Namespace, command: Callable[[argparse.Namespace, Console], int]) -> int:
    """In a worker, run the command; with any exit code but 0 the process ends here, without waiting for the others."""
    place, messages, results, _ = json.loads(os.environ[WORKER])
    own, console = Seat(*place), Console(file=os.fdopen(messages, "w"), highlight=False)
    sys.stdout = os.fdopen(results, "w")
    if own.rank:
        args.quiet = True
    code = PEER
    try:
        code = command(args, console)
    except InputError as error:
        if own.rank == 0:
            console.print(f"slt {args.command}: {error}", markup=False, soft_wrap=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except jax.errors.JaxRuntimeError:
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
        code = 1
        raise
    finally:
        if code != 0:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # JAX would wait for the others
    return code


def _live(line: int) -> None:
    """Give the parent signs of life, and end when it does."""
    with contextlib.suppress(OSError):
        while not select.select([line], [], [], PULSE)[0]:  # it never writes: the line is ready when it has ended
            os.write(line, b".")
    os._exit(PEER)


def supervise(own: Seat, argv: Sequence[str], messages: Console, after: Callable[[], str]) -> int:
    """Start this host's worker and watch it and the others; the exit code of the run.

    Where a process is lost, a sentence says so and ends with `after()`, about what was written. Raises InputError where
    the first host has no such name, or its ports are taken.
    """
    try:
        socket.getaddrinfo(own.host, own.port)
    except (socket.gaierror, UnicodeError) as error:
        raise InputError("distributed", own.host, f"is no host that is known here ({error})") from error
    token = _token(own, argv)
    watcher = _Hub(own, token) if own.rank == 0 else _Spoke(own, token, messages)
    here, there = socket.socketpair()
    for number in early.SIGNALS:
        signal.signal(number, early.note)
    with tempfile.TemporaryFile("w+") as log:
        said, told = os.dup(2), os.dup(1)
        environment = os.environ | {WORKER: json.dumps([own, said, told, there.fileno()])}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, early.SIGNALS)
        child = subprocess.Popen(
            [sys.executable, "-m", "slt.cli", *argv],
            env=environment,
            pass_fds=(said, told, there.fileno()),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=log,  # where libraries write
            stderr=log,
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        for number in early.SIGNALS:
            signal.signal(number, lambda number, _: _send(child, number))
        for number in early.noted:
            _send(child, number)
        try:
            verdict = watcher.watch(_Worker(child, here))
        finally:
            _send(child, signal.SIGKILL)
            child.wait()
            here.close()
            os.close(said)
            os.close(told)
        if verdict.sentence:
            if verdict.mine and child.returncode in (1, PEER):
                log.seek(0)
                messages.print("".join(log.readlines()[-30:]), markup=False, soft_wrap=True)
            messages.print(f"{verdict.sentence}; {after()}", markup=False, soft_wrap=True)
    return verdict.code


def _token(own: Seat, argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """What all processes of a run can derive, and no stranger has by chance."""
    words = [word for word in argv if word.partition("=")[0] not in PER_PROCESS]
    job = environment.get("SLURM_JOB_ID", "") if "distributed=auto" in argv else ""  # by hand also between jobs
    return hashlib.sha256(json.dumps([own.size, job, words]).encode()).hexdigest()


def _send(child: "subprocess.Popen[Any]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


class _Worker:
    """This host's worker; judged by its signs of life from the first on, which comes when JAX is loaded."""

    def __init__(self, child: "subprocess.Popen[Any]", line: socket.socket):
        self.child, self.line, self.heard = child, line, math.inf
        line.setblocking(False)

    def ended(self) -> int | None:
        """Its exit code, HUNG, or None while it is well."""
        with contextlib.suppress(OSError):
            if self.line.recv(4096):
                self.heard = time.monotonic()
        hangs = time.monotonic() - self.heard > HANGS
        return HUNG if self.child.poll() is None and hangs else self.child.returncode


class Verdict(NamedTuple):
    """How a run ended: exit code, a sentence where it was cut short, whether this host's worker is to blame."""

    code: int
    sentence: str = ""
    mine: bool = False


def _sentence(rank: int, count: int, host: str, code: int | None) -> Verdict:
    if code is None:
        how = "its host no longer answers"
    elif code == HUNG:
        how = f"it hangs: no sign of life for {HANGS:.0f} s"
    elif code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"exit code {code}"
    return Verdict(3, f"process {rank} of {count} on {host} was lost ({how}): the run is stopped")


class _Link:
    """Lines of JSON over a socket, with signs of life; who says anything else is not there."""

    def __init__(self, connection: socket.socket):
        self.connection, self.buffer, self.heard, self.spoke = connection, b"", time.monotonic(), 0.0
        connection.setblocking(False)

    def tell(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        self.spoke = time.monotonic()

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """(messages, whether the other end is there)."""
        there = True
        try:
            data = self.connection.recv(65536)
            there, self.heard = bool(data), time.monotonic()
            self.buffer += data
        except BlockingIOError:
            pass
        except OSError:
            there = False
        *lines, self.buffer = self.buffer.split(b"\n")
        try:
            messages = [_message(line) for line in lines]
        except (ValueError, RecursionError):
            return [], False
        return messages, there and len(self.buffer) <= LINE and time.monotonic() - self.heard < LOST

    def beat(self) -> None:
        """Give a sign of life when one is due."""
        if time.monotonic() - self.spoke > BEAT:
            self.tell(beat=True)


class _Hub:
    """The parent of rank 0: hears of every worker's end and says what is to be done."""

    def __init__(self, own: Seat, token: str):
        self.own, self.token = own, token
        _listening(own.port).close()  # the worker's, which ends without a word where it is taken
        self.server = _listening(own.port + 1)
        self.server.setblocking(False)
        self.links: dict[int, _Link] = {}
        self.unnamed: list[_Link] = []
        self.hosts = {0: socket.gethostname()}
        self.ended: dict[int, int | None] = {}

    def watch(self, worker: _Worker) -> Verdict:
        since: float | None = None
        while True:
            self._hear()
            code = worker.ended()
            if code is not None:
                self.ended[0] = code
            if len(self.ended) == self.own.size and all(code == 0 for code in self.ended.values()):
                return self._say(Verdict(0))
            bad = {rank: code for rank, code in self.ended.items() if code != 0}
            if bad:
                since = time.monotonic() if since is None else since
                waited, everyone = time.monotonic() - since, len(self.ended) == self.own.size
                chosen = [code for code in bad.values() if code in ORDERLY]
                causes = [rank for rank, code in bad.items() if code not in (*ORDERLY, PEER, -signal.SIGABRT)]
                if -signal.SIGINT in bad.values():  # while it was loading, or waited for the others
                    return self._say(Verdict(130, "interrupted"))
                if causes:
                    return self._say(self._lost(causes[0]))
                if chosen and (everyone or waited > LOST or 2 in chosen):
                    return self._say(Verdict(chosen[0] or 0))
                if not chosen and (everyone or waited > GRACE):
                    return self._say(self._lost(next(iter(bad))))
            time.sleep(0.1)

    def _lost(self, rank: int) -> Verdict:
        found = _sentence(rank, self.own.size, self.hosts.get(rank, "?"), self.ended[rank])
        return found._replace(mine=rank == 0)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            self.unnamed.append(_Link(self.server.accept()[0]))
        for link in list(self.unnamed):
            messages, there = link.read()
            if messages or not there:
                self.unnamed.remove(link)
                refused = self._refused(messages[0]) if messages else "no message"
                if refused:
                    link.tell(refused=refused)
                    link.connection.close()
                    continue
                rank = messages[0]["rank"]
                self.links[rank], self.hosts[rank] = link, str(messages[0].get("host"))
                self._heed(rank, messages[1:], there)
        for rank, link in self.links.items():
            self._heed(rank, *link.read())
            link.beat()

    def _heed(self, rank: int, messages: Sequence[Mapping[str, Any]], there: bool) -> None:
        for message in messages:
            if "ended" in message:
                self.ended[rank] = message["ended"]
        if not there:
            self.ended.setdefault(rank, None)

    def _refused(self, message: Mapping[str, Any]) -> str:
        """Why who sends this as its first message is no process of this run; "" if it is one."""
        if message.get("token") != self.token:
            return "process 0 runs another command: start the same one on every host"
        if message.get("rank") not in [rank for rank in range(1, self.own.size) if rank not in self.links]:
            return "process 0 knows another process of this rank: give each a rank of its own"
        return ""

    def _say(self, verdict: Verdict) -> Verdict:
        for rank, link in self.links.items():
            blamed = bool(verdict.sentence) and verdict.sentence.startswith(f"process {rank} ")
            link.tell(verdict=[verdict.code, verdict.sentence, blamed])
        time.sleep(0.2)
        self.server.close()
        for link in (*self.links.values(), *self.unnamed):
            link.connection.close()
        return verdict


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port))
    except OSError as error:
        cure = "give distributed=HOST:PORT,RANK,COUNT whose PORT and the next one are free"
        where = f"{socket.gethostname()}:{port}"
        raise InputError(
            "distributed", where, f"cannot be listened on ({os.strerror(error.errno or 0)}): {cure}"
        ) from error


def _message(line: bytes) -> dict[str, Any]:
    """A line as the message that it is; ValueError if it is none."""
    found = json.loads(line) if line and len(line) <= LINE else None
    if not isinstance(found, dict):
        raise ValueError("no message")
    return found


class _Spoke:
    """The parent of another rank: tells the hub of its worker's end, and does what the hub says."""

    def __init__(self, own: Seat, token: str, messages: Console):
        self.own, self.token, self.messages = own, token, messages

    def watch(self, worker: _Worker) -> Verdict:
        link, told = self._connect(), False
        if link is None:
            return _sentence(0, self.own.size, self.own.host, None)
        with link.connection, selectors.DefaultSelector() as ready:
            ready.register(link.connection, selectors.EVENT_READ)
            while True:
                ready.select(0.1)
                messages, there = link.read()
                for message in messages:
                    if "refused" in message:
                        where = f"{self.own.host}:{self.own.port},{self.own.rank},{self.own.size}"
                        raise InputError("distributed", where, str(message["refused"]))
                    if "verdict" in message:
                        return Verdict(*message["verdict"])
                if not there:
                    return _sentence(0, self.own.size, self.own.host, None)
                link.beat()
                code = worker.ended()
                if code is not None and not told:
                    link.tell(ended=code)
                    told = True

    def _connect(self) -> _Link | None:
        began, said = time.monotonic(), False
        while time.monotonic() - began < 300:
            try:
                link = _Link(socket.create_connection((self.own.host, self.own.port + 1), timeout=5))
                link.tell(rank=self.own.rank, host=socket.gethostname(), token=self.token)
                return link
            except OSError:
                time.sleep(0.5)
            if time.monotonic() - began > LOST and not said:
                where = f"{self.own.host}:{self.own.port + 1}"
                self.messages.print(f"waiting for process 0 at {where}", markup=False, soft_wrap=True)
                said = True
        return None
