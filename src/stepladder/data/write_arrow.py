"""Rows into a Parquet file, or into a folder as Hugging Face `datasets` saves it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stepladder import files

BROKEN = (pa.ArrowException,)
DATA_NAME = "data-00000-of-00001.arrow"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Tools go in as JSON text: columns would fill the keys that a tool lacks with nulls."""
    table = _table([_with_tools_as_text(row) for row in rows])
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    path.mkdir()
    with pa.OSFile(str(path / DATA_NAME), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    state: dict[str, Any] = {
        "_data_files": [{"filename": DATA_NAME}],
        "_fingerprint": files.hash_file(path / DATA_NAME)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    files.write_text(path / "state.json", json.dumps(state, indent=2))
    files.write_text(path / "dataset_info.json", "{}")


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _with_tools_as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    if isinstance(found.get("input"), Mapping):
        found["input"] = _with_tools_as_text(found["input"])
    if isinstance(found.get("tools"), list):
        found["tools"] = json.dumps(found["tools"], ensure_ascii=False)
    return found
