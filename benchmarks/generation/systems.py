"""Who is measured. Needs nothing but Python."""

from __future__ import annotations

RUNGS = ("zero-shot", "few-shot k=8", "nearest k=4", "tuned")
TUNED = "tuned"
OURS, ONE_BY_ONE, BATCHED = "stepladder", "generate(), one by one", "generate(), batches of 16"
PADDED_ROWS = 16
ONE_STRING, NESTED = "one long string", "forty nested records"
SCHEMAS = (ONE_STRING, NESTED)
"""Grammars whose cost is measured."""
SETTINGS = {
    OURS: "all rows in one call; shared beginning computed once, rows leave and enter",
    ONE_BY_ONE: "transformers, dynamic cache",
    BATCHED: "transformers, dynamic cache, rows in their order padded on the left",
}
SYSTEMS = tuple(SETTINGS)
MUST_REACH = {
    "few-shot k=8": {ONE_BY_ONE: 10.0, BATCHED: 3.0},
    "tuned": {ONE_BY_ONE: 5.0, BATCHED: 2.0},
    "zero-shot": {ONE_BY_ONE: 4.0, BATCHED: 1.3},
}
"""How many times faster we want to be at least."""
