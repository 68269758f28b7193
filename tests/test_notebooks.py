"""Every notebook runs from top to bottom, is committed without outputs, and agrees with its text form."""

import json
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
import numpy as np
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# Appended to the quickstart: what its last figure shows, for this test to judge.
FOUND = "import json; print(json.dumps([list(mass.value), list(mass.stderr), list(true)]))"


def execute(notebook: Any, cwd: Path) -> Any:
    """Run a notebook in place by this very Python, whatever kernels are or are not installed on the machine."""
    # With no folders to search, "python3" is the kernel of the ipykernel that this Python imports.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = nbclient.NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(cwd)}})
    return client.execute(cleanup_kc=True)  # a manager that is handed over would be left running


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(autouse=True)
def _nothing_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels keep a history and connection files; let them lie in the test's folder."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # figures as in a browser


def test_every_notebook_has_a_text_form_and_the_other_way_round() -> None:
    assert NOTEBOOKS
    assert {path.stem for path in NOTEBOOKS} == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize(
    "path",
    [pytest.param(one, id=one.stem, marks=[] if one.stem == "quickstart" else pytest.mark.slow) for one in NOTEBOOKS],
)
def test_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    if path.stem == "quickstart":
        notebook.cells.append(nbformat.v4.new_code_cell(FOUND))
    execute(notebook, tmp_path)
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    said = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert said == [], "a reader would wonder about these warnings"
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows a figure"
    assert {found.name for found in tmp_path.iterdir()} <= {"ipython", "jupyter"}, "it leaves files behind"
    if path.stem == "quickstart":
        value, stderr, exact = np.array(json.loads(outputs[-1].text))
        assert (np.abs(value - exact) < 4 * stderr).all()
        assert (stderr < 0.05).all()


@each_notebook
def test_agrees_with_its_text_form(path: Path) -> None:
    notebook, text = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
    cure = f"after editing either: jupytext --sync notebooks/{path.name}"
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ], cure
    for one in (notebook, text):
        assert one.metadata.jupytext.formats == "ipynb,py:percent"
        assert one.metadata.kernelspec == {"name": "python3", "language": "python", "display_name": "Python 3"}


@each_notebook
def test_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cure = f"jupytext --to ipynb notebooks/{path.stem}.py writes it anew, without outputs"
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code(notebook)), cure
    assert set(notebook.metadata) == {"jupytext", "kernelspec"}, cure
