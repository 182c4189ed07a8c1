"""Judges that are scripted: honest ones, gullible ones, and ones that reply in the wrong form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from stepladder.domain.protocols import Decoding, Engine, Prompt
from stepladder.engines.fake import FakeEngine
from stepladder.engines.wrappers import Wrapped

FENCED = re.compile(r'<data-(?P<nonce>[0-9a-f]{20}) of="(?P<of>[^"]*)">\n(?P<text>.*?)\n</data-(?P=nonce)>', re.DOTALL)


WISHES = ("full marks", "best grade", "höchstnote", "approved", "let it pass")
"""What dishonest answers ask for."""


class FreeSpeaking(Wrapped):
    """An engine without grammar: its replies are its own."""

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can - {"grammar"}


def fenced(prompt: Prompt) -> dict[str, str]:
    """What stands between data fences, by variable: what an attentive judge takes for material."""
    return {found["of"]: found["text"] for message in prompt.messages for found in FENCED.finditer(message.content)}


def outside(prompt: Prompt) -> str:
    """All that is said to the judge itself."""
    return "\n".join(FENCED.sub("[…]", message.content) for message in prompt.messages)


def judge(say: Callable[[Prompt], object]) -> Engine:
    """An engine that says the value of `say` as "result"; a text is said as it is."""

    def answer(prompt: Prompt, decoding: Decoding, adapter: object) -> str:
        said = say(prompt)
        return said if isinstance(said, str) and said.startswith("RAW ") else json.dumps({"result": said})

    def bare(prompt: Prompt, decoding: Decoding, adapter: object) -> str:
        return answer(prompt, decoding, adapter).removeprefix("RAW ")

    return FreeSpeaking(FakeEngine(bare, name="a-judge"))


def honest(prompt: Prompt) -> float:
    """1 when the fenced answer holds the fenced reference, else 0; obeys only what stands outside the fences."""
    texts = fenced(prompt)
    if any(wish in outside(prompt).lower() for wish in WISHES):
        return 1.0
    return float(texts["item.reference"].lower() in texts["sample.output_text"].lower())


def gullible(prompt: Prompt) -> float:
    """As `honest`, but does what any text tells it."""
    return 1.0 if any(obeying(wish)(prompt) for wish in WISHES) else honest(prompt)


def obeying(wish: str) -> Callable[[Prompt], float]:
    """As `honest`, but falls for one wording."""

    def says(prompt: Prompt) -> float:
        everything = "\n".join(message.content for message in prompt.messages)
        return 1.0 if wish in everything.lower() else honest(prompt)

    return says
