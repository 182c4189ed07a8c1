"""What is learned of a row, to look at before the first step, and the faults that can be seen there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from statistics import median

from rich.text import Text

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.rows import EncodedRow

OPEN, CLOSE = "⟦", "⟧"
LONGEST_SPAN_SHOWN = 400  # characters of what is not learned; what is learned is always shown whole

Decode = Callable[[Sequence[int]], str]


def masked_examples(rows: Sequence[EncodedRow], decode: Decode, *, count: int = 3) -> list[str]:
    """The first `count` rows as text, what is learned between ⟦ and ⟧; long prompts are shortened, saying by how much."""
    return [_marked(row, decode) for row in rows[:count]]


def colour(marked: str) -> Text:
    """A marked example for a terminal: what is learned in bold green, the rest dim."""
    text, learned = Text(), False
    for character in marked:
        learned = learned or character == OPEN
        text.append(character, style="bold green" if learned else "dim")
        learned = learned and character != CLOSE
    return text


def learned_shares(rows: Sequence[EncodedRow]) -> tuple[float, float]:
    """Smallest and median share of a row's tokens that are learned, from 0 to 1."""
    shares = [len(row.labelled) / len(row) for row in rows]
    return min(shares), median(shares)


def check_rows(rows: Sequence[EncodedRow], *, what: str, max_tokens: int, stop_ids: Collection[int] = ()) -> None:
    """Whether every row can be learned from as it is; nothing is ever cut or left out.

    Raises:
        ModelError: A row is too long, has nothing to learn, or does not end an answer with one stop token; or every token
            but the first of all rows is learned, so that the prompts would be too. The row is named.
    """
    for row in rows:
        if max_tokens and len(row) > max_tokens:
            raise ModelError(
                f"{what} row {row.id} has {len(row):,} tokens, more than {max_tokens:,}.",
                "Rows are never cut: shorten it, drop it, or raise [rungs.lora] max_tokens up to the model's context.",
            )
        if not row.labelled:
            raise ModelError(
                f"{what} row {row.id} has nothing to learn: no assistant turn of weight 1.",
                "Give one of its assistant turns weight 1, or drop the row.",
            )
        if stop_ids:
            _check_ends(row, what, stop_ids)
    if rows and all(len(row.labelled) == len(row) - 1 for row in rows):
        raise ModelError(
            f"every token of all {len(rows)} {what} rows would be learned, the prompts included.",
            "The chat template does not tell the prompt from the answer; use one that opens the assistant's turn.",
        )


def _check_ends(row: EncodedRow, what: str, stop_ids: Collection[int]) -> None:
    """Whether every learned answer ends with one stop token, itself learned."""
    for place in row.labelled:
        stops = row.token_ids[place] in stop_ids
        goes_on = place + 1 < len(row) and row.weights[place + 1] > 0
        if not stops and not goes_on:
            raise ModelError(
                f"{what} row {row.id} never learns to stop: no end-of-turn token is learned where an answer ends.",
                "The chat template does not end assistant turns with a token the model stops at; use one that does.",
            )
        if stops and goes_on and row.token_ids[place + 1] in stop_ids:
            raise ModelError(
                f"{what} row {row.id} learns two end-of-turn tokens in a row.",
                "Remove the end-of-turn token from the data, or the second one from the chat template.",
            )


def _marked(row: EncodedRow, decode: Decode) -> str:
    pieces = []
    for learned, places in groupby(range(len(row)), key=lambda place: row.weights[place] > 0):
        text = decode([row.token_ids[place] for place in places])
        pieces.append(f"{OPEN}{text}{CLOSE}" if learned else _shortened(text))
    return "".join(pieces)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_SPAN_SHOWN:
        return text
    half = LONGEST_SPAN_SHOWN // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
