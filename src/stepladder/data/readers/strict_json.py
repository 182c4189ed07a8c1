"""JSON without surprises: no NaN, no key twice, no bottomless nesting, no text that cannot be written again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

DEEPEST = 64
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


class JsonFault(ValueError):
    """`args[0]` says what is wrong, as a sentence."""


def parse_json(text: str) -> Any:
    """The value that `text` holds.

    Raises:
        JsonFault: Not JSON, or JSON that other programs would read differently or not at all.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except JsonFault:
        raise
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise JsonFault(f"not JSON: {error.msg.lower()} ({where}).") from error
    except RecursionError as error:
        raise JsonFault(f"JSON nested deeper than {DEEPEST} levels.") from error
    except ValueError as error:  # Python refuses to read integers of more than some thousand digits
        raise JsonFault("a number is too long to be read.") from error
    for text_in_it in _texts(value):
        if found := _UNWRITABLE.search(text_in_it):
            what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
            raise JsonFault(f"{what} (\\u{ord(found.group()):04x}) stands in {text_in_it[:20]!a}.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonFault(f"{name} is not JSON.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonFault(f"the key '{twice}' stands twice in one object.")
    return found


def _texts(value: Any) -> Iterator[str]:
    """Keys and strings of `value`; walks level by level, so that depth is counted and never recursed into."""
    level = [value]
    depth = 0
    while level:
        depth += 1
        if depth > DEEPEST + 1:
            raise JsonFault(f"JSON nested deeper than {DEEPEST} levels.")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from item
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
