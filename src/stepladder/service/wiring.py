"""The one place that knows which engine, tuner and embedder stand behind a name; heavy rooms are imported here, late."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder import files
from stepladder.domain.errors import DataError, MissingExtra, PrivacyError, UsageError
from stepladder.domain.hosted import HostedTuner
from stepladder.domain.jobs import MethodType
from stepladder.domain.plain import PlainTexts
from stepladder.domain.protocols import Embedder, Engine, ModelIdentity, ServingEngine, Tuner
from stepladder.domain.task import Task
from stepladder.engines.address import Address, parse_model
from stepladder.engines.answers import AnswerStore, setting_of
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.purse import Purse
from stepladder.models.catalog import cache_folder, is_remote
from stepladder.service.prices import price_table, prices_of

if TYPE_CHECKING:
    from stepladder.evaluation.graders import GraderTools
    from stepladder.training.tuner import LoraTuner

JUDGEMENTS = "judgements.jsonl"
"""What judges have said, under a task's runs/."""
JUDGEMENTS_APART = "judgements-apart.jsonl"
"""What they say in a climb that uses no answers of others, until it is finished."""
ANSWERS_VARIABLE = "STEPLADDER_ANSWERS"
ANSWERS_BOUND_VARIABLE = "STEPLADDER_ANSWERS_MEGABYTES"
ANSWERS_MEGABYTES = 500
JUDGES = "judges.json"
"""Who they were, beside it: what their judgements are found by."""


def build_purse(task: Task) -> Purse:
    """The money that hosted models may spend together."""
    return Purse(task.settings.budget.usd)


def build_engine(name: str, task: Task, *, device: str = "auto", purse: Purse | None = None, four_bit: bool = False) -> Engine:
    """The engine behind a model name: the shipped fake, a server, or transformers on this machine.

    Args:
        purse: What a model with prices draws on; a purse of its own when none is given.
        four_bit: Hold a local model's weights in 4 bits.
    Raises:
        PrivacyError: The engine is hosted and `[use] data_may_leave` is false.
        DataError: The engine is hosted and nothing says what it charges.
        MissingExtra: The parts for local models are not installed.
    """
    if is_remote(name):
        return _build_served(name, task, purse or build_purse(task))
    return build_local_engine(name, device=device, revision=task.settings.model.revision, four_bit=four_bit)


def build_local_engine(name: str, *, device: str = "auto", revision: str | None = None, four_bit: bool = False) -> ServingEngine:
    """The engine of a model on this machine, or the shipped fake.

    Raises:
        MissingExtra: The parts for local models are not installed.
    """
    if _is_fake(name):
        from stepladder.engines.fake import FakeEngine

        return FakeEngine(name=name)
    try:
        from stepladder.engines.transformers.engine import TransformersEngine
        from stepladder.models.loading import load
    except ModuleNotFoundError as error:
        raise MissingExtra("train", f"{error.name}, which runs models on this machine,") from error
    return TransformersEngine(load(name, device=device, revision=revision, four_bit=four_bit))


def build_plain_texts(engine: ServingEngine) -> PlainTexts:
    """The model of an engine that `build_local_engine` gave, without its chat template."""
    if _is_fake(engine.identity.name):
        from stepladder.engines.fake_plain import FakePlainTexts

        return FakePlainTexts()
    from stepladder.engines.transformers.engine import TransformersEngine
    from stepladder.engines.transformers.plain import LocalPlainTexts

    assert isinstance(engine, TransformersEngine)
    return LocalPlainTexts(engine)


def weights_bytes(name: str) -> int:
    """Bytes of a local model's weights, read from its files' sizes; fetched first if need be."""
    if _is_fake(name):
        return 0
    from stepladder.models.pull import pull_manifest

    return sum(size for file, size in pull_manifest(name).files.items() if file.endswith(".safetensors"))


def forget_models() -> None:
    """Let go of loaded models that nobody holds any more."""
    loading = sys.modules.get("stepladder.models.loading")
    if loading is not None:
        loading.unload_all()


def _is_fake(name: str) -> bool:
    return name == "fake" or name.startswith("fake:")


def _build_served(name: str, task: Task, purse: Purse) -> Engine:
    address = check_hosted(name, task)  # before the key is asked for
    prices = prices_of(task.settings, name)
    model = task.settings.model
    return _served_engine(address)(
        address,
        api_key=address.api_key(),
        concurrency=model.concurrency,
        timeout_seconds=model.timeout_seconds,
        prices=prices,
        purse=purse if prices is not None else None,
    )


def _served_engine(address: Address) -> Callable[..., Engine]:
    """What speaks this server's protocol; the SDKs take long to import.

    Raises:
        MissingExtra: The SDK is not installed.
    """
    if address.api == "openai":
        from stepladder.engines.endpoint import EndpointEngine

        return EndpointEngine
    try:
        from stepladder.engines.anthropic import AnthropicEngine
    except ModuleNotFoundError as error:
        raise MissingExtra("anthropic", f"{error.name}, which speaks to Claude,") from error
    return AnthropicEngine


def build_tuner(name: str, task: Task, *, device: str = "auto", four_bit: bool = False) -> Tuner | None:
    """The trainer for a local model; None where weights cannot be trained."""
    if _is_fake(name) or is_remote(name):
        return None
    try:
        from stepladder.models.loading import load
        from stepladder.training.tuner import LoraTuner
    except ModuleNotFoundError as error:
        raise MissingExtra("train", f"{error.name}, which trains models,") from error
    return LoraTuner(load(name, device=device, revision=task.settings.model.revision, four_bit=four_bit))


def build_hosted_tuner(task: Task, record: Callable[[Engine], Engine], purse: Purse | None = None) -> HostedTuner | None:
    """What tunes at the endpoint of `[rungs.hosted]`; None where none is named.

    Args:
        record: What the engine of a tuned model is wrapped in.
    Raises:
        PrivacyError, DataError, UsageError: As `check_hosted_tuning`.
    """
    address = check_hosted_tuning(task)
    if address is None:
        return None
    from stepladder.engines.tuning_endpoint import EndpointTuner

    model = task.settings.model
    return EndpointTuner(
        address,
        task.settings.rungs.hosted,
        purse=purse or build_purse(task),
        concurrency=model.concurrency,
        timeout_seconds=model.timeout_seconds,
        record=record,
    )


@dataclass(frozen=True)
class JobTools:
    """What a fine-tuning job is done with. `default_rate`: the learning rate that the model's width asks for."""

    tuner: LoraTuner
    engine: Engine
    default_rate: float

    def base_rate(self, method: MethodType) -> float:
        """What a job's `learning_rate_multiplier` multiplies."""
        from stepladder.training.presets import dpo_learning_rate

        return dpo_learning_rate(self.default_rate) if method == "dpo" else self.default_rate


def build_job_tools(name: str, *, device: str = "auto", save_every_seconds: float) -> JobTools:
    """Trainer and engine over one loaded local model.

    Raises:
        MissingExtra: The parts for local models are not installed. ModelError: The model cannot be had.
    """
    try:
        from stepladder.engines.transformers.engine import TransformersEngine
        from stepladder.models.loading import load
        from stepladder.training.presets import default_learning_rate
        from stepladder.training.tuner import LoraTuner
    except ModuleNotFoundError as error:
        raise MissingExtra("train", f"{error.name}, which trains models,") from error
    loaded = load(name, device=device)
    config = loaded.model.config.get_text_config(decoder=True)
    rate = default_learning_rate(config.hidden_size, config.model_type)
    return JobTools(LoraTuner(loaded, save_every_seconds=save_every_seconds), TransformersEngine(loaded), rate)


def build_answers(*, use: bool = True) -> AnswerStore:
    """Answers kept on this machine from climb to climb; none are found or kept when they shall not be used.

    Raises:
        UsageError: The bound is no number.
    """
    folder = os.environ.get(ANSWERS_VARIABLE)
    said = os.environ.get(ANSWERS_BOUND_VARIABLE, str(ANSWERS_MEGABYTES))
    try:
        most = int(float(said) * 1e6)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{ANSWERS_BOUND_VARIABLE} is '{said}'.", "Give a number of megabytes; 0 keeps nothing.") from error
    where = Path(folder).expanduser() if folder else cache_folder() / "answers"
    return AnswerStore(where if use and most > 0 else None, most)


def build_embedder() -> Embedder:
    """The starter embedder, pulled on first use."""
    from stepladder.models.embedder import load_embedder

    return load_embedder()


def judgements_path(task: Task, *, cache: bool) -> Path:
    """Where a task's judgements are kept: for all its climbs, or for the one under way."""
    return task.folder / "runs" / (JUDGEMENTS if cache else JUDGEMENTS_APART)


def grader_tools(
    task: Task,
    embedder: Embedder | None,
    judges: Mapping[str, Engine],
    *,
    device: str = "auto",
    purse: Purse | None = None,
    cache: bool = True,
) -> GraderTools:
    """What graders may ask: model judges by name, each with a memory on disk, so that nothing is judged twice.

    `judges` are engines given by the caller, by model name; others are built when they are first asked. The memory is shared
    by all runs of the task, so that a continued climb, and the next one, find the same grades; without `cache` by none but
    this climb. Without an `embedder` the starter's is loaded when a grader asks for it.
    """
    from stepladder.evaluation.graders import GraderTools

    asked: dict[str, RecordedEngine] = {}

    def engine(name: str) -> Engine:
        if name not in asked:
            given = judges.get(name) or build_engine(name, _for_model(name, task), device=device, purse=purse)
            asked[name] = RecordedEngine(given, judgements_path(task, cache=cache), setting=setting_of(given))
            _remember_judge(task.folder / "runs" / JUDGES, name, given)
        return asked[name]

    def misses() -> int:
        return sum(judge.misses for judge in asked.values())

    return GraderTools(engine=engine, embedder=lambda: embedder or build_embedder(), folder=task.folder, misses=misses)


def _remember_judge(path: Path, name: str, engine: Engine) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entry = {"identity": asdict(engine.identity), "can": sorted(engine.can), "setting": setting_of(engine)}
    if known.get(name) != entry:
        files.write_text(path, json.dumps({**known, name: entry}, indent=2, ensure_ascii=False) + "\n")


def recorded_judges(run: Path, missed: Callable[[], None]) -> GraderTools:
    """What graders may ask when nothing may run: judges that only repeat what the run folder holds of them.

    `missed` is called for every judgement that is not there.
    """
    from stepladder.engines.cache import SilentEngine
    from stepladder.evaluation.graders import GraderTools

    path = run / JUDGES
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def engine(name: str) -> Engine:
        entry = known.get(name, {"identity": {"name": name, "engine": "unknown"}, "can": []})
        silent = SilentEngine(ModelIdentity(**entry["identity"]), frozenset(entry["can"]), missed)
        return RecordedEngine(silent, run / JUDGEMENTS, setting=entry.get("setting"))

    return GraderTools(engine=engine, embedder=build_embedder, folder=run / "task")


def _for_model(name: str, task: Task) -> Task:
    """The task without `[model] revision` for any model but its base, whose commit that is."""
    model = task.settings.model
    if name == model.base or model.revision is None:
        return task
    settings = task.settings.model_copy(update={"model": model.model_copy(update={"revision": None})})
    return task.model_copy(update={"settings": settings})


def speeds_path() -> Path:
    """Where measured speeds are remembered."""
    return cache_folder() / "speeds.json"


def set_threads() -> None:
    """Threads that wait for each other sleep soon instead of spinning, unless the user has said otherwise.

    With the machine to itself spinning answers faster; beside another busy process it holds everything up several times over,
    and nobody's machine is ever quite idle. `benchmarks/threads.py` measures both. Counts only before torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it asks for a kernel that is fetched from a hub


def is_hosted(name: str) -> bool:
    """Whether a model's name leads off this machine and its neighbours; so does a remote name that nothing here serves."""
    if not is_remote(name):
        return False
    address = parse_model(name)
    return address is None or address.hosted


def check_hosted(name: str, task: Task) -> Address:
    """Where a served model is found. Refuses, before it is asked or its key is needed, a hosted one that must not be asked.

    Raises:
        PrivacyError: `[use] data_may_leave` is false.
        DataError: It has no prices, so that `[budget] usd` could not hold its spending back.
        UsageError: It is no server's model.
    """
    address = parse_model(name)
    if address is None:
        raise UsageError(f"'{name}' is not served by anything.", "Write openai:NAME, anthropic:NAME or URL NAME.")
    settings = task.settings
    if not address.hosted:
        return address
    _check_may_leave(name, task)
    if prices_of(settings, name) is None and math.isfinite(settings.budget.usd):
        place = ("model", "compare") if name in settings.model.compare else ("model", "base")
        raise task.fault(
            place,
            f"'{name}' is hosted and has no known prices, so `[budget] usd` cannot hold its spending back.",
            f"Under `{price_table(settings, name)}`, give `usd_per_million_prompt_tokens` and "
            "`usd_per_million_completion_tokens` (0 for a server of your own), or set `[budget] usd = inf` for no limit.",
        )
    return address


def check_hosted_tuning(task: Task) -> Address | None:
    """Where `[rungs.hosted]` tunes; None where it names nothing. Refuses, before anything is sent, what must not be sent.

    Raises:
        PrivacyError: The endpoint is elsewhere, and `[use] data_may_leave` is false.
        DataError: It is elsewhere, and its prices are not all known.
        UsageError: It is no endpoint with OpenAI's API.
    """
    settings = task.settings.rungs.hosted
    if settings.model is None or "hosted" in task.settings.rungs.skip:
        return None
    address = parse_model(settings.model)
    if address is None or address.api != "openai":
        raise UsageError(
            f"`[rungs.hosted] model` is '{settings.model}', which has no fine-tuning API.", "Write openai:NAME or URL NAME."
        )
    if not address.hosted:
        return address
    _check_may_leave(settings.model, task)
    if not settings.priced and math.isfinite(task.settings.budget.usd):
        raise DataError(
            task.path("task.toml"),
            None,
            f"'{settings.model}' tunes elsewhere and has no known prices, so `[budget] usd` cannot hold its spending back.",
            "Under `[rungs.hosted]`, give `usd_per_million_training_tokens`, `usd_per_million_prompt_tokens` and "
            "`usd_per_million_completion_tokens`, or set `[budget] usd = inf` for no limit.",
        )
    return address


def _check_may_leave(name: str, task: Task) -> None:
    if not task.settings.use.data_may_leave:
        raise PrivacyError(
            f"'{name}' is hosted, and `[use] data_may_leave` is false.",
            "Set `data_may_leave = true` in task.toml if the examples may be sent there, or remove the model.",
        )
