"""The one place that knows which engine, tuner and embedder stand behind a name; heavy rooms are imported here, late."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from stepladder.domain.errors import MissingExtra, PrivacyError, UsageError
from stepladder.domain.protocols import Embedder, Engine, Tuner
from stepladder.domain.task import Task, UseSettings
from stepladder.models.catalog import cache_folder, is_remote


def build_engine(name: str, task: Task, *, device: str = "auto", four_bit: bool = False) -> Engine:
    """The engine behind a model name: the shipped fake, an OpenAI-shaped server, or transformers on this machine.

    Args:
        four_bit: Hold a local model's weights in 4 bits.
    Raises:
        PrivacyError: The engine is hosted and `[use] data_may_leave` is false.
        MissingExtra: The parts for local models are not installed.
    """
    if name == "fake" or name.startswith("fake:"):
        from stepladder.engines.fake import FakeEngine

        return FakeEngine(name=name)
    if is_remote(name):
        return _build_endpoint(name, task)
    try:
        from stepladder.engines.transformers.engine import TransformersEngine
        from stepladder.models.loading import load
    except ModuleNotFoundError as error:
        raise MissingExtra("train", f"{error.name}, which runs models on this machine,") from error
    return TransformersEngine(load(name, device=device, revision=task.settings.model.revision, four_bit=four_bit))


def _build_endpoint(name: str, task: Task) -> Engine:
    from stepladder.engines.endpoint import EndpointEngine, parse_model
    from stepladder.engines.purse import Prices, Purse

    address = parse_model(name)
    if address is None:
        raise UsageError(f"'{name}' is not served by anything that speaks OpenAI's protocol.", "Write openai:NAME or URL NAME.")
    use = task.settings.use
    prices = None
    if use.usd_per_million_prompt_tokens is not None and use.usd_per_million_completion_tokens is not None:
        prices = Prices(use.usd_per_million_prompt_tokens, use.usd_per_million_completion_tokens)
    purse = Purse(task.settings.budget.usd) if prices is not None else None
    if address.hosted:
        _refuse_hosted(address.name, use)  # before the key is asked for
    return EndpointEngine(address.url, address.model, address.api_key(), prices=prices, purse=purse)


def build_tuner(name: str, task: Task, *, device: str = "auto", four_bit: bool = False) -> Tuner | None:
    """The trainer for a local model; None where weights cannot be trained."""
    if name == "fake" or name.startswith("fake:") or is_remote(name):
        return None
    try:
        from stepladder.models.loading import load
        from stepladder.training.tuner import LoraTuner
    except ModuleNotFoundError as error:
        raise MissingExtra("train", f"{error.name}, which trains models,") from error
    return LoraTuner(load(name, device=device, revision=task.settings.model.revision, four_bit=four_bit))


def build_embedder() -> Embedder:
    """The starter embedder, pulled on first use."""
    from stepladder.models.embedder import load_embedder

    return load_embedder()


def speeds_path() -> Path:
    """Where measured speeds are remembered."""
    return cache_folder() / "speeds.json"


def set_threads() -> None:
    """Threads that wait for each other sleep instead of spinning, unless the user has said otherwise.

    Spinning threads hold each other up when another process wants the same cores; `benchmarks/threads.py` measures by how
    much. Counts only when torch has not been imported yet.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it asks for a kernel that is fetched from a hub


def check_may_leave(name: str, use: UseSettings) -> None:
    """Refuse a hosted model by its name alone, before it is asked or its key is needed.

    Raises:
        PrivacyError: It is hosted and `[use] data_may_leave` is false.
    """
    if is_hosted(name):
        _refuse_hosted(name, use)


def is_hosted(name: str) -> bool:
    """Whether a model's name leads off this machine and its neighbours; so does a remote name that nothing here serves."""
    if not is_remote(name):
        return False
    from stepladder.engines.endpoint import parse_model

    address = parse_model(name)
    return address is None or address.hosted


def _refuse_hosted(name: str, use: UseSettings) -> None:
    if not use.data_may_leave:
        raise PrivacyError(
            f"'{name}' is hosted, and `[use] data_may_leave` is false.",
            "Set `data_may_leave = true` in task.toml if the examples may be sent there, or remove the model.",
        )
