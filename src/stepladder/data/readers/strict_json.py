"""JSON without surprises: no NaN, no key twice, no bottomless nesting, no text that cannot be written again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

DEEPEST = 64
T = TypeVar("T")
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


class JsonFault(ValueError):
    """`args[0]` says what is wrong, as a sentence. `syntax`: it is no JSON at all, and not JSON that is refused."""

    syntax = False


def parse_json(text: str) -> Any:
    """The value that `text` holds.

    Raises:
        JsonFault: Not JSON, or JSON that other programs would read differently or not at all.
    """
    value = _strictly(lambda: json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys))
    check_texts(value)
    return value


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends; what follows is not looked at."""
    value, end = _strictly(lambda: _DECODER.raw_decode(text, start))
    check_texts(value)
    return value, end


def check_texts(value: Any) -> None:
    """Raises JsonFault for a text, or a key, that cannot be written again, and for bottomless nesting."""
    for text in _texts(value):
        if found := _UNWRITABLE.search(text):
            what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
            raise JsonFault(f"{what} (\\u{ord(found.group()):04x}) stands in {text[:20]!a}.")


def _strictly(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except JsonFault:
        raise
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        fault = JsonFault(f"not JSON: {error.msg.lower()} ({where}).")
        fault.syntax = True
        raise fault from error
    except RecursionError as error:
        raise JsonFault(f"JSON nested deeper than {DEEPEST} levels.") from error
    except ValueError as error:  # Python refuses to read integers of more than some thousand digits
        raise JsonFault("a number is too long to be read.") from error


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


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
