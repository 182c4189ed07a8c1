"""Let an unknown chat template render a few conversations in a child process that can be killed.

The sandbox keeps a template from reaching Python, but not from working for ever or filling the memory (nested ranges,
`'a' * 10**9`). So a template from outside shows once, before it is used, that it does ordinary work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message
from stepladder.models.chat_template import ChatTemplate, special_tokens
from stepladder.models.manifest import read_template

TRIAL_SECONDS = 10.0  # the start of the child included; rendering itself takes milliseconds
MEMORY_BYTES = 1 << 30
OUTPUT_CHARACTERS = 1_000_000

_ASK, _ANSWER = Message("user", "Where is it?"), Message("assistant", "Here.")
_CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    (_ASK,),
    (Message("system", "Be brief."), _ASK),
    (_ASK, _ANSWER, _ASK),
    (Message("system", ""), _ASK, _ANSWER),
)


def try_out(folder: Path, *, model: str, timeout_seconds: float = TRIAL_SECONDS) -> None:
    """Refuse the chat template of a model folder when it does not finish, fills the memory, or writes without end.

    A template that merely refuses a conversation is fine here; so is a folder without one.

    Raises:
        ModelError: Naming the model and what its template did.
    """
    text = read_template(folder)
    if not text.strip():
        return
    request = json.dumps({"text": text, "special": special_tokens(folder)})
    command = [sys.executable, "-m", "stepladder.models.template_trial"]
    try:
        result = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=timeout_seconds, check=False, encoding="utf-8"
        )
    except subprocess.TimeoutExpired as error:
        raise _refused(model, f"it was still at work after {timeout_seconds:g} s") from error
    if result.returncode != 0:
        raise _refused(model, result.stdout.strip() or "it filled the memory")


def _refused(model: str, reason: str) -> ModelError:
    return ModelError(
        f"The chat template of {model} is not safe to use: {reason}.", "Get the model from its makers, or correct the template."
    )


def _trial() -> int:
    """In the child: 0 when the template behaved, else 1 with the reason on stdout."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    request = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    try:
        template = ChatTemplate(request["text"], special=request["special"])
        for conversation in _CONVERSATIONS:
            with suppress(ModelError):
                rendered = template.render(conversation, add_generation_prompt=True)
                if len(rendered) > OUTPUT_CHARACTERS:
                    print(f"it wrote {len(rendered)} characters for {len(conversation)} short turns")
                    return 1
    except ModelError as error:
        print(error.problem)
        return 1
    except (MemoryError, RecursionError) as error:
        print(f"it ended in a {type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_trial())
