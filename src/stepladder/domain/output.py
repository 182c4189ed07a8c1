"""One JSON serialisation for references, demonstrations, training targets and the grammar: schema key order, fixed separators."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ITEM_SEPARATOR = ", "
KEY_SEPARATOR = ": "


def dump_json(value: Any, schema: Mapping[str, Any] | None = None) -> str:
    """`value` as JSON text in the project's one form: keys in the schema's order (unknown ones after, as they came)."""
    return json.dumps(order_keys(value, schema), ensure_ascii=False, separators=(ITEM_SEPARATOR, KEY_SEPARATOR))


def order_keys(value: Any, schema: Mapping[str, Any] | None) -> Any:
    """`value` with the keys of every object in the order of the schema's `properties`, through nested objects and arrays."""
    schema = schema if isinstance(schema, Mapping) else {}  # `true` is a schema too
    if isinstance(value, dict):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        known = [key for key in properties if key in value]
        rest = [key for key in value if key not in properties]
        return {key: order_keys(value[key], properties.get(key)) for key in [*known, *rest]}
    if isinstance(value, list):
        items = schema.get("items")
        return [order_keys(item, items if isinstance(items, dict) else None) for item in value]
    return value


def canonical_text(text: str, schema: Mapping[str, Any] | None) -> str:
    """`text` re-serialised when it is JSON and a schema is set; else stripped of outer white space."""
    if schema is None:
        return text.strip()
    try:
        return dump_json(json.loads(text), schema)
    except ValueError:
        return text.strip()
