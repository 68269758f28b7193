"""The journal of a run directory: what was committed, in which files, whether they are whole, and who may write."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import socket
import subprocess
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from numcodecs import Zstd

from slt.results.events import UNREADABLE, Part, Record, check, opened, sealed
from slt.results.place import create, is_local, refuse_links, replace
from slt.typing import InputError, Status

FILE, LOCK = "manifest.jsonl", "lock"
SHARED = -1
"""Stands for a bucket where files belong to a whole part: coordinates and what is written at the end."""
LOG = logging.getLogger("slt.results.store")


def checksum(content: bytes) -> str:
    """The first 32 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:32]


def own_checksum(document: Mapping[str, Any]) -> str:
    """The checksum of JSON that is to hold it itself: of its canonical form without it."""
    return checksum(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


class Damage(NamedTuple):
    """A file that is not what the manifest says of it."""

    part: str
    bucket: int
    file: str
    problem: str


class Manifest:
    """manifest.jsonl read, and appended to by the one process that holds the run directory's lock.

    A line is one event, on the disk before the next step is taken. A last line that was cut short does not count; where
    one cannot be read, neither it nor what follows does, and `lost` says so.
    """

    def __init__(self, folder: Path):
        """Read it; InputError where `folder` is no run directory, holds links, or its first lines cannot be read."""
        self.folder, self.path = folder, folder / FILE
        self.parts: dict[str, Part] = {}
        self.attrs: dict[str, Any] = {}
        self.measures: dict[str, dict[str, Any]] = {}  # finished: {"draws": of the run then, "seconds", "files"}
        self.pieces: dict[str, dict[str, Record]] = {}
        self.lost, self.length, self._crc = "", 0, 0
        refuse_links(folder)
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError("run", str(folder), f"is no run directory: it has no {FILE}") from error
        self._read(content[: content.rfind(b"\n") + 1])
        self._content = None if is_local(folder) else content[: self.length]
        if not self.parts and not self.attrs:
            self.begin_anew(self.lost or "is empty: nothing was committed")

    def _read(self, content: bytes) -> None:
        strict = False
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                event = opened(line, self._crc, strict=strict)
                strict = strict or "crc" in event
                check(event, self.parts)
            except UNREADABLE as error:
                self.lost = f"line {number} cannot be read ({error})"
                return
            self._apply(event)
            self._passed(line + b"\n")

    def begin_anew(self, problem: str) -> NoReturn:
        """InputError: what tells how the draws lie is lost."""
        cure = f"{problem}: without its first lines a run cannot be gone on with. Put back a copy of the file, or copy "
        raise InputError("run", str(self.path), f"{cure}config.yaml elsewhere and `slt run` it anew")

    def mend(self) -> None:
        """Drop the lines that do not count, so that what they committed is computed again."""
        if self.lost:
            LOG.warning("%s: %s: going on from the lines before it", self.path, self.lost)
            self._write(b"")
            self.lost = ""

    @staticmethod
    def begin(folder: Path, events: Iterable[Mapping[str, Any]]) -> None:
        """Write the first lines."""
        content = b""
        for event in events:
            content += sealed(event, zlib.crc32(content))
        (folder / FILE).write_bytes(content)

    def append(self, event: str, **content: Any) -> None:
        """Commit one event."""
        line = sealed({"event": event, **content}, self._crc)
        told = json.loads(line)
        check(told, self.parts)
        self._write(line)
        self._passed(line)
        self._apply(told)

    def _passed(self, line: bytes) -> None:
        self.length += len(line)
        self._crc = zlib.crc32(line, self._crc)

    def _write(self, line: bytes) -> None:
        """Put a line after those that count, in place of whatever is there."""
        if self._content is not None:  # an object store cannot append
            self._content += line
            replace(self.path, self._content)
            return
        with self.path.open("r+b") as file:
            file.truncate(self.length)
            file.seek(self.length)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _apply(self, line: dict[str, Any]) -> None:
        """Take in an event that was checked."""
        event, name = line["event"], line.get("part", "")
        if event == "attrs":
            self.attrs = line["attrs"]
        elif event == "create":
            facts = {key: line[key] for key in ("shape", "draws", "chains", "labels", "ladder")}
            self.parts[name] = Part(done=[0] * line["buckets"], **facts)
            self._note(name, SHARED, line["files"])
        elif "measure" in line:
            self._measured(event, line["measure"], line)
        else:
            self._went_on(event, self.parts[name], name, line)

    def _went_on(self, event: str, part: Part, name: str, line: dict[str, Any]) -> None:
        if event == "chunk":
            bucket = line["bucket"]
            part.done[bucket] = max(part.done[bucket], line["stop"])
            part.broken[bucket] = line["broken"]
            part.seconds += line["seconds"]
            self._note(name, bucket, line["files"])
        elif event == "restart":
            part.done[line["bucket"]] = part.folded = 0
            part.broken.pop(line["bucket"], None)
            part.files.pop(line["bucket"], None)
        elif event == "extend":
            part.draws, part.folded = line["draws"], 0
            for files in part.files.values():
                files.update(dict.fromkeys(files.keys() & set(line["rewritten"])))
        elif event == "add":
            part.added |= line["variables"]
        elif event == "files":
            part.folded = line.get("folded", part.folded)
            self._note(name, SHARED, line["files"])

    def _measured(self, event: str, measure: str, line: dict[str, Any]) -> None:
        if event == "measure":
            self.measures[measure] = {key: line[key] for key in ("draws", "seconds", "files")}
        elif event == "piece":
            self.pieces.setdefault(measure, {})[line["file"]] = tuple(line["record"])
        else:
            self.measures.pop(measure, None)
            self.pieces.pop(measure, None)

    def _note(self, part: str, bucket: int, files: Mapping[str, list]) -> None:
        known = self.parts[part].files.setdefault(bucket, {})
        known.update({name: (size, digest) for name, (size, digest) in files.items()})

    def damage(self, verify: bool, part: str | None = None, bucket: int | None = None) -> Iterator[Damage]:
        """Files that are missing or have another size or, with `verify`, another content."""
        for name, state in self.parts.items():
            for number, files in state.files.items():
                if part in (None, name) and bucket in (None, number):
                    for file, record in files.items():
                        problem = _problem(self.folder / file, record, verify)
                        if problem is not None:
                            yield Damage(name, number, file, problem)
        for name, measure in self.measures.items():
            if part is None and bucket is None:
                for file, (size, digest) in measure["files"].items():
                    problem = _problem(self.folder / file, (size, digest), verify)
                    if problem is not None:
                        yield Damage(f"measures.{name}", SHARED, file, problem)

    def look(self, file: str, content: bytes) -> None:
        """InputError where what was read of a file is not what was committed, nor whole by a checksum of its own.

        The latter for files that were written anew since the manifest was read.
        """
        records = [files[file] for part in self.parts.values() for files in part.files.values() if file in files]
        fixed = [tuple(one["files"][file]) for one in self.measures.values() if file in one["files"]]
        sound = not (records or fixed) or (len(content), checksum(content)) in (*records, *fixed)
        if not sound and (fixed or not _decodes(file, content)):
            cure = f"was altered: `slt resume {self.folder}` computes it again"
            raise InputError("run", str(self.folder / file), cure)

    @property
    def seconds(self) -> float:
        """That all chunks and measures took, whoever ran them."""
        return sum(part.seconds for part in self.parts.values()) + sum(m["seconds"] for m in self.measures.values())

    def health(self) -> dict[str, Any]:
        """By part: draws that all cells have, planned draws, share done of all, chains (ladders), those that broke."""
        return {name: _health(name, state) for name, state in self.parts.items()}


def _problem(path: Path, record: Record, verify: bool) -> str | None:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if verify else b""
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if record is None:
        return None if not verify or _decodes(path.name, content) else "was altered"
    if size != record[0]:
        return f"has {size} bytes instead of {record[0]}"
    return "was altered" if verify and checksum(content) != record[1] else None


def _decodes(file: str, content: bytes) -> bool:
    try:
        json.loads(content) if file.endswith(".json") else Zstd().decode(content)
    except (RuntimeError, ValueError):
        return False
    return True


def _health(name: str, part: Part) -> dict[str, Any]:
    entries = [entry for bucket in sorted(part.broken) for entry in part.broken[bucket]]
    named = [
        {"cell": part.labels[cell], "chain": chain, "draw": draw, "reason": Status(status).sentence}
        for cell, chain, draw, status in entries
        if status != Status.BROKEN_RUNG
    ]
    for one in named:
        one["sentence"] = f"{name}: {one['cell']}, chain {one['chain']} broke at draw {one['draw']}: {one['reason']}"
    lost = {(part.ladder[cell], chain) for cell, chain, _, _ in entries}
    return {
        "draws": part.common,
        "planned": part.draws,
        "done": sum(part.done) / (len(part.done) * part.draws),
        "chains": part.chains,
        "broken": len(lost),
        "broken_chains": named,
    }


def lock(folder: Path) -> None:
    """Claim a run directory for this process; InputError where another one has it. A dead process loses its claim."""
    path, mine = folder / LOCK, folder / f"{LOCK}.{uuid.uuid4().hex[:8]}"
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()), "job": _job()}
    if not is_local(folder):
        _lock_object(folder, path, json.dumps(about).encode())
        return
    mine.write_text(json.dumps(about))
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(mine)  # appears with its content, or fails
            return
        with path.open() as held:
            fcntl.flock(
                held, fcntl.LOCK_EX
            )  # of two that find the same dead owner, the second reads what the first left
            _leave(folder, _owner(path))
            mine.replace(path)
    except FileNotFoundError as error:
        raise InputError("run", str(folder), "was given back or removed this moment: try again") from error
    finally:
        mine.unlink(missing_ok=True)


def unlock(folder: Path) -> None:
    """Give a run directory back."""
    (folder / LOCK).unlink(missing_ok=True)


def _owner(path: Path) -> dict[str, Any]:
    """Who holds a run directory; InputError where its lock does not say: one that a power loss left is empty."""
    try:
        owner = json.loads(path.read_bytes())
        (pid, host, started), job = (owner[key] for key in ("pid", "host", "started")), owner.get("job")
        fit = type(pid) is int and isinstance(host, str) and isinstance(started, str | None)
        if not fit or not (job is None or (isinstance(job, list) and len(job) == 2)):
            raise ValueError("it names no process")
    except UNREADABLE as error:
        cure = f"does not say which process works in this run ({error}): if none does, delete this file"
        raise InputError("run", str(path), cure) from error
    return owner


def _leave(folder: Path, owner: dict[str, Any]) -> None:
    """InputError where the process that holds a run directory may be alive."""
    job, theirs = _job(), owner.get("job")
    if job is not None and theirs is not None and theirs[0] == job[0]:
        gone = theirs[1] != job[1]
    else:
        gone = owner["host"] == socket.gethostname() and owner["started"] != _started(owner["pid"])
    if not gone:
        cure = f"is in use by process {owner['pid']} on {owner['host']}: wait for it, or if it is gone delete "
        raise InputError("run", str(folder), cure + f"the file {LOCK}")
    LOG.warning("%s: process %s, which held it, is gone: going on from its last save", folder, owner["pid"])


def _lock_object(folder: Path, path: Path, mine: bytes) -> None:
    try:
        create(path, mine)
    except FileExistsError:
        _leave(folder, _owner(path))
        path.unlink(missing_ok=True)
        try:
            create(path, mine)  # of two that find the same dead owner, one is refused
        except FileExistsError as error:
            raise InputError("run", str(folder), "was taken by another process this moment: wait for it") from error


def _job() -> list[str] | None:
    """The SLURM job of this process and how often it was queued anew: of one job only the last is alive."""
    job = os.environ.get("SLURM_JOB_ID")
    return None if job is None else [job, os.environ.get("SLURM_RESTART_COUNT", "0")]


def _started(pid: int) -> str | None:
    """When a process of this machine started, so that a number given out again is told apart; None if there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {after_name[19]}"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
