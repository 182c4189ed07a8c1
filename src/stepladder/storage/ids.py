"""Names of new things, shaped as OpenAI's clients expect them."""

from __future__ import annotations

import secrets
import string

LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """`prefix` and random letters and digits, e.g. `ftjob-` + 24 of them."""
    return prefix + "".join(secrets.choice(LETTERS) for _ in range(length))
