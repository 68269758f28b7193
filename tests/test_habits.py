"""Cheap guards over the whole tree: what no other tool checks and what is easily let in by mistake."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import slt

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for folder in ("slt", "experiments") for path in (ROOT / folder).rglob("*.py"))

# Spelled in pieces, so that this file does not contain what it looks for.
REGISTRIES = [
    "py" + "pi.org",
    "files.python" + "hosted",
    "npm" + "js.org",
    "debian" + ".org",
    "conda" + ".anaconda",
    "hugging" + "face.co",
    "storage.google" + "apis",
    "download.py" + "torch",
    "raw.github" + "usercontent",
]
MACHINE_PATHS = re.compile("(?<![A-Za-z0-9_.~}-])/" + r"(?:work|home|root|Users)/[A-Za-z0-9_.]")
LOCK_FILES = re.compile(r"(^|/)(.*\.lock|.*-lock\.(json|ya?ml)|conda-lock.*|pylock.*\.toml|requirements.*\.txt)$")


@pytest.fixture(scope="module")
def committed() -> list[Path]:
    """The files that git tracks, as they are in the work tree."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_modules_are_short() -> None:
    # The design's figure is about 350; 400 is where a file is split.
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_no_drawer_of_odds_and_ends() -> None:
    assert [path for path in MODULES if path.stem in {"util", "utils", "helpers", "misc", "common"}] == []


def test_slt_never_imports_experiments() -> None:
    # import-linter sees `import experiments`; under the name of the installed package only this test does.
    found = []
    for path in (ROOT / "slt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            found += [(path.name, name) for name in names if re.match(r"(slt\.)?(experiments|configs)\b", name)]
    assert found == []


def test_no_registry_or_download_host(committed: list[Path]) -> None:
    found = [
        (str(path.relative_to(ROOT)), host)
        for path in committed
        for host in REGISTRIES
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_no_path_of_one_machine(committed: list[Path]) -> None:
    texts = [path for path in committed if path.suffix not in {".png", ".pdf", ".npz"}]
    found = [
        (str(path.relative_to(ROOT)), match.group())
        for path in texts
        for match in MACHINE_PATHS.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_lock_files(committed: list[Path]) -> None:
    names = [path.relative_to(ROOT).as_posix() for path in committed]
    assert [name for name in names if LOCK_FILES.search(name)] == []


def test_public_names_resolve() -> None:
    assert set(slt._HOME) | {"__version__"} == set(slt.__all__)
    for name in slt.__all__:
        assert getattr(slt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        slt.no_such_name  # noqa: B018


def test_citation_has_the_version() -> None:
    assert f"\nversion: {slt.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_import_is_light() -> None:
    # `slt --help` and shell completion should not wait for JAX.
    code = "import sys, slt; print(sorted({'jax', 'xarray', 'matplotlib', 'hydra'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
