"""OpenAI's own description of its API as an oracle: does an answer of ours have the shape it promises?"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

SPEC = Path(__file__).resolve().parents[1] / "fixtures" / "openai" / "openapi.trimmed.yaml"


@cache
def _components() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = _corrected(yaml.load(SPEC.read_text(encoding="utf-8"), Loader=loader))["components"]
    schemas = found["schemas"]
    # Where the text says less than the live service does, and every client lives with it.
    schemas["FineTuningJob"]["properties"]["status"]["enum"] += ["paused"]
    return found


def _corrected(node: Any) -> Any:
    """The idioms of OpenAPI 3.0 that stand in a document of 3.1: `nullable`, and limits that are exclusive by a boolean."""
    if isinstance(node, list):
        return [_corrected(item) for item in node]
    if not isinstance(node, dict):
        return node
    fixed = {key: _corrected(value) for key, value in node.items()}
    for kind in ("Minimum", "Maximum"):
        if isinstance(fixed.get(f"exclusive{kind}"), bool) and fixed.pop(f"exclusive{kind}"):
            fixed[f"exclusive{kind}"] = fixed.pop(kind.lower())
    return {"anyOf": [fixed, {"type": "null"}]} if fixed.pop("nullable", False) is True else fixed


@cache
def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": _components()})


def faults(name: str, value: Any) -> list[str]:
    """What is wrong with `value` as the schema `name`; empty when nothing is."""
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}"[:400] for error in _validator(name).iter_errors(value)]
