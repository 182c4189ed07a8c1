"""How fast this machine answers and trains with this model: measured once, remembered, corrected by every training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stepladder import files
from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Engine, Prompt

PROBE_PROMPTS = 32
PROBE_WORDS = 30
PROBE_TOKENS = 24
TRAINING_SLOWDOWN = 4.0
"""Until a training of the task has been timed: a token costs a forward, two backward products and an adapter's overhead."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second: prompts read, answers written (batched), and training (rows' own tokens, one pass each)."""

    prompt: float
    completion: float
    training: float


def measure_speeds(engine: Engine, cache: Path, *, task: str) -> Speeds:
    """The speeds of `engine`, from `cache` (a JSON file) when it was measured before with the same model and dtype.

    The probe answers a few made-up prompts, each with words of its own so that nothing is shared; it takes seconds.
    """
    if engine.identity.served:  # its speed is not ours to know, and a probe could cost money
        return Speeds(math.inf, math.inf, math.inf)
    key = _key(engine)
    known = _read(cache)
    if key not in known:
        known[key] = asdict(_probe(engine))
        files.write_text(cache, json.dumps(known, indent=2) + "\n")
    return Speeds(**{**known[key], **known.get(_of_task(key, task), {})})


def remember_training(engine: Engine, cache: Path, *, task: str, tokens: float, seconds: float) -> None:
    """Correct a task's training speed by a training that really ran; `tokens` as the workload counts them.

    Only for this task: short rows train at fewer tokens a second than long ones.
    """
    known = _read(cache)
    key = _key(engine)
    if key in known and seconds > 1.0 and tokens > 0:
        known[_of_task(key, task)] = {"training": tokens / seconds}
        files.write_text(cache, json.dumps(known, indent=2) + "\n")


def _key(engine: Engine) -> str:
    return f"{engine.identity.name} {engine.identity.base_sha256[:12]} {engine.identity.dtype}"


def _of_task(key: str, task: str) -> str:
    return f"{key} | {task}"


def _probe(engine: Engine) -> Speeds:
    prompts = [
        Prompt(f"probe-{row}", (Message("user", " ".join(f"{word * (row + 3) % 997}" for word in range(PROBE_WORDS))),))
        for row in range(PROBE_PROMPTS)
    ]
    engine.generate(prompts, Decoding(max_new_tokens=2))  # the first call pays for warming up, at these very shapes
    read, reading = _quicker(engine, prompts, new_tokens=1)
    written, both = _quicker(engine, prompts, new_tokens=1 + PROBE_TOKENS)
    writing = max(1e-3, both - reading)
    prompt = sum(answer.prompt_tokens for answer in read) / reading
    completion = max(1, sum(answer.completion_tokens for answer in written) - len(written)) / writing
    # a token written has been computed like one that is read: a difference of two timings may say otherwise, and be wrong
    return Speeds(prompt, min(completion, prompt), prompt / TRAINING_SLOWDOWN)


def _quicker(engine: Engine, prompts: Sequence[Prompt], *, new_tokens: int) -> tuple[list[Generation], float]:
    """Answers, and the seconds of the quicker of two runs: what else the machine does only ever makes one slower."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        answers = engine.generate(prompts, Decoding(max_new_tokens=new_tokens))
        seconds.append(max(1e-3, time.perf_counter() - start))
    return answers, min(seconds)


def _read(cache: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
