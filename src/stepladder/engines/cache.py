"""Answers that are asked for once: recorded as each one is finished, read back when the same thing is asked again."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Protocol

from stepladder.domain.errors import EngineError
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Engine, ModelIdentity, Prompt
from stepladder.engines.adapter import hash_adapter
from stepladder.engines.wrappers import Wrapped
from stepladder.files import hash_json, read_lines

FORMAT = 1  # raise it when what a key stands for changes
SCORE_FORMAT = 3  # likewise, for scores only: since 2 they carry the seconds they took, since 3 whose weights they were
SYNC_SECONDS = 1.0
SCORED_AT_ONCE = 32  # prompts; a kill loses at most the scores of one such group


class Journal(Protocol):
    """Where new answers are written as they come."""

    def add(self, entry: Mapping[str, Any]) -> None: ...


class RecordedEngine(Wrapped):
    """`engine`, with every answer kept in the line file `path`.

    An answer is found by what decided it: hashes of model, tokenizer, template and adapter, the turns and tools, and the
    decoding settings; never by the prompt's id. A hit returns what was recorded unchanged, its first latency included.
    Torn and broken lines are skipped (`bad_lines`): their answers are asked for again.

    Counts: `hits` and `misses`, in answers and scored completions; a prompt that stands twice in one call is asked once.

    Args:
        setting: What else decides an answer, for a file that outlives the installed versions.
    """

    def __init__(self, engine: Engine, path: Path, *, setting: Mapping[str, Any] | None = None) -> None:
        super().__init__(engine)
        self.hits = 0
        self.misses = 0
        self.bad_lines = 0
        self._path = path
        self._besides = [dict(setting)] if setting else []
        self._generations: dict[str, Generation] = {}
        self._scores: dict[str, CompletionScore] = {}
        self._read()

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As `engine` answers; what is recorded is reported first, what is new as it is finished."""
        speaker = self._speaker(adapter)
        keys = [_generation_key(speaker, asked, decoding) for asked in self._asked(prompts)]
        self._recall(keys)
        places = _places_of_unknown(keys, self._generations)
        self.misses += len(places)
        self.hits += len(keys) - len(places)
        for index, key in enumerate(keys):
            if key not in places and on_answer is not None:
                on_answer(index, self._generations[key])
        lost = self._ask(prompts, decoding, adapter, places, on_answer) if places else {}
        return [lost[key] if key in lost else self._generations[key] for key in keys]

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        """As `engine` scores; only completions not recorded yet are computed."""
        speaker = self._speaker(adapter)
        keys = [
            [_score_key(speaker, asked, completion) for completion in options]
            for asked, options in zip(self._asked(prompts), completions, strict=True)
        ]
        self._recall([key for row in keys for key in row])
        unknown = _places_of_unknown([key for row in keys for key in row], self._scores)
        self.misses += len(unknown)
        self.hits += sum(map(len, keys)) - len(unknown)
        work = []
        for prompt, options, row in zip(prompts, completions, keys, strict=True):
            new = {key: text for key, text in zip(row, options, strict=True) if unknown.pop(key, None) is not None}
            if new:
                work.append((prompt, new))
        for start in range(0, len(work), SCORED_AT_ONCE):
            self._compute_scores(work[start : start + SCORED_AT_ONCE], adapter)
        return [[self._scores[key] for key in row] for row in keys]

    def _speaker(self, adapter: Path | None) -> str:
        """Which weights would answer, as one hash."""
        identity = dataclasses.asdict(self.identity)
        return hash_json([FORMAT, identity, None if adapter is None else hash_adapter(adapter), *self._besides])

    def _asked(self, prompts: Sequence[Prompt]) -> list[Any]:
        """What each prompt says, as JSON."""
        return [_turns(prompt) for prompt in prompts]

    def _recall(self, keys: Sequence[str]) -> None:
        """Bring to mind what is known of these keys; the whole line file has been read already."""

    def _journal(self) -> AbstractContextManager[Journal]:
        return _LineFile(self._path)

    def _ask(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        adapter: Path | None,
        places: Mapping[str, list[int]],
        on_answer: Callable[[int, Generation], None] | None,
    ) -> dict[str, Generation]:
        """Ask for what is unknown and keep it; what got no answer comes back."""
        unknown = list(places)
        lost: dict[str, Generation] = {}
        with self._journal() as journal:

            def keep(number: int, generation: Generation) -> None:
                key = unknown[number]
                if generation.fault:  # no answer: it shall be asked for again
                    lost[key] = generation
                else:
                    journal.add({"key": key, "generation": dataclasses.asdict(generation)})
                    self._generations[key] = generation
                for index in places[key]:
                    if on_answer is not None:
                        on_answer(index, generation)

            self.engine.generate([prompts[places[key][0]] for key in unknown], decoding, adapter=adapter, on_answer=keep)
        return lost

    def _compute_scores(self, work: Sequence[tuple[Prompt, Mapping[str, str]]], adapter: Path | None) -> None:
        found = self.engine.score([prompt for prompt, _ in work], [list(new.values()) for _, new in work], adapter=adapter)
        with self._journal() as journal:
            for (_, new), scores in zip(work, found, strict=True):
                for key, score in zip(new, scores, strict=True):
                    journal.add({"key": key, "score": dataclasses.asdict(score)})
                    self._scores[key] = score

    def _read(self) -> None:
        for line in read_lines(self._path):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if "generation" in entry:
                    self._generations[str(entry["key"])] = Generation(**entry["generation"])
                else:
                    self._scores[str(entry["key"])] = CompletionScore(**entry["score"])
            except (ValueError, TypeError, KeyError):
                self.bad_lines += 1


class SilentEngine:
    """A model that is not asked: only what it said before is known. Each prompt it would have to answer calls `missed`."""

    def __init__(self, identity: ModelIdentity, can: frozenset[str], missed: Callable[[], None]) -> None:
        self.identity = identity
        self.can = can
        self._missed = missed

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        return self._refuse(len(prompts))

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        return self._refuse(len(prompts))

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        return self._refuse(len(prompts))

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._refuse(len(texts))

    def _refuse(self, count: int) -> NoReturn:
        for _ in range(count):
            self._missed()
        raise EngineError(f"{self.identity.name} is not asked here, and {count} of its answers are not recorded.")


def _places_of_unknown(keys: Iterable[str], known: Mapping[str, Any]) -> dict[str, list[int]]:
    """Where each key that is not known yet stands, in the order of first appearance."""
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key not in known:
            places.setdefault(key, []).append(index)
    return places


def _generation_key(speaker: str, asked: Any, decoding: Decoding) -> str:
    settings = dataclasses.asdict(decoding)
    if decoding.temperature == 0:
        del settings["seed"], settings["top_p"]  # greedy answers do not depend on them
    elif decoding.top_p == 1:
        del settings["top_p"]  # what is younger than the first records is named only where something is asked for
    if decoding.logprobs is None:
        del settings["logprobs"]
    return hash_json(["generation", speaker, asked, settings])


def _score_key(speaker: str, asked: Any, completion: str) -> str:
    return hash_json(["score", SCORE_FORMAT, speaker, asked, completion])


def _turns(prompt: Prompt) -> list[Any]:
    # Key order inside tools is kept: a template may render them in that order.
    return [[message.as_chat() for message in prompt.messages], json.dumps([dict(tool) for tool in prompt.tools])]


class _LineFile:
    """A line file being added to. A killed process loses no line; a power cut at most the last second's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = time.monotonic()

    def __enter__(self) -> _LineFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._path.open("ab+")
        if self._file.tell() > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # torn by a kill: end it, so that it harms no other line
                self._file.write(b"\n")
        return self

    def add(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=True).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
