"""Grammars as token masks, by llguidance: JSON Schema in the project's serialisation, label lists, regular expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stepladder.domain.errors import EngineError, MissingExtra, NotOffered
from stepladder.domain.output import ITEM_SEPARATOR, KEY_SEPARATOR
from stepladder.domain.protocols import Grammar

JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ITEM_SEPARATOR,
    "key_separator": KEY_SEPARATOR,
    # What json.dumps escapes with ensure_ascii=False; an escaped slash or letter would be a second spelling of one text.
    "json_allowed_escapes": '"\\bfnrt',
}

UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that llguidance has no way to write but as \\uXXXX."""


KEPT_GRAMMARS = 64
"""Compiled grammars at hand; one takes milliseconds to compile, and up to megabytes to keep."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer; the last ones stay compiled.

    Args:
        tokenizer_json: The text of `tokenizer.json`.
        vocabulary: Width of the model's logits, which may exceed the tokenizer's vocabulary.
        stop_ids: Tokens that end a turn.
    Raises:
        MissingExtra: llguidance is not installed.
    """

    def __init__(self, tokenizer_json: str, vocabulary: int, stop_ids: Sequence[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise MissingExtra("constrained", "llguidance, which holds answers to a grammar,") from error
        self._llguidance = llguidance
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=list(stop_ids))
        self._compiled: dict[Grammar, Any] = {}

    def start(self, grammar: Grammar) -> RowGrammar:
        """A fresh follower of `grammar` for one row.

        Raises:
            NotOffered: The grammar is broken, or asks for something llguidance cannot hold an answer to.
        """
        compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
        self._compiled[grammar] = compiled  # the last one asked for stands last
        if len(self._compiled) > KEPT_GRAMMARS:
            del self._compiled[next(iter(self._compiled))]
        return RowGrammar(compiled.deep_copy(), self._vocabulary)

    def _compile(self, grammar: Grammar) -> Any:
        try:
            matcher = self._llguidance.LLMatcher(self._tokenizer, self._source(grammar))
            reason = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:  # of llguidance, and of JSON that is none
            reason = str(error)
        if reason:
            raise NotOffered(
                f"Answers cannot be held to this {_KINDS[grammar.kind]}: {' '.join(reason.split())}",
                "Simplify it, or skip the constrained rungs.",
            )
        return matcher

    def _source(self, grammar: Grammar) -> str:
        matcher = self._llguidance.LLMatcher
        if grammar.kind == "labels":
            alternatives = " | ".join(json.dumps(label, ensure_ascii=False) for label in json.loads(grammar.text))
            return str(matcher.grammar_from_lark(f"start: {alternatives}"))
        if grammar.kind == "regex":
            return str(matcher.grammar_from_regex(grammar.text))
        schema = json.loads(grammar.text)
        if any(map(UNWRITABLE.search, fixed_texts(schema))):
            raise ValueError("`const` or `enum` holds a control character, which no answer is written with.")
        return str(matcher.grammar_from_json_schema(json.dumps({} if schema is True else schema), overrides=JSON_OPTIONS))


def fixed_texts(schema: Any, *, fixed: bool = False) -> Iterator[str]:
    """Every text inside the values of `const` and `enum`: llguidance leaves out of them what has no short escape."""
    if isinstance(schema, str) and fixed:
        yield schema
    elif isinstance(schema, list):
        for item in schema:
            yield from fixed_texts(item, fixed=fixed)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            yield from fixed_texts(value, fixed=fixed or key in ("const", "enum"))


_KINDS = {"labels": "list of labels", "regex": "regular expression", "json_schema": "JSON Schema"}


class RowGrammar:
    """Where one row stands in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def complete(self) -> bool:
        """Whether nothing but the end of the turn may follow."""
        return bool(self._matcher.is_stopped())

    def writes(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, and then the end of the turn, make an answer. Goes along with them as far as it can."""
        return bool(self._matcher.try_consume_tokens(list(tokens)) == len(tokens) and self._matcher.is_accepting())

    def allowed(self) -> torch.Tensor:
        """Tokens that may come next, bool (vocabulary,); the end-of-turn only where the grammar may end."""
        allowed = allowed_tokens([self], self._vocabulary)
        assert allowed is not None
        return allowed[0]

    def fill(self, bits: NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next, in place."""
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.size * bits.itemsize)

    def take(self, token: int) -> None:
        """Move past a chosen token.

        Raises:
            EngineError: The grammar forbids the token: the mask was not obeyed, or a limit of llguidance was hit.
        """
        if not self._matcher.consume_token(token):
            raise EngineError(
                f"The grammar could not follow the answer: {' '.join(self._matcher.get_error().split())}",
                "Simplify the grammar, or skip the constrained rungs.",
            )


def allowed_tokens(rows: Sequence[RowGrammar | None], vocabulary: int) -> torch.Tensor | None:
    """Tokens that may come next in each row, bool (rows, vocabulary), all where it has no grammar; None where no row has one."""
    if all(row is None for row in rows):
        return None
    bits = np.full((len(rows), -(-vocabulary // 32)), -1, dtype=np.int32)
    for row, own in zip(rows, bits, strict=True):
        if row is not None:
            row.fill(own)
    return torch.from_numpy(np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=vocabulary).view(bool))


class MasksAhead:
    """Computes which tokens may come next while the model computes which it would like: llguidance needs no Python meanwhile."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[torch.Tensor | None] | None = None

    def __enter__(self) -> MasksAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def begin(self, rows: Sequence[RowGrammar | None]) -> None:
        """Start with the masks of these rows, whose grammars must be left alone until `allowed` has been asked."""
        self._pending = None
        if any(row is not None for row in rows):
            self._thread = self._thread or ThreadPoolExecutor(max_workers=1)
            self._pending = self._thread.submit(allowed_tokens, list(rows), self._vocabulary)

    def allowed(self) -> torch.Tensor | None:
        """As `allowed_tokens` of the rows begun with."""
        return None if self._pending is None else self._pending.result()
