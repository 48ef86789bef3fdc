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


def small_notebook(
    notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, data: Path, **settings: object
) -> nbformat.NotebookNode:
    """The notebook with a tiny model and these data, in place of its own settings."""
    model = save_tiny_model(folder / "model")
    small = {"MODEL": str(model), "TOKENIZER": str(model), "DATA": str(data), "PAIRS": 40, "STEPS": 4, **settings}
    document = nbformat.read(notebook, as_version=4)
    first = next(cell for cell in document.cells if cell.cell_type == "code")
    first.source += "".join(f"\n{name} = {value!r}" for name, value in small.items())
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return document


def execute(document: nbformat.NotebookNode, folder: Path) -> str:
    """What the cells print."""
    nbclient.NotebookClient(document, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = small_notebook(notebook, tmp_path, monkeypatch, write_pairs(tmp_path / "pairs.jsonl", 40))
    printed = execute(document, tmp_path)
    assert "accuracy" in printed or "pairs" in printed


@pytest.mark.slow
def test_a_notebook_shows_why_the_data_cannot_be_used_and_maps_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = next(path for path in NOTEBOOKS if path.stem == "look-at-your-data")
    data = tmp_path / "mine.jsonl"
    rows = [{"question": f"What is {at}?", "good": f"It is {at}.", "bad": "I do not know."} for at in range(40)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    document = small_notebook(notebook, tmp_path, monkeypatch, data)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="no row looks like preference data"):
        execute(document, tmp_path)
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert '"kept": 40' in execute(small_notebook(notebook, tmp_path, monkeypatch, data, COLUMNS=columns), tmp_path)
