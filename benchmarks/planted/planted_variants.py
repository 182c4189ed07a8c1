"""Variants of the clean sets that some faults need: without `[output]`, and with a date in every answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from random import Random

from planted_copy import Copy, plain

OPEN = ("tickets", "snips", "repairs", "clinc150")
DATED = ("tickets", "snips")


def add_variants(sets: Mapping[str, Copy]) -> dict[str, Copy]:
    """The sets, and their variants NAME-open and NAME-dated."""
    variants = {f"{name}-open": _without_output(sets, name) for name in OPEN if name in sets}
    dated = {f"{name}-dated": _with_dates(sets, name) for name in DATED if name in sets}
    return {**sets, **variants, **dated}


def _without_output(sets: Mapping[str, Copy], name: str) -> Copy:
    copy = plain(sets, name)
    copy.name = f"{name}-open"
    copy.toml = re.sub(r"\[output\]\n.*?(?=\n\[|\Z)", "", copy.toml, flags=re.DOTALL)
    return copy


def _with_dates(sets: Mapping[str, Copy], name: str) -> Copy:
    """Every JSON answer says when the message was received: 2024-03-17."""
    copy, chance = _without_output(sets, name), Random(name)
    copy.name = f"{name}-dated"
    for rows in copy.files.values():
        for row in rows:
            if isinstance(row, dict):
                date = f"2024-{chance.randrange(1, 13):02}-{chance.randrange(13, 29):02}"
                row["completion"] = json.dumps({**json.loads(row["completion"]), "received": date}, ensure_ascii=False)
    return copy
