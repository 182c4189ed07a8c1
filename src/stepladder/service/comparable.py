"""Whether a compared model that should be the base itself reads its prompts as the base does; else their scores are not mixed.

The same weights behind another template or tokenizer are asked something else, and nothing in a score would show it. Local
models say by hash what they read with. A server only says how many tokens it read: some prompts are counted on both sides.
"""

from __future__ import annotations

from stepladder.domain.errors import BudgetError, EngineError, ModelError
from stepladder.domain.messages import Example, Message
from stepladder.domain.protocols import Decoding, Engine, ModelIdentity, Prompt
from stepladder.domain.task import Task
from stepladder.engines.address import parse_model
from stepladder.techniques.forms import PLAIN

COUNTED_ROWS = 4
TRICKY = (
    "1234567890 and 3,14159",
    "two  spaces,\ttabs\nand lines",
    "naïve façade – “quotes” … 中文 🙂",
    "def f(x):\n    return x**2  # CamelCase_and_snake",
)
"""Where tokenizers that call themselves the same part ways: digits, white space, letters beyond ASCII, code."""


def why_not_comparable(task: Task, base: Engine, name: str, other: Engine, rows: tuple[Example, ...]) -> str:
    """Why this model's scores may not stand beside the base's; empty where they may.

    Args:
        name: Of the other model, as `[model] compare` spells it.
        rows: Some of the task's own, to count tokens on.
    """
    if not _should_be_the_base(task, base.identity, name, other.identity):
        return ""
    if not other.identity.served:
        return _other_hashes(base.identity, other.identity)
    return "" if "count" not in base.can else _other_counts(task, base, other, rows)


def _should_be_the_base(task: Task, base: ModelIdentity, name: str, other: ModelIdentity) -> bool:
    """Said so in task.toml, of the same weights, or served under the base's name."""
    if name in task.settings.model.same_weights:
        return True
    if base.base_sha256 and other.base_sha256 == base.base_sha256:
        return True
    address = parse_model(name)
    return address is not None and not base.served and address.model.lower() == base.name.lower()


def _other_hashes(base: ModelIdentity, other: ModelIdentity) -> str:
    parts = []
    if other.tokenizer_sha256 != base.tokenizer_sha256:
        parts.append("tokenizer")
    if other.template_sha256 != base.template_sha256:
        parts.append("chat template")
    if not parts:
        return ""
    return f"It should be the base {base.name}, but its {' and '.join(parts)} {'is' if len(parts) == 1 else 'are'} another."


def _other_counts(task: Task, base: Engine, other: Engine, rows: tuple[Example, ...]) -> str:
    prompts = [PLAIN.render(task, row.input) for row in rows[:COUNTED_ROWS]]
    prompts += [Prompt(f"tricky-{number}", (Message("user", text),)) for number, text in enumerate(TRICKY)]
    prompts.append(Prompt("dialogue", (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))))
    try:
        counts = base.count_tokens(prompts)
        answers = other.generate(prompts, Decoding(max_new_tokens=1))
    except (BudgetError, EngineError, ModelError) as error:
        return f"It should be the base {base.identity.name}, and whether it reads alike could not be seen: {error}"
    for prompt, count, answer in zip(prompts, counts, answers, strict=True):
        if answer.fault or answer.counts_estimated:
            return f"It should be the base {base.identity.name}, but does not say how many tokens it reads."
        if answer.prompt_tokens != count:
            return (
                f"It should be the base {base.identity.name}, but reads {answer.prompt_tokens} tokens in the prompt "
                f"'{prompt.id}' where the base's own template makes {count}: it renders or tokenizes differently."
            )
    return ""
