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


LOST = {
    "missing": None, "empty": "", "a list": "- 1\n", "no settings": "{}", "no YAML": "a: [", "no text": "\udcff",
}  # fmt: skip


@pytest.mark.parametrize("how", LOST)
def test_a_config_that_is_lost_is_restored(
    undisturbed: tuple[list[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Whoever reads names it; resume takes it from the manifest, word for word."""
    place, content = tmp_path / "run", LOST[how]
    shutil.copytree(undisturbed[1], place)
    file = place / "config.yaml"
    whole = file.read_bytes()
    file.unlink() if content is None else file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"config\.yaml.*slt resume"):
        results.load(place)
    runs.resume(place, allow_import=[str(TINY.parent)])
    assert "restored" in caplog.text
    assert file.read_bytes() == whole
    same(place, undisturbed[1])


@pytest.mark.parametrize(
    "old, new",
    [
        ("step_size: 0.01", "step_size: 0.02"),
        ("draws: 512", "draws: 256"),
        ("draws: 512", "draws: many"),
        ("chains: 2", "chains: 4"),
        ("seed: 0", "seed: 1"),
        ("seed: 0", "sead: 0"),
        ("chunk: ", "chunk: 1"),
    ],
)
def test_another_config_is_refused(undisturbed: tuple[list[str], Path], tmp_path: Path, old: str, new: str) -> None:
    """No run goes on by other settings than its draws were made with; what to do is told, and works."""
    place = tmp_path / "run"
    shutil.copytree(undisturbed[1], place)
    file = place / "config.yaml"
    whole = file.read_text()
    assert old in whole
    file.write_text(whole.replace(old, new, 1))
    before = (place / "manifest.jsonl").read_bytes()
    for way in (results.load, runs.resume, lambda place: runs.extend(place, ["schedule.draws=1024"])):
        with pytest.raises(InputError, match=r"config\.yaml.*start a new run.*delete this file.*slt resume"):
            way(place)
    assert (place / "manifest.jsonl").read_bytes() == before
    file.write_text(f"# a remark\n{whole}")
    assert results.load(place).complete


def test_an_extension_that_was_killed_after_its_first_step(undisturbed: tuple[list[str], Path], tmp_path: Path) -> None:
    """The config asks for more draws than the manifest knows of: it is shown, and resume makes them."""
    place = tmp_path / "run"
    shutil.copytree(undisturbed[1], place)
    longer = config.extended(config.load(place, [str(TINY.parent)]), ["schedule.draws=520"])
    longer.schedule.chunk = results.chunk_lengths(place)["main"]
    config.save(longer, place)
    assert results.load(place).data["main"].attrs["draws"] == 512
    run = runs.resume(place, allow_import=[str(TINY.parent)])
    assert run.data["main"].attrs["draws"] == 520
    assert run.data.attrs["digest"] == results.recorded(place)["digest"] == config.digest(longer)


@pytest.mark.parametrize("name", ["manifest.jsonl", "summary.json", "data.zarr/zarr.json", "data.zarr/main/zarr.json"])
def test_flipped_records(undisturbed: tuple[list[str], Path], tmp_path: Path, name: str) -> None:
    """What a run says of itself is told to be damaged, and written anew."""
    place = tmp_path / "run"
    shutil.copytree(undisturbed[1], place)
    harm(place / name, "flipped")
    with pytest.raises(InputError, match=rf"{name}.*slt resume"):
        results.load(place, verify=True)
    runs.resume(place, allow_import=[str(TINY.parent)])
    same(place, undisturbed[1])


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
    lines = [{key: value for key, value in line.items() if key != "crc"} for line in lines]
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
        text["attributes"].pop("checksum")
        root.write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"data\.zarr"):
        results.load(place).data["main"].to_dataset().load()
    code, err = slt("show", place)
    assert code == 2, err
    assert not made.exists()
