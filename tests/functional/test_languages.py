"""Tasks in Japanese, Arabic and German: made by `init`, climbed without a crash, and warned about the English embedder."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepladder.domain.climb import RungStatus
from stepladder.domain.messages import Chunk
from stepladder.domain.task import Task
from stepladder.engines.fake import FakeEngine
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load
from stepladder.service import wiring
from stepladder.service.climb import climb
from stepladder.service.init import init_task
from stepladder.service.setup import ClimbOptions, Tools, Watcher, make_base
from stepladder.techniques.fake import FakeEmbedder
from stepladder.techniques.retrieval import Retriever
from tiny_model import build_tiny_model

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "languages"
LANGUAGES = ("japanese", "arabic", "german")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds that are measured here are not remembered for real climbs."""
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def begin(folder: Path, language: str) -> Task:
    init_task(folder / language, FIXTURES / f"{language}.jsonl")
    return Task.load(folder / language)


@pytest.mark.parametrize(
    ("language", "columns", "grader"),
    [
        ("japanese", ("質問", "答え"), "token_f1"),
        ("arabic", ("الرسالة", "التصنيف"), "labels"),
        ("german", ("Meldung", "Auftrag"), "json_fields"),
    ],
)
def test_init_finds_columns_and_the_kind_of_answers(tmp_path: Path, language: str, columns: tuple[str, str], grader: str) -> None:
    task = begin(tmp_path, language)
    assert (task.settings.data.input, task.settings.data.reference) == columns
    assert task.settings.graders[0].type == grader


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_climbs(tmp_path: Path, language: str) -> None:
    task = begin(tmp_path, language)
    finished = climb(task, tools=Tools(FakeEngine(), None, FakeEmbedder()))
    assert finished.verdict.outcome is not None
    ran = {rung.name for rung in finished.rungs if rung.status is RungStatus.RAN}
    assert ran >= {"baseline", "prompt", "few-shot", "nearest"}
    assert (finished.folder / "report.html").stat().st_size > 1000


@pytest.mark.usefixtures("own_cache")
def test_a_real_model_climbs_a_script_without_spaces(tmp_path: Path) -> None:
    task = begin(tmp_path, "japanese")
    engine = TransformersEngine(load(str(build_tiny_model(tmp_path / "tiny")), device="cpu"))
    settings = task.settings.model_copy(
        update={"rungs": task.settings.rungs.model_copy(update={"skip": ("few-shot", "nearest")})}
    )
    finished = climb(task.model_copy(update={"settings": settings}), tools=Tools(engine, None, FakeEmbedder()), budget_minutes=1)
    assert next(rung for rung in finished.rungs if rung.name == "prompt").status is RungStatus.RAN


@pytest.mark.starter
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_english_embedder_is_warned_about(tmp_path: Path, language: str) -> None:
    said: list[str] = []
    tools = Tools(FakeEngine(), None, wiring.build_embedder())
    make_base(begin(tmp_path, language), ClimbOptions(), Watcher(say=said.append), tools=tools, write_split=False)
    warning = next(line for line in said if "starter embedder knows English only" in line)
    assert warning.startswith("100%")


def test_passages_without_spaces_are_found_by_their_words() -> None:
    class Blind(FakeEmbedder):
        def embed(self, texts):  # type: ignore[no-untyped-def]
            return super().embed(["same"] * len(texts))

    texts = ["郵便局は駅の北口にあります。", "図書館は月曜日が休みです。", "水族館の券は二千円です。"]
    found = Retriever([Chunk("d.md", 0, len(text), text) for text in texts], Blind()).search(["図書館の休みはいつですか"], 1)
    assert found == [[1]]
