"""The notebooks are committed without output and run from top to bottom."""

from collections import Counter

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "circuit.ipynb": {"image/png": 2, "text/html": 5},
    "compare.ipynb": {"image/png": 3, "text/html": 2},
    "explain.ipynb": {"image/png": 2, "text/html": 1},
    "your_model.ipynb": {"image/png": 1, "text/html": 3},
}
"""How many figures and tables a reader sees, at least."""


def test_there_is_one_for_each_thing_that_a_reader_wants() -> None:
    assert [path.name for path in NOTEBOOKS] == list(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_short_and_committed_without_output(path: object) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 20
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


# The kernel's own event loop and sockets are closed by it, not by us.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run_and_show_what_they_talk_of(path: object) -> None:
    notebook = nbformat.read(path, as_version=4)
    folder = ROOT / "notebooks"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    shown = Counter(kind for output in outputs for kind in output.get("data", {}))
    assert shown >= Counter(SHOWN[path.name])  # type: ignore[attr-defined]
