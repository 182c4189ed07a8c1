"""Drafts may be references: nothing that a technique is given or may import takes one, and only a learning curve has any."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import stepladder
import stepladder.techniques
from stepladder.domain.protocols import Drafting, Engine, FitContext
from stepladder.engines import wrappers
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.fake import FakeEngine

MODULES = sorted(Path(next(iter(stepladder.techniques.__path__))).glob("*.py"))
OFFERS_DRAFTS = {"Drafting", "Drafted", "generate_drafted"}


def names_in(source: str) -> set[str]:
    """Every name, attribute, imported name and text of a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_technique_names_what_takes_drafts(module: Path) -> None:
    assert not names_in(module.read_text(encoding="utf-8")) & OFFERS_DRAFTS


def test_the_learning_curve_alone_hands_drafts_in() -> None:
    package = Path(next(iter(stepladder.__path__)))
    named = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if names_in(path.read_text(encoding="utf-8")) & {"Drafted", "generate_drafted"}
    }
    assert {name for name in named if not name.startswith("engines/")} == {"service/curve.py"}


def test_the_search_would_find_it() -> None:
    for line in ("from x import Drafting", "engine.generate_drafted([])", "getattr(engine, 'generate_drafted')"):
        assert names_in(line) & OFFERS_DRAFTS


def test_the_engine_of_a_technique_has_no_place_for_a_draft() -> None:
    assert inspect.get_annotations(FitContext)["engine"] == "Engine"
    assert not any("draft" in name for name in [*dir(Engine), *inspect.signature(Engine.generate).parameters])


def test_the_engines_that_a_climb_hands_out_take_no_drafts(tmp_path: Path) -> None:
    recorded = RecordedEngine(FakeEngine(), tmp_path / "answers.jsonl")
    handed = [recorded, wrappers.OneByOne(recorded), wrappers.FirstTokens(recorded), wrappers.Drafted(recorded, {})]
    assert not any(isinstance(engine, Drafting) for engine in handed)
