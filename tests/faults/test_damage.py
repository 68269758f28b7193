"""Files of a run that are missing, cut short, altered, or made by someone who means harm.

`make faults` runs this.
"""

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numcodecs.pickles
import pytest
import zarr
from faults.processes import ALLOW, TINY, same, slt

from slt import config, results, runs
from slt.typing import InputError

pytestmark = pytest.mark.faults


def harm(file: Path, how: str) -> None:
    """Do away with a file, with half of it, or with one bit of it."""
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(bytes(content))


HARM = pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])


@HARM
@pytest.mark.parametrize("what", ["data.zarr/*/delta/c/**/*", "checkpoints/*/*/*/**/*"])
def test_damaged_files(undisturbed: tuple[list[str], Path], tmp_path: Path, what: str, how: str) -> None:
    """A bad chunk is named by whatever reads it, and computed again on resume; a checkpoint matters while needed."""
    _, reference = undisturbed
    place = tmp_path / "run"
    shutil.copytree(reference, place)
    file = sorted(one for one in place.glob(what) if one.is_file() and one.stat().st_size > 8)[-1]
    harm(file, how)
    if what.startswith("data"):
        for command in ("show", "plot", "report"):
            code, err = slt(command, place)
            assert code == 2, err
            assert str(file.relative_to(place)) in err.replace("\n", "")
            assert f"slt resume {place}" in err.replace("\n", "")
    assert slt("resume", place, *ALLOW)[0] == 0
    same(place, reference)


@HARM
def test_damaged_pieces_of_a_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Of a measure that was stopped, a piece that is not what was committed is made again, and no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TINY.parent))
    Path("alone.yaml").write_text("measures: {squares: {_target_: tiny_measure.Squares, count: 4}}\n")
    Path("made.stop").touch()
    with pytest.raises(KeyboardInterrupt):
        runs.begin(config.compose("alone.yaml", ["measures.squares.stop_after=3"]), Path("run"))
    Path("made.stop").unlink()
    pieces = sorted(Path("run").glob("measures/squares/*.npz"))
    assert len(pieces) == 3
    harm(pieces[1], how)
    run = runs.resume(Path("run"), allow_import=["tiny_measure"])
    assert run.measures["squares"]["square"].values.tolist() == [0, 1, 4, 9]
    assert Path("made").read_text() == "0 1 2 1 3"
    assert results.load("run", verify=True).complete


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("how", ["version 2", "codec"])
def test_a_store_that_asks_for_pickle_is_refused(
    undisturbed: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """numcodecs' pickle runs what it reads; Zarr 2 knows it as a filter, and stores are read as Zarr 3 alone.

    Later versions of numcodecs decode it only where that is switched on, as it is here.
    """
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    place, made = tmp_path / "run", tmp_path / "made"
    shutil.copytree(undisturbed[1], place)
    lines = [json.loads(line) for line in (place / "manifest.jsonl").read_text().splitlines()]
    lines = [line | {"files": {}} if "files" in line else line for line in lines]  # a stranger's own journal
    (place / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store, evil = place / "data.zarr", place / "data.zarr" / "main" / "offset"
    if how == "version 2":
        for file in store.rglob("zarr.json"):
            file.unlink()
        for group in (store, store / "main"):
            (group / ".zgroup").write_text('{"zarr_format": 2}')
            (group / ".zattrs").write_text("{}")
        about = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "order": "C", "fill_value": ""}
        about |= {"compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}
        (evil / ".zarray").write_text(json.dumps(about))
        (evil / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["x"]}')
        (evil / "0").write_bytes(pickle.dumps(Attack(made)))
        with contextlib.suppress(Exception):
            zarr.open_array(evil, mode="r")[:]
        assert made.exists()  # the attack works on whoever reads Zarr 2
        made.rmdir()
    else:
        root = store / "zarr.json"
        text = json.loads(root.read_text())
        for entry in text["consolidated_metadata"]["metadata"].values():
            if entry["node_type"] == "array":
                entry["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}, *entry["codecs"]]
        root.write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"data\.zarr"):
        results.load(place).data["main"].to_dataset().load()
    code, err = slt("show", place)
    assert code == 2, err
    assert not made.exists()
