"""Where a run directory lies: a local folder, or an object store named by a URL (s3://, gs://, memory://), by one path.

A place has the methods of pathlib.Path. What differs is here: a file is replaced by a rename on a disk, by one PUT in
an object store, where nothing is ever renamed and nothing appended to.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from slt.typing import InputError


def place(where: str | os.PathLike[str]) -> Path:
    """The path of a local folder, or of an object store where `where` is a URL that fsspec knows."""
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else cast(Path, where)
    if where.startswith("file://"):
        return Path(where.removeprefix("file://"))
    from upath import UPath  # a third of a second, which local runs do not need

    try:
        return cast(Path, UPath(where))
    except (ValueError, ImportError) as error:
        raise InputError("out", where, f"{error}; s3:// needs pip install 'slt[s3]'") from error


def is_local(path: Path) -> bool:
    """Whether a place is a folder of this machine's file system."""
    return isinstance(path, Path)


FOLDERS = {"data.zarr", "measures", "checkpoints", "figures"}
FILES = {"manifest.jsonl", "config.yaml", "summary.json", "lock", "log"}


def refuse_links(folder: Path) -> None:
    """InputError where a run directory holds a link, a pipe or a device, or a file in place of a folder.

    It may be a stranger's: whatever is read or written below it must lie there. It may be reached by a link itself.
    """
    if not is_local(folder) or not folder.is_dir():
        return
    below = [str(folder)]
    while below:
        here = below.pop()
        for entry in _entries(here):
            inner = entry.is_dir(follow_symlinks=False)
            if inner:
                below.append(entry.path)
            wrong = FILES if inner else FOLDERS
            if here == str(folder) and entry.name in wrong and not entry.is_symlink():
                kind = "folder" if wrong is FILES else "file"
                raise InputError("run", entry.path, f"is a {kind}, which no run has there: move it away")
            if not inner and not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                cure = "is a link or no file, and may lead elsewhere: put what it stands for in its place, or delete it"
                raise InputError("run", entry.path, cure)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:  # removed this moment by the run's own process
        return []


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it holds the old content or the new one at any moment."""
    if not is_local(path):
        path.write_bytes(content)  # one PUT
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        create(partial, content)
    except FileExistsError:  # left by a process that was killed; a link would lead elsewhere
        partial.unlink()
        create(partial, content)
    partial.replace(path)


def create(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, as one step; FileExistsError where it is."""
    if is_local(path):
        with path.open("xb") as file:
            file.write(content)
        return
    cast(Any, path).fs.pipe_file(cast(Any, path).path, content, mode="create")


def remove(path: Path) -> None:
    """Remove a folder and all in it, if it is there."""
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        cast(Any, path).fs.rm(cast(Any, path).path, recursive=True)


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """A local folder to make things in that `move` then brings to `path`: within it on a disk, else a temporary one."""
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="slt-") as folder:
            yield Path(folder)
        return
    folder = path / ".skeleton"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move(file: Path, to: Path) -> None:
    """Bring a file of a local folder to its place, whole at any moment."""
    if is_local(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        file.replace(to)
    else:
        replace(to, file.read_bytes())
        file.unlink()


def zarr_store(path: Path, look: Callable[[str, bytes], None] | None = None) -> Any:
    """A Zarr store at a place, for reading. look(key, content) sees every whole file that is read, and may raise."""
    if is_local(path):
        store: Store = LocalStore(path, read_only=True)
    else:
        options = dict(cast(Any, path).storage_options)
        store = FsspecStore.from_url(str(path), storage_options=options, read_only=True)
    return store if look is None else _Watched(store, look)


class _Watched(WrapperStore[Store]):
    """A store of which every whole file that is read is looked at."""

    def __init__(self, store: Store, look: Callable[[str, bytes], None]):
        super().__init__(store)
        self._look = look

    def _with_store(self, store: Store) -> "_Watched":
        return type(self)(store, self._look)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None:
            self._look(key, found.to_bytes())
        return found
