"""The notebooks, executed from their first to their last cell with a tiny model and a few pairs in place of the large ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from support.tiny import save_tiny_model, write_pairs

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> str:
    """The code cells of a notebook."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_compiles_and_holds_no_output(notebook: Path) -> None:
    compile(code_of(notebook), notebook.name, "exec")
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path / "model")
    small = {"MODEL": str(model), "TOKENIZER": str(model), "DATA": str(write_pairs(tmp_path / "pairs.jsonl", 40))}
    document = nbformat.read(notebook, as_version=4)
    first = next(cell for cell in document.cells if cell.cell_type == "code")
    first.source += "".join(f"\n{name} = {value!r}" for name, value in small.items()) + "\nPAIRS, STEPS = 40, 4"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    nbclient.NotebookClient(document, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in document.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "accuracy" in printed or "pairs" in printed
