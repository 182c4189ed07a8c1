"""Faults of the model that rows are trained on: a chat template that ends a turn twice, or doubles the first token."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from planted_copy import HERE, Copy, Kind, Plant, Spot
from planted_texts import EVERY

from stepladder.models.pull import list_models

STARTER = "smollm2-135m-instruct"
TEMPLATE = "chat_template.jinja"
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", TEMPLATE)
"""What is read of a model's folder without loading it."""
END = "'<|im_end|>'"


def retemplated(change: Callable[[str, Random], str]) -> Plant:
    """The starter model under another chat template; the whole set is at fault."""

    def plant(copy: Copy, chance: Random) -> Spot:
        starter = next(model.folder for model in list_models() if model.name == STARTER)
        for name in FILES:
            copy.others[f"model/{name}"] = (starter / name).read_bytes()
        template = (starter / TEMPLATE).read_text(encoding="utf-8")
        copy.others[f"model/{TEMPLATE}"] = change(template, chance).encode()
        copy.toml += f'\n[model]\nbase = "{HERE}/model"\n'
        return frozenset()

    return plant


def ended_twice(template: str, chance: Random) -> str:
    """Two end-of-turn tokens, one behind the other or on lines of their own."""
    before, _, after = template.rpartition(END)
    return before + chance.choice((f"{END} + {END}", f"{END} + ' ' + {END}", f"{END} + '\\n' + {END}")) + after


def begun_twice(template: str, chance: Random) -> str:
    """The first token before a template that begins with it."""
    return chance.choice(("{{ bos_token }}", "{{- bos_token -}}", "{{ '<|im_start|>' }}")) + template


KINDS = (
    Kind("template that ends a turn twice", frozenset({"stop-token"}), retemplated(ended_twice), EVERY, True, "whole"),
    Kind("template that doubles the first token", frozenset({"template"}), retemplated(begun_twice), EVERY, True, "whole"),
)
