"""One run over several processes: a parent beside each one watches it, and ends all with one sentence when one is lost.

JAX's runtime itself notices a lost process late, and aborts the others with a stack trace.
"""

import argparse
import contextlib
import json
import os
import re
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

from slt.typing import InputError

WORKER = "SLT_WORKER"
"""Environment variable of a worker: its Seat, descriptors of messages, results and its parent's life line; JSON."""
BEAT, LOST, GRACE = 2.0, 15.0, 3.0  # seconds: between signs of life, without one until lost, to learn who was first
ORDERLY = (0, 2, 3, 130)  # exit codes that a worker chooses
PEER = 75  # a worker's code where a computation with others failed: likely another process was lost


class Seat(NamedTuple):
    """A process of a run: the coordinator's host and port, its own rank, how many there are."""

    host: str
    port: int
    rank: int
    size: int


def seat(text: str, environment: Mapping[str, str] = os.environ) -> Seat:
    """What distributed=HOST:PORT,RANK,COUNT says; "auto" asks SLURM's variables, or those of a TPU pod."""
    match = re.fullmatch(r"(?P<host>[^:,\s]+):(?P<port>\d+),(?P<rank>\d+),(?P<count>\d+)", text)
    if match is not None:
        found = Seat(match["host"], int(match["port"]), int(match["rank"]), int(match["count"]))
    elif text == "auto" and "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        port = 20000 + 2 * (int(environment.get("SLURM_JOB_ID", "0")) % 10000)
        host = _first_host(environment["SLURM_STEP_NODELIST"])
        found = Seat(host, port, int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    elif text == "auto" and "TPU_WORKER_HOSTNAMES" in environment:
        hosts = environment["TPU_WORKER_HOSTNAMES"].split(",")
        found = Seat(hosts[0], 8476, int(environment["TPU_WORKER_ID"]), len(hosts))
    else:
        cure = "found neither SLURM (start by srun) nor a TPU pod: give" if text == "auto" else "write"
        raise InputError("distributed", text, f"{cure} HOST:PORT,RANK,COUNT, such as node1:9000,0,2")
    if not 0 <= found.rank < found.size or not 1024 <= found.port < 65535:
        raise InputError("distributed", text, "the rank counts from 0 to below COUNT, the port from 1024 to 65534")
    return found


def _first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[003-005,9],x1" gives gpu003."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    return nodes if match is None else match[1] + (match[2] or "")


def is_worker() -> bool:
    """Whether this process was started by `supervise`."""
    return WORKER in os.environ


def join() -> None:
    """In a worker: join the others, before JAX looks at its devices."""
    place, _, _, line = json.loads(os.environ[WORKER])
    own = Seat(*place)
    threading.Thread(target=_end_with_parent, args=(line,), daemon=True).start()
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


def _end_with_parent(line: int) -> None:
    os.read(line, 1)  # nothing is ever written: it ends when the parent does
    os._exit(PEER)


def supervise(own: Seat, argv: Sequence[str], messages: Console, again: str) -> int:
    """Start this host's worker and watch it and the others; the exit code of the run."""
    read, write = os.pipe()
    with tempfile.TemporaryFile("w+") as log:
        said, told = os.dup(2), os.dup(1)
        environment = os.environ | {WORKER: json.dumps([own, said, told, read])}
        command = [sys.executable, "-m", "slt.cli", *argv]
        child = subprocess.Popen(
            command,
            env=environment,
            pass_fds=(said, told, read),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=log,  # where libraries write
            stderr=log,
        )
        os.close(read)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda number, _: _send(child, number))
        try:
            verdict = _Hub(own, child).watch() if own.rank == 0 else _Spoke(own, child).watch()
        finally:
            _send(child, signal.SIGKILL)
            child.wait()
            os.close(write)
            os.close(said)
            os.close(told)
        if verdict.sentence:
            if verdict.mine and child.returncode in (1, PEER):
                log.seek(0)
                messages.print("".join(log.readlines()[-30:]), markup=False, soft_wrap=True)
            messages.print(f"{verdict.sentence} {again}", markup=False, soft_wrap=True)
    return verdict.code


def _send(child: "subprocess.Popen[Any]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)


class Verdict(NamedTuple):
    """How a run ended: exit code, a sentence where it was cut short, whether this host's worker is to blame."""

    code: int
    sentence: str = ""
    mine: bool = False


def _sentence(rank: int, count: int, host: str, code: int | None) -> Verdict:
    if code is None:
        how = "its host no longer answers"
    elif code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"exit code {code}"
    text = f"process {rank} of {count} on {host} was lost ({how}): the run is stopped, and what it saved is kept."
    return Verdict(3, text)


class _Link:
    """Lines of JSON over a socket, with signs of life."""

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
        with contextlib.suppress(BlockingIOError):
            try:
                data = self.connection.recv(65536)
                there, self.heard = bool(data), time.monotonic()
                self.buffer += data
            except ConnectionError:
                there = False
        *lines, self.buffer = self.buffer.split(b"\n")
        if time.monotonic() - self.spoke > BEAT:
            self.tell(beat=True)
        return [json.loads(line) for line in lines], there and time.monotonic() - self.heard < LOST


class _Hub:
    """The parent of rank 0: hears of every worker's end and says what is to be done."""

    def __init__(self, own: Seat, child: "subprocess.Popen[Any]"):
        self.own, self.child = own, child
        self.server = socket.create_server(("", own.port + 1))
        self.server.setblocking(False)
        self.links: dict[int, _Link] = {}
        self.unnamed: list[_Link] = []
        self.hosts = {0: socket.gethostname()}
        self.ended: dict[int, int | None] = {}

    def watch(self) -> Verdict:
        since: float | None = None
        while True:
            self._hear()
            if len(self.ended) == self.own.size and all(code == 0 for code in self.ended.values()):
                return self._say(Verdict(0))
            bad = {rank: code for rank, code in self.ended.items() if code != 0}
            if bad:
                since = time.monotonic() if since is None else since
                waited, everyone = time.monotonic() - since, len(self.ended) == self.own.size
                chosen = [code for code in bad.values() if code in ORDERLY]
                causes = [rank for rank, code in bad.items() if code not in (*ORDERLY, PEER, -signal.SIGABRT)]
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
        with contextlib.suppress(BlockingIOError):
            self.unnamed.append(_Link(self.server.accept()[0]))
        for link in list(self.unnamed):
            messages, there = link.read()
            for message in messages:
                if "rank" in message:
                    self.links[message["rank"]], self.hosts[message["rank"]] = link, message["host"]
                    self.unnamed.remove(link)
            if not there and link in self.unnamed:
                self.unnamed.remove(link)
        for rank, link in self.links.items():
            messages, there = link.read()
            for message in messages:
                if "ended" in message:
                    self.ended[rank] = message["ended"]
            if not there:
                self.ended.setdefault(rank, None)
        code = self.child.poll()
        if code is not None:
            self.ended[0] = code

    def _say(self, verdict: Verdict) -> Verdict:
        for rank, link in self.links.items():
            blamed = bool(verdict.sentence) and verdict.sentence.startswith(f"process {rank} ")
            link.tell(verdict=[verdict.code, verdict.sentence, blamed])
        time.sleep(0.2)
        self.server.close()
        return verdict


class _Spoke:
    """The parent of another rank: tells the hub of its worker's end, and does what the hub says."""

    def __init__(self, own: Seat, child: "subprocess.Popen[Any]"):
        self.own, self.child = own, child

    def watch(self) -> Verdict:
        link, told = self._connect(), False
        if link is None:
            return _sentence(0, self.own.size, self.own.host, None)
        with selectors.DefaultSelector() as ready:
            ready.register(link.connection, selectors.EVENT_READ)
            while True:
                ready.select(0.1)
                messages, there = link.read()
                for message in messages:
                    if "verdict" in message:
                        return Verdict(*message["verdict"])
                if not there:
                    return _sentence(0, self.own.size, self.own.host, None)
                if not told and self.child.poll() is not None:
                    link.tell(ended=self.child.returncode)
                    told = True

    def _connect(self) -> _Link | None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                link = _Link(socket.create_connection((self.own.host, self.own.port + 1), timeout=5))
                link.tell(rank=self.own.rank, host=socket.gethostname())
                return link
            except OSError:
                time.sleep(0.5)
        return None
