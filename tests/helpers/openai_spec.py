"""OpenAI's own description of its API as an oracle: does an answer of ours have the shape it promises?"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

SPEC = Path(__file__).resolve().parents[1] / "fixtures" / "openai" / "openapi.trimmed.yaml"


@cache
def _document() -> dict[str, Any]:
    """The whole description, corrected."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = _corrected(yaml.load(SPEC.read_text(encoding="utf-8"), Loader=loader))
    # Where the text says less than the live service does, and every client lives with it.
    found["components"]["schemas"]["FineTuningJob"]["properties"]["status"]["enum"] += ["paused"]
    return found


def _components() -> dict[str, Any]:
    found: dict[str, Any] = _document()["components"]
    return found


def write_document(path: Path, *, without: tuple[str, ...] = ()) -> int:
    """Write the corrected description as JSON for other programs; the number of its operations.

    `without`: ids of operations to leave out. A refusal is declared for each that is left.
    """
    document = json.loads(json.dumps(_document()))
    count = 0
    for operations in document["paths"].values():
        for method in [name for name, one in operations.items() if isinstance(one, dict) and one.get("operationId") in without]:
            del operations[method]
        for operation in operations.values():
            if isinstance(operation, dict) and "responses" in operation:
                count += 1
                refusal = {"$ref": "#/components/schemas/ErrorResponse"}
                operation["responses"]["default"] = {"description": "", "content": {"application/json": {"schema": refusal}}}
    path.write_text(json.dumps(document), encoding="utf-8")
    return count


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
    return _told(_validator(name), value)


def reply_faults(method: str, path: str, body: Any) -> tuple[str, list[str]]:
    """The operation behind a request (`path` without `/v1`), and what is wrong with its good reply's body.

    Raises:
        KeyError: There is no such operation, or its reply is no JSON.
    """
    fitting = [template for template in _document()["paths"] if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path)]
    template = min(fitting, key=lambda one: one.count("{"), default=None)  # `/files/content` before `/files/{id}`
    if template is None:
        raise KeyError(path)
    operation = _document()["paths"][template][method.lower()]
    return operation["operationId"], _told(_of_operation(template, method.lower()), body)


@cache
def _of_operation(template: str, method: str) -> jsonschema_rs.Draft202012Validator:
    """What judges the good replies of an operation."""
    schema = _document()["paths"][template][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": _components()})


def _told(validator: jsonschema_rs.Draft202012Validator, value: Any) -> list[str]:
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}"[:400] for error in validator.iter_errors(value)]
