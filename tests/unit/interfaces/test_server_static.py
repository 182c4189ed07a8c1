"""What must not stand in the source at all."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import stepladder
from stepladder.interfaces import server

SOURCE = Path(stepladder.__file__).parent
PICKLES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
FETCHERS = {"urllib", "http", "httpx", "httpx2", "requests", "aiohttp", "openai", "socket", "ftplib"}
ELSEWHERE = re.compile(r"url|path|repo|folder|directory|uri|remote|template", re.IGNORECASE)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def calls(file: Path) -> Iterator[str]:
    """Called names in full, with `!` behind those whose keyword `weights_only` or `trust_remote_code` opens a door."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            open_door = any(
                (word.arg == "trust_remote_code" and getattr(word.value, "value", None) is not False)
                or (word.arg == "weights_only" and getattr(word.value, "value", None) is not True)
                for word in node.keywords
            )
            yield ast.unparse(node.func) + ("!" if open_door else "")


def test_nothing_is_ever_unpickled_and_no_code_of_a_model_is_run() -> None:
    for file in SOURCE.rglob("*.py"):
        assert not {name.partition(".")[0] for name in imports(file)} & PICKLES, file
        called = set(calls(file))
        assert not {"torch.load", "eval", "exec", "np.load", "numpy.load", "yaml.load"} & called, file
        assert not any(name.endswith("!") for name in called), file


def test_the_server_fetches_no_address() -> None:
    for file in (*(SOURCE / "interfaces" / "server").rglob("*.py"), *(SOURCE / "service" / "serving").rglob("*.py")):
        allowed = {"socket"} if file.name == "serve.py" else set()  # the one it listens on
        assert not {name.partition(".")[0] for name in imports(file)} & (FETCHERS - allowed), file


def test_no_word_goes_through_a_shell() -> None:
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                said = ast.unparse(node)
                assert not said.startswith(("os.popen(", "subprocess.getoutput(")), file
                assert not said.startswith("os.system(") or said == "os.system('')", file  # which only wakes a console
                assert "shell" not in {word.arg for word in node.keywords}, file


def shapes() -> Iterator[type[BaseModel]]:
    for module in pkgutil.iter_modules(server.__path__):
        found = importlib.import_module(f"{server.__name__}.{module.name}")
        for _, kind in inspect.getmembers(found, inspect.isclass):
            if issubclass(kind, BaseModel) and kind.__module__ == found.__name__:
                yield kind


def test_no_request_can_name_a_path_an_address_or_a_template() -> None:
    kinds = list(shapes())
    assert len(kinds) > 15
    for kind in kinds:
        for name in kind.model_fields:
            assert not ELSEWHERE.search(name), (kind, name)


def test_every_request_refuses_keys_it_does_not_know() -> None:
    for kind in shapes():
        assert kind.model_config.get("extra") == "forbid", kind


@pytest.mark.parametrize("file", sorted((SOURCE / "storage").glob("*.py")), ids=lambda file: file.name)
def test_no_value_is_written_into_sql(file: Path) -> None:
    """Only names of columns, orders and the like may be put together; they come from constants of the same file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.JoinedStr) and re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b", ast.unparse(node))):
            continue
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                text = ast.unparse(part.value)
                assert re.fullmatch(r"[A-Z_]+|number|order|beyond|names?|wanted|bare|_FREE|', '\.join\(.*\)", text), (
                    node.lineno,
                    text,
                )
