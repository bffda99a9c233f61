"""examples/quickstart.ipynb runs from its first cell to its last, in a folder of its own."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_it_is_kept_without_outputs() -> None:
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    for cell in code:
        compile(cell.source, cell.id, "exec")


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    losses = {name: float(loss) for name, loss in re.findall(r"(\w+ \w+): loss (\d\.\d+), KL", text)}
    assert losses.keys() == {"text alone", "recorded teacher", "live teacher"}
    assert max(losses["recorded teacher"], losses["live teacher"]) < losses["text alone"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {"teacher", "student", "store", "blocks"} <= {path.name for path in (tmp_path / "quickstart").iterdir()}
