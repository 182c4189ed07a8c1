"""When OpenAI's fine-tuning ends, and the models it was done on: a dated table that ships with the package, never fetched."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files

_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{4})$")


@dataclass(frozen=True, slots=True)
class ClosingDates:
    """Days of the service itself, and of the models that were tuned there, by undated name."""

    looked_up: date
    source: str
    last_new_jobs: date
    evals_off: date
    models: dict[str, date]

    def of(self, model: str) -> date | None:
        """When a model stops answering; a fine-tune (`ft:BASE:…`) goes with its base. None where no date is known."""
        base = base_of(model)
        return self.models.get(base) or self.models.get(_DATED.sub("", base))


def base_of(model: str) -> str:
    """The base in a fine-tune's name; any other name is its own."""
    return model.split(":")[1] if model.startswith("ft:") and ":" in model[3:] else model.removeprefix("ft:")


def says_when(day: date, today: date, *, past: str, future: str) -> str:
    """A closing day in words: `past` or `future`, the day, and how far off it is."""
    days = (day - today).days
    if days < 0:
        return f"{past} {day} ({_days(-days)} ago)"
    return f"{future} {day} ({'today' if days == 0 else f'in {_days(days)}'})"


def no_new_jobs(today: date) -> str | None:
    """Why OpenAI itself takes no fine-tuning jobs any more, in a sentence; None while it does."""
    last = closing_dates().last_new_jobs
    if today <= last:
        return None
    return f"OpenAI takes no new fine-tuning jobs since {last}; name a compatible endpoint (`URL NAME`)."


@cache
def closing_dates() -> ClosingDates:
    """The table."""
    table = tomllib.loads(files("stepladder.engines").joinpath("closing.toml").read_text(encoding="utf-8"))
    service = table["service"]
    return ClosingDates(table["date"], table["source"], service["last_new_jobs"], service["evals_off"], table["models"])


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"
