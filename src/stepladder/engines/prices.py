"""What hosted models are known to charge: a dated table that ships with the package. Nothing is fetched."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from stepladder.engines.address import ANTHROPIC_URL, OPENAI_URL, parse_model
from stepladder.engines.purse import Prices

_DATED = re.compile(r"(.+?)-(\d{8}|\d{4}-\d{2}-\d{2}|latest)")
_LISTED_AT = {"openai": OPENAI_URL, "anthropic": ANTHROPIC_URL}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model's prices, when they were looked up, and where."""

    prices: Prices
    date: date
    source: str


def listed_prices(name: str) -> Listed | None:
    """The prices of `openai:NAME` or `anthropic:NAME`; None for a model or a server that is not in the table."""
    address = parse_model(name)
    if address is None or not address.provider or address.url != _LISTED_AT[address.provider]:
        return None
    table = _table()
    models: dict[str, list[float]] = table[address.provider]
    undated = _DATED.fullmatch(address.model)
    found = models.get(address.model) or (models.get(undated[1]) if undated else None)
    if found is None:
        return None
    prompt, completion, *longer = found
    beyond = (int(longer[0]), Prices(longer[1], longer[2])) if longer else None
    return Listed(Prices(prompt, completion, beyond), table["date"], table["source"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("stepladder.engines").joinpath("prices.toml").read_text(encoding="utf-8"))
