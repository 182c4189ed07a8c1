"""The measurement of JSON Schema's own test suite: on a suite of three cases, and what the committed figures say."""

import io
import json
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import schema_suite
from stepladder.domain.errors import DataError
from stepladder.engines.transformers.grammar import GrammarCompiler
from stepladder.models.loading import load
from tiny_model import build_tiny_model

TWICE = {
    "description": "of both kinds",
    "schema": {"type": "integer", "maximum": 5},
    "tests": [
        {"data": 4, "valid": True},
        {"data": 5.0, "valid": True},
        {"data": 6, "valid": False},
        {"data": "4", "valid": False},
    ],
}
REFUSED = {"description": "of none", "schema": {"uniqueItems": True}, "tests": [{"data": [1, 1], "valid": False}]}
FILES = {"maximum.json": [TWICE], "uniqueItems.json": [REFUSED], "optional/bignum.json": [TWICE]}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "suite-1.tar.gz"
    with tarfile.open(path, "w:gz") as files:
        for name, cases in FILES.items():
            data = json.dumps(cases).encode()
            entry = tarfile.TarInfo(f"suite-1/json/tests/draft2020-12/{name}")
            entry.size = len(data)
            files.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return load(str(build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), device="cpu", dtype="float32").tokenizer


def test_values_are_counted_by_what_is_valid_and_what_can_be_written(archive, tokenizer):
    compiler = GrammarCompiler(tokenizer.backend.to_str(), 400, [2])
    maximum, unique = schema_suite.measure(archive, compiler, tokenizer.encode)
    assert maximum == {
        "keyword": "maximum", "schemas": 1, "refused": 0, "valid": 2, "valid_written": 1, "invalid": 2, "invalid_written": 0,
    }  # fmt: skip
    assert (unique["schemas"], unique["refused"], unique["invalid"]) == (1, 1, 0)


def test_the_table_names_what_is_always_refused(archive, tokenizer):
    compiler = GrammarCompiler(tokenizer.backend.to_str(), 400, [2])
    content = {
        "suite": "suite-1",
        "versions": {"llguidance": "1"},
        "keywords": schema_suite.measure(archive, compiler, tokenizer.encode),
    }
    table = schema_suite.schema_table(content)
    assert "| `maximum` | 1 of 1 | 1 of 2 | 0 of 2 |" in table
    assert "Always refused, by name: `uniqueItems`." in table


def test_another_file_is_refused_in_words(tmp_path):
    (tmp_path / "no.tar.gz").write_text("no archive")
    with pytest.raises(DataError, match="no source archive with the suite"):
        list(schema_suite.read_suite(tmp_path / "no.tar.gz"))
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match="holds no folder"):
        list(schema_suite.read_suite(tmp_path / "empty.tar.gz"))


def test_by_the_committed_figures_of_this_llguidance_nothing_invalid_was_written():
    content = json.loads(schema_suite.RESULT.read_text())
    entries = content["keywords"]
    assert content["versions"]["llguidance"] == version("llguidance"), "measure the suite again"
    assert sum(entry["invalid"] for entry in entries) > 200
    assert [entry["keyword"] for entry in entries if entry["invalid_written"]] == []
