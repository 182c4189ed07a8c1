"""The base models of a server: under which names they answer, and which of them are in memory."""

from __future__ import annotations

import gc
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from stepladder.domain.errors import UsageError
from stepladder.domain.protocols import ServingEngine

_OPENAI_NAME = re.compile(r"(?:gpt-|chatgpt-|o\d|davinci|babbage|text-embedding-)[\w.-]*")
_PUBLIC_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One base model that is served. `location` is what loads it: a starter name, a Hugging Face id, a folder, a GGUF file."""

    name: str
    location: str

    @classmethod
    def parse(cls, text: str) -> BaseModel:
        """`LOCATION`, or `NAME=LOCATION`; a folder or a file is called by its last part, so that no path is shown.

        Raises:
            UsageError: The name would not stand in a URL or in an `ft:` name.
        """
        name, equals, location = text.partition("=")
        if not equals:
            local = Path(text).expanduser()
            name, location = (local.stem if local.is_file() else local.name if local.is_dir() else text), text
        if not _PUBLIC_NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' is no name for a model.", "Write --model NAME=LOCATION with letters, digits, '.', '_', '-'."
            )
        return cls(name, location)


@dataclass(frozen=True, slots=True)
class Alias:
    """Names that stand for a base model: `pattern` may hold `*`."""

    pattern: str
    base: str

    @classmethod
    def parse(cls, text: str) -> Alias:
        """`PATTERN=BASE`.

        Raises:
            UsageError: There is no `=`.
        """
        pattern, equals, base = text.partition("=")
        if not equals or not pattern or not base:
            raise UsageError(f"'{text}' is no alias.", "Write --alias 'gpt-4o-mini*=smollm2-135m-instruct'.")
        return cls(pattern, base)


class Bases:
    """Names to base models, and base models to engines.

    Args:
        build: Loads the engine of a location; called on the asking thread only.
        weigh: Bytes that the weights of a location will take, before they are loaded.
        memory_bytes: What all loaded weights may take; the one that was asked longest ago goes first.
        forget: Called after engines were dropped, so that what they shared can go too.
    Raises:
        UsageError: An alias leads to no served model, or two models share a name.
    """

    def __init__(
        self,
        models: Sequence[BaseModel],
        aliases: Sequence[Alias],
        *,
        build: Callable[[str], ServingEngine],
        weigh: Callable[[str], int],
        memory_bytes: int,
        forget: Callable[[], None],
    ) -> None:
        self.models = {model.name: model for model in models}
        self.aliases = tuple(aliases)
        self._build, self._weigh, self._forget = build, weigh, forget
        self._memory_bytes = memory_bytes
        self._loaded: OrderedDict[str, tuple[ServingEngine, int]] = OrderedDict()
        self._guard = threading.Lock()
        if len(self.models) != len(models):
            raise UsageError("two --model have the same name.", "Write NAME=LOCATION to tell them apart.")
        for alias in aliases:
            if alias.base not in self.models:
                known = ", ".join(self.models) or "none"
                raise UsageError(
                    f"the alias '{alias.pattern}' leads to '{alias.base}', which is not served.", f"Served: {known}."
                )

    def find(self, name: str) -> BaseModel | None:
        """The base model behind a name or an alias of it."""
        if name in self.models:
            return self.models[name]
        base = next((alias.base for alias in self.aliases if fnmatchcase(name, alias.pattern)), None)
        return None if base is None else self.models[base]

    def name_of(self, location: str) -> str:
        """What the model that is loaded from `location` is called in public."""
        return next((model.name for model in self.models.values() if model.location == location), Path(location).name)

    def advice(self, name: str) -> str:
        """The line to paste where an OpenAI name is meant to run on a model of one's own; "" for any other name."""
        bare = name.split(":")[1] if name.startswith("ft:") and name.count(":") else name
        if not _OPENAI_NAME.fullmatch(bare) or not self.models:
            return ""
        return f"Start the server with: stepladder serve --alias '{bare}={next(iter(self.models))}'"

    @property
    def loaded(self) -> tuple[str, ...]:
        """Locations in memory, the one asked longest ago first."""
        with self._guard:
            return tuple(self._loaded)

    def engine(self, location: str) -> ServingEngine:
        """The engine of a location, loaded if need be after making room. For the asking thread."""
        with self._guard:
            if location in self._loaded:
                self._loaded.move_to_end(location)
                return self._loaded[location][0]
        needed = self._weigh(location)
        self._make_room(needed)
        engine = self._build(location)
        with self._guard:
            self._loaded[location] = (engine, needed)
        return engine

    def _make_room(self, needed: int) -> None:
        """Drop engines until `needed` bytes fit beside the rest; the last one asked for is loaded whatever it takes."""
        dropped = False
        with self._guard:
            while self._loaded and sum(size for _, size in self._loaded.values()) + needed > self._memory_bytes:
                self._loaded.popitem(last=False)
                dropped = True
        if dropped:
            self._forget()
            gc.collect()
