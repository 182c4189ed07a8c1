"""The tour notebook: it runs from top to bottom, uses public names only, and is kept without output."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import stepladder

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOUR = DOCS / "tour.ipynb"


def load_tour() -> Any:
    return nbformat.read(TOUR, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_parameters(notebook: Any, **values: object) -> Any:
    """The notebook with a cell behind the one that says `parameters`, which sets some of them anew."""
    (place,) = [number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    return notebook


def printed(notebook: Any, cell_id: str) -> str:
    (cell,) = [cell for cell in notebook.cells if cell.get("id") == cell_id]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_the_tour_is_kept_without_output() -> None:
    notebook = load_tour()
    nbformat.validate(notebook)
    assert [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_what_is_run_is_chosen_in_the_parameters_alone() -> None:
    cells = code_cells(load_tour())
    (parameters,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    names = [node.targets[0].id for node in ast.parse(parameters).body if isinstance(node, ast.Assign)]
    assert names == ["MODEL", "BUDGET_MINUTES", "FOLDER"]
    rest = "\n".join(cell.source for cell in cells if cell.source != parameters)
    assert not re.search(rf"^({'|'.join(names)}) *=", rest, flags=re.MULTILINE)
    assert "fake" not in rest


def test_the_tour_uses_public_names_and_its_links_lead_somewhere() -> None:
    notebook = load_tour()
    names = re.findall(r"\bstepladder\.(\w+)", "\n".join(cell.source for cell in notebook.cells))
    assert len(names) > 6
    assert [name for name in names if name not in stepladder.__all__] == []
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    assert [target for target in targets if not (DOCS / target).is_file()] == []


def test_the_tour_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("NO_COLOR", "1")
    notebook = with_parameters(load_tour(), MODEL="fake", BUDGET_MINUTES=1)
    (place,) = [number for number, cell in enumerate(notebook.cells) if cell.get("id") == "copy"]
    notebook.cells.insert(place, nbformat.v4.new_code_cell(notebook.cells[place].source))  # a cell may be run again
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "tour" / "repairs" / "task.toml").read_text(encoding="utf-8").count("[model]") == 1
    (shown,) = [cell for cell in notebook.cells if cell.get("id") == "show-climb"]
    assert "<table" in shown.outputs[0].data["text/html"]
    assert "only gains of about" in printed(notebook, "run-plan")
    assert "200 rows" in printed(notebook, "run-check")
    assert "baseline: " in printed(notebook, "run-climb")
    assert re.search(r"lora +not applicable: ", printed(notebook, "show-rungs"))
    assert printed(notebook, "run-predict").count("→") == 2
    path, same = printed(notebook, "show-report").splitlines()
    assert (tmp_path / path).is_file()
    assert same == "True"
