"""The notebook is committed without output and runs from top to bottom."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import ROOT

PATH = ROOT / "notebooks" / "explore.ipynb"


def test_it_is_committed_without_output() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 6
    assert len(notebook.cells) <= 24
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


# The kernel's own event loop and sockets are closed by it, not by us.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_runs_and_shows_its_figures() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": PATH.parent}})
    client.execute()
    shown = [
        kind
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    ]
    assert shown.count("image/png") >= 3
    assert "application/vnd.plotly.v1+json" in shown or "text/html" in shown
