"""Control tokens in texts from outside."""

from __future__ import annotations

import re
from collections.abc import Callable

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

_FAMILIES = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk|mask"
    r"|cls|sep)>"
    r"|\[(?:CLS|SEP|MASK|PAD|UNK|BOS|EOS|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]|</?tool_(?:call|response)>|<extra_id_\d+>"
    r"|<fim_(?:prefix|middle|suffix|pad)>|<image>|<\|?endoftext\|?>|<(?:start|end)_header_id>|</?(?:im_start|im_end)>"
    r"|\[gMASK\]|<reserved_\d+>"
)


def find(context: CheckContext) -> list[Finding]:
    own = sorted(context.template.control_tokens, key=len, reverse=True) if context.template else []
    pattern = re.compile("|".join([_FAMILIES.pattern, *map(re.escape, own)]))
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for row in context.rows:
        for field in row.fields:
            match = pattern.search(field.text) if "<" in field.text or "[" in field.text or own else None
            if match:
                marks.append(row.mark(f"{quote(match.group())} in the {'answer' if field.part == 'reference' else field.part}"))
                if field.place is not None:
                    repairs.append(Repair(row.file, row.line, "control tokens removed", field.place, _remover(pattern)))
    return finding(
        "control-token",
        Severity.WARN,
        marks,
        "{rows} hold names of control tokens. Stepladder encodes them as plain letters; another server may let them "
        "end or open a turn.",
        "Remove them, unless the task is about them.",
        repairs,
    )


def _remover(pattern: re.Pattern[str]) -> Callable[[str], str]:
    return lambda text: pattern.sub("", text).strip()


CHECK = Check(
    "control-token",
    "Control tokens of the base model or of common families (<|im_end|>, [INST], </s>, <start_of_turn>, "
    "<|fim_suffix|>) in any text.",
    find,
)
