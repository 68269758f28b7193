"""A run directory being written, in such an order that a kill at any moment loses nothing that was committed.

A chunk's arrays go first, each file replaced atomically; then a line of the manifest; then the checkpoint. What follows
the last checkpoint is computed again, bitwise the same.
"""

import functools
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numcodecs import Zstd

from slt.engine import Chunk, Restore, Trace
from slt.engine.program import Carry, kept
from slt.results import checkpoint, skeleton
from slt.results.layout import Block, Layout
from slt.results.manifest import FILE as MANIFEST
from slt.results.manifest import LOCK, SHARED, Manifest, checksum, lock, unlock
from slt.results.origin import CONFIG
from slt.results.place import is_local, move, place, remove, replace, workshop
from slt.results.skeleton import DATA, LEVEL, readable
from slt.results.summary import SUMMARY, read_summary
from slt.typing import InputError

LOG = logging.getLogger("slt.results.store")
CHECKPOINTS = "checkpoints"


class Store:
    """The one writer of a run directory. Get it from `create` or `open`, and `close` it (or use it in a `with`)."""

    def __init__(self, path: Path, parts: Mapping[str, Layout]):
        self.path, self.layouts, self.manifest = path, dict(parts), Manifest(path)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], parts: Mapping[str, Layout], config_text: str, attrs: Mapping[str, Any]
    ) -> "Store":
        """A new run directory: it appears as a whole or not at all. attrs: of the dataset's root, JSON-able.

        InputError where `path` holds anything already, or cannot be written.
        """
        path = place(path)
        fresh = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}" if is_local(path) else Path(tempfile.mkdtemp())
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError("out", str(path), "exists, and is never overwritten: give another directory")
            fresh.mkdir(parents=True, exist_ok=True)
            lock(fresh)
            replace(fresh / CONFIG, config_text.encode())
            files = skeleton.write(fresh, parts, {}, attrs)
            created = [{"event": "create", "part": name, "files": files[name], **_facts(parts[name])} for name in parts]
            Manifest.begin(fresh, [{"event": "attrs", "attrs": dict(attrs)}, *created])
            _bring(fresh, path)
        except OSError as error:
            raise InputError("out", str(path), f"cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return cls(path, parts)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        parts: Mapping[str, Layout],
        *,
        config_text: str | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> "Store":
        """A run directory to go on with: lengthened where `parts` ask for more draws, coordinates mended where damaged.

        To extend a run give the new config_text and attrs as well: config.yaml changes first, so that whoever opens the
        run again by its own config ends what a kill cut short. InputError: no run directory, in use, other parts,
        fewer draws than before.
        """
        path = place(path)
        Manifest(path)
        lock(path)
        try:
            store = cls(path, parts)
            store._match()
            store.manifest.mend()
            if config_text is not None:
                replace(path / CONFIG, config_text.encode())
            if attrs is not None:
                store.manifest.append("attrs", attrs=dict(attrs))
            grown = [store._lengthen(name, layout.draws) for name, layout in parts.items()]
            shared = [state.files[SHARED] for state in store.manifest.parts.values()]
            halfway = any(record is None for files in shared for record in files.values())
            if any(grown) or attrs is not None or halfway or not readable(path) or store._coordinates_damaged():
                store._install()
            store._drop_summary()
        except BaseException:
            unlock(path)
            raise
        return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the run directory back."""
        unlock(self.path)

    def _drop_summary(self) -> None:
        """Remove a summary that is damaged, as one is written at the end."""
        if (self.path / SUMMARY).exists():
            try:
                read_summary(self.path)
            except InputError as error:
                LOG.warning("%s", error)
                (self.path / SUMMARY).unlink()

    def _match(self) -> None:
        if self.manifest.lost and self.layouts.keys() - self.manifest.parts.keys():
            self.manifest.begin_anew(self.manifest.lost)
        if self.layouts.keys() != self.manifest.parts.keys():
            raise InputError("parts", list(self.layouts), f"the run has {list(self.manifest.parts)}")
        for name, layout in self.layouts.items():
            state, facts = self.manifest.parts[name], _facts(layout)
            for key, value in state.shape.items():
                if facts["shape"][key] != value:
                    cure = f"the run has {value!r}: only draws can change"
                    raise InputError(f"{name}: {key}", facts["shape"][key], cure)
            if facts["labels"] != state.labels:
                raise InputError(f"{name}: grid", "other cells", "than the run has: only draws can change")
            if layout.draws < state.draws:
                raise InputError("schedule.draws", layout.draws, f"the run has {state.draws}: it can only grow")

    def resize(self, part: str, draws: int) -> None:
        """Make room for more draws; what is there stays. Nothing happens where there is room already."""
        if self._lengthen(part, draws):
            self._install()

    def _lengthen(self, part: str, draws: int) -> bool:
        state, layout = self.manifest.parts[part], self.layouts[part].resized(self.manifest.parts[part].draws)
        self.layouts[part] = layout.resized(draws)
        if draws <= state.draws:
            return False
        rewritten = list(state.files[SHARED])
        stored = [file for bucket in range(layout.buckets) for file in state.files.get(bucket, {})]
        for variable in layout.traces:
            axis, every = layout.along(variable)
            number, start = divmod(kept(layout.draws, every), layout.chunk // every)
            prefix = f"{DATA}/{part}/{variable.name}/c/"
            if start:  # the last file of every variable is not full: more draws will be written into it
                mine = (file for file in stored if file.startswith(prefix))
                rewritten += [file for file in mine if file.removeprefix(prefix).split("/")[axis] == str(number)]
        self.manifest.append("extend", part=part, draws=draws, rewritten=rewritten)
        return True

    def _coordinates_damaged(self) -> bool:
        return any(True for _ in self.manifest.damage(True, None, SHARED))

    def _install(self) -> None:
        """Make metadata and coordinates anew and move them into place, last the root's, which tells readers all."""
        added = {name: part.added for name, part in self.manifest.parts.items()}
        with workshop(self.path) as work:
            files = skeleton.write(work, self.layouts, added, self.manifest.attrs)
            made = [file.relative_to(work) for file in work.rglob("*") if file.is_file()]
            for file in sorted(made, key=lambda file: (len(file.parts) == 2, file)):
                move(work / file, self.path / file.as_posix())
        for name in self.layouts:
            self.manifest.append("files", part=name, files=files[name])

    def write(self, part: str, chunk: Chunk) -> None:
        """Commit a chunk: its arrays, a line of the manifest, its checkpoint. Doing it again changes nothing."""
        layout, files = self.layouts[part], self._written(part, chunk)
        committed = {
            "bucket": chunk.bucket,
            "first": chunk.first,
            "stop": chunk.stop,
            "seconds": round(chunk.seconds, 3),
        }
        self.manifest.append("chunk", part=part, **committed, broken=layout.broken(chunk), files=files)
        checkpoint.save(self._checkpoints(part, chunk.bucket), chunk.stop, chunk.carry)

    def _written(self, part: str, chunk: Chunk) -> dict[str, list]:
        """The files of a chunk and their records, this process's share of them written here."""
        layout, (mine, count) = self.layouts[part], self._turn()
        turns = enumerate(layout.blocks(chunk))
        return self._share(dict(self._put(part, layout, block) for i, block in turns if i % count == mine))

    def _turn(self) -> tuple[int, int]:
        """(this process, number of processes) that write."""
        return 0, 1

    def _share(self, files: dict[str, list]) -> dict[str, list]:
        """The records of what all processes wrote."""
        return files

    def _put(self, part: str, layout: Layout, block: Block) -> tuple[str, list]:
        """Write one stored chunk of an array; (file, [bytes, checksum])."""
        variable, shape = block.variable, layout.chunks(block.variable)
        file = "/".join([DATA, part, variable.name, "c", *map(str, block.number)])
        path = self.path / file
        whole = np.full(shape, variable.fill, variable.dtype)
        if block.start:
            before = Zstd().decode(path.read_bytes())
            whole = np.frombuffer(before, variable.dtype).reshape(shape).copy()
        begin = [block.start if axis == block.axis else 0 for axis in range(len(shape))]
        whole[tuple(slice(b, b + size) for b, size in zip(begin, block.data.shape, strict=True))] = block.data
        content = Zstd(LEVEL, checksum=True).encode(whole)
        try:
            replace(path, content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            replace(path, content)
        return file, [len(content), checksum(content)]

    def _checkpoints(self, part: str, bucket: int) -> Path:
        return self.path / CHECKPOINTS / part / str(bucket)

    def restore(self, part: str) -> Restore:
        """What gives the engine each bucket's carry; a bucket with a damaged file is computed anew from its start."""
        return functools.partial(self._restored, part)

    def _restored(self, part: str, bucket: int, like: Carry) -> tuple[Carry, int] | None:
        done, folder = self.manifest.parts[part].done[bucket], self._checkpoints(part, bucket)
        damaged = next(self.manifest.damage(True, part, bucket), None)
        if damaged is not None:
            LOG.warning("%s %s: computing its bucket again from the first draw", damaged.file, damaged.problem)
        for step in checkpoint.steps(folder):
            if damaged is None and step <= done:
                try:
                    return checkpoint.read(folder, step, like), step
                except InputError:
                    raise
                except (ValueError, OSError) as error:
                    LOG.warning("checkpoint %s cannot be read (%s)", folder / str(step), error)
        if done:
            self.manifest.append("restart", part=part, bucket=bucket)
        remove(folder)
        return None

    def finish(self, part: str, trace: Trace) -> None:
        """Commit what is known at the end of a part: the folds, the offsets and how every chain stands."""
        layout, state = self.layouts[part], self.manifest.parts[part]
        if state.common < layout.draws:
            raise InputError(
                "schedule.draws", layout.draws, f"only {state.common} draws were committed: resume the run"
            )
        files = dict(self._put(part, layout, block) for block in layout.ended(trace))
        self.manifest.append("files", part=part, folded=layout.draws, files=files)

    def add(self, part: str, variables: xr.Dataset) -> None:
        """Add small arrays to a part, such as baselines of each cell's loss; they may have dims of their own.

        Those of the same name are replaced.
        """
        plain, known = skeleton.plain(variables), self.manifest.parts[part].added
        if known | plain != known:
            self.manifest.append("add", part=part, variables=plain)
            self._install()

    def health(self) -> dict[str, Any]:
        """See Manifest.health."""
        return self.manifest.health()


def _bring(fresh: Path, path: Path) -> None:
    """A new run directory to its place: at once on a disk; in an object store the manifest last, which makes it one."""
    if is_local(path):
        fresh.rename(path)
        return
    lock(path)
    made = [file.relative_to(fresh) for file in fresh.rglob("*") if file.is_file() and file.name != LOCK]
    for file in sorted(made, key=lambda file: (file.name == MANIFEST, file)):
        move(fresh / file, path / file.as_posix())


def _facts(layout: Layout) -> dict[str, Any]:
    """What the manifest keeps of a layout; `shape` must agree for a run to go on."""
    return {
        "shape": {
            "schedule.chunk": layout.chunk,
            "schedule.chains": layout.sizes["chain"],
            "schedule.burn_in": layout.burn_in,
            "thinning": layout.thinning,
            "schedule.thin": layout.attrs["thin"],
            "variables": [variable.name for variable in layout.variables],
        },
        "buckets": layout.buckets,
        "draws": layout.draws,
        "chains": layout.chains,
        "labels": list(layout.axes.labels),
        "ladder": (layout.axes.rung // layout.axes.rungs).tolist(),
    }
