"""Lines of the manifest: what an event may say, the checksum that each line ends with, and what events tell of a part.

Whoever wrote a line, it leads neither out of the run directory nor to a cell, chain or draw that is not there.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slt.typing import Status

Record = tuple[int, str] | None
"""(bytes, checksum) of a file; None where it may be either of two versions, because it was being rewritten."""

UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"""What `opened` and `check` raise for a line that cannot be taken."""


@dataclass
class Part:
    """What the manifest says of one part.

    shape: what must agree before the part is gone on with; draws: planned; labels, ladder: of every engine cell, its
    coordinates in words and the ladder it belongs to; done: draws committed, by bucket; broken: by bucket, see
    Layout.broken; folded: draws after which the end was written; files: by bucket; added: variables added since;
    seconds: that all chunks took, compilation included, whoever ran them.
    """

    shape: dict[str, Any]
    draws: int
    chains: int
    labels: list[str]
    ladder: list[int]
    done: list[int]
    broken: dict[int, list[list[int]]] = field(default_factory=dict)
    folded: int = 0
    files: dict[int, dict[str, Record]] = field(default_factory=dict)
    added: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def common(self) -> int:
        """Draws committed in every bucket."""
        return min(self.done)

    @property
    def complete(self) -> bool:
        """Whether every draw was made, and what comes at the end was written."""
        return self.common == self.draws == self.folded


def sealed(event: Mapping[str, Any], crc: int) -> bytes:
    """The line of an event, after lines whose CRC-32 is `crc`: its last field is that of the file up to this field."""
    return _sealed(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()[:-1], crc) + b"\n"


def opened(line: bytes, crc: int, *, strict: bool) -> dict[str, Any]:
    """The event of a line; ValueError where its checksum is wrong, or with `strict` lacks.

    Runs of before there were checksums have none in their lines, up to where they were gone on with.
    """
    body, mark, _ = line.rpartition(b',"crc":"')
    if (mark or strict) and line != _sealed(body, crc):
        raise ValueError("its checksum is wrong")
    return json.loads(line)


def _sealed(body: bytes, crc: int) -> bytes:
    return body + b',"crc":"%08x"}' % zlib.crc32(body, crc)


def check(event: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """One of UNREADABLE where an event says what cannot be."""
    kind = event["event"]
    for key in {"part", "measure", "file"} & event.keys():
        _need(_inside(event[key]), key)
    for file, record in event.get("files", {}).items():
        _need(_inside(file) and _record(record), file)
    if kind == "attrs":
        _need(isinstance(event["attrs"], dict), "attrs")
    elif kind == "create":
        _create(event, parts)
    elif kind in ("measure", "piece", "forget"):
        _need(isinstance(event["measure"], str), "measure")
        _need(kind != "measure" or (_number(event["draws"]) and _number(event["seconds"])), "seconds")
        _need(kind != "measure" or isinstance(event["files"], dict), "files")
        _need(kind != "piece" or (isinstance(event["file"], str) and _record(event["record"])), "record")
    else:
        _of_part(kind, event, parts[event["part"]])


def _create(event: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    shape, labels, ladder = event["shape"], event["labels"], event["ladder"]
    known = {"event", "part", "files", "shape", "buckets", "draws", "chains", "labels", "ladder", "crc"}
    _need(event.keys() <= known and event["part"] not in parts, "part")
    _need(all(isinstance(label, str) for label in labels), "labels")
    _need(len(ladder) == len(labels) and all(_count(one, 0) for one in ladder), "ladder")
    _need(_count(event["buckets"], 1, len(labels)) and _count(event["draws"]) and _count(event["chains"]), "draws")
    counts = [shape["schedule.chunk"], shape["schedule.chains"], *shape["thinning"].values()]
    _need(all(map(_count, counts)), "shape")


def _of_part(kind: str, event: Mapping[str, Any], part: Part) -> None:
    if kind in ("chunk", "restart"):
        _need(_count(event["bucket"], 0, len(part.done) - 1), "bucket")
    if kind == "chunk":
        done, first, stop = part.done[event["bucket"]], event["first"], event["stop"]
        _need(_count(first, 0, done) and _count(stop, first + 1, part.draws), f"draws after {done}")
        _need(_number(event["seconds"]) and isinstance(event["files"], dict), "files")
        for cell, chain, draw, status in event["broken"]:
            _need(_count(cell, 0, len(part.labels) - 1) and _count(draw, -1, part.draws), "broken")
            _need(_count(chain, 0, part.shape["schedule.chains"] - 1) and Status(status) != 0, "broken")
    elif kind == "extend":
        _need(_count(event["draws"], part.draws), "draws")
        _need(all(isinstance(file, str) for file in event["rewritten"]), "rewritten")
    elif kind == "add":
        for one in event["variables"].values():
            _need({"dims", "values", "attrs", "dtype", "coord"} == one.keys(), "variables")
    elif kind == "files":
        _need(_count(event.get("folded", 0), 0, part.draws) and isinstance(event["files"], dict), "folded")
    else:
        _need(kind == "restart", f"event {kind!r}")


def _need(fact: bool, what: str) -> None:
    if not fact:
        raise ValueError(f"its {what} cannot be")


def _inside(name: Any) -> bool:
    """Whether a name of a file, a part or a measure leads to a place within the run directory."""
    return isinstance(name, str) and not {"", ".", ".."} & set(name.split("/")) and not {"\0", "\\"} & set(name)


def _record(record: Any) -> bool:
    size, digest = record
    return _count(size, 0) and isinstance(digest, str)


def _count(value: Any, low: int = 1, high: int = 2**62) -> bool:
    return type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")
