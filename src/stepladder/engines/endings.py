"""Why an answer ended, in a protocol's words; and whether what came is an answer at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepladder.engines.failures import CallFailure
from stepladder.engines.usage import is_count

UNSPOKEN = "answers were cut before their first word; `[model] thinking_tokens` gives a model that thinks room for it"


@dataclass(frozen=True, slots=True)
class Endings:
    """The words one protocol has for it, servers' dialects included.

    Attributes:
        field: Where a reply says it.
        stopped, called: The model ended its turn, in a text or in calls of tools.
        cut: The limit or the context ended it.
        withheld: The provider keeps the answer back.
        silent_tokens: The most tokens that an answer without a word is counted as.
    """

    field: str
    stopped: frozenset[str]
    called: frozenset[str]
    cut: frozenset[str]
    withheld: frozenset[str]
    silent_tokens: int

    def was_cut(self, reason: Any, text: str, tokens: Any) -> bool:
        """Whether the answer is a cut one.

        Args:
            text: What was said, calls included.
            tokens: How many were written, as the server counts them; None where not even an empty text was sent.
        Raises:
            CallFailure: It is no answer: kept back, ended in a way nobody knows, or without a word although more was written.
        """
        known = reason.lower() if isinstance(reason, str) else ""
        if known in self.withheld:
            raise CallFailure("withheld", f"{self.field} {reason}")
        if known in self.cut:
            return True
        if known not in self.stopped | self.called and not (reason is None and text):
            raise CallFailure("shape", f"its {self.field} is {reason!r}")
        silent = known in self.stopped and is_count(tokens) and 0 <= tokens <= self.silent_tokens
        if not text and not silent:
            written = f", though {tokens:,} tokens were written" if is_count(tokens) else ""
            raise CallFailure("empty", f"neither a text nor a call{written}")
        return False


CHAT_ENDINGS = Endings(
    field="finish_reason",
    stopped=frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn"}),
    called=frozenset({"tool_calls", "function_call", "tool_use"}),
    cut=frozenset({"length", "max_tokens", "model_length", "model_context_window_exceeded"}),
    withheld=frozenset({"content_filter", "error"}),
    silent_tokens=1,
)
MESSAGES_ENDINGS = Endings(
    field="stop_reason",
    stopped=frozenset({"end_turn", "stop_sequence"}),
    called=frozenset({"tool_use"}),
    cut=frozenset({"max_tokens", "model_context_window_exceeded"}),
    withheld=frozenset({"refusal", "pause_turn"}),
    silent_tokens=3,  # what Claude's own empty answers are counted as
)
