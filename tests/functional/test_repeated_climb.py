"""A climb that is repeated: what is read back keeps its time, and what is computed anew is not denied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from judges import FreeSpeaking, fenced
from small_tasks import World, write_task
from stepladder.domain.climb import RungResult, RungStatus
from stepladder.domain.protocols import CompletionScore, Decoding, Prompt
from stepladder.engines.answers import AnswerStore
from stepladder.engines.fake import FakeEngine
from stepladder.files import hash_file
from stepladder.service.chat import open_chat
from stepladder.service.climb import Climb, climb
from stepladder.service.verify import verify
from tiny_model import build_tiny_model

PLENTY = 10**8
SCORING_SECONDS = 100.0  # of a prompt: what making it takes is nothing beside it


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


# Fakes: label scores


class SlowScores(FakeEngine):
    """Writes what is no label; scores labels well, and slowly."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda prompt, decoding, adapter: self._say(world, prompt, decoding, adapter))

    @staticmethod
    def _say(world: World, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return world.answer(prompt, decoding, adapter) if decoding.max_new_tokens == 4096 else "something"  # when it scores

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        scores = super().score(prompts, completions, adapter=adapter)
        return [[replace(score, seconds=SCORING_SECONDS / len(row)) for score in row] for row in scores]


def test_rungs_that_score_labels_cost_the_same_in_a_climb_that_reads_the_scores_back(tmp_path: Path) -> None:
    rungs = 'skip = ["baseline", "classifier", "constrained", "nearest", "lora", "lora+nearest", "lora+constrained"]'
    world = write_task(tmp_path / "task", 130, rungs=rungs)
    climbs = []
    for _ in range(2):
        tools = replace(world.tools, engine=SlowScores(world), answers=AnswerStore(tmp_path / "answers", PLENTY))
        climbs.append(climb(tmp_path / "task", tools=tools, fresh=True))
    assert isinstance(tools.engine, SlowScores)
    assert not any(call.decoding for call in tools.engine.calls)  # the second asked for no answer; its checks did score
    for name in ("prompt", "few-shot"):
        first, second = (rung_of(one, name) for one in climbs)
        assert first.cost.seconds_per_call == pytest.approx(SCORING_SECONDS, rel=0.01)
        assert second.cost.seconds_per_call == pytest.approx(first.cost.seconds_per_call, rel=0.01)
        assert second.latency_p95_seconds == pytest.approx(first.latency_p95_seconds, rel=0.01)
    said = climbs[1].record.answering[0]
    assert said.endswith("were read back from earlier climbs; none was asked anew. Computed anew: checks of the data.")


def rung_of(finished: Climb, name: str) -> RungResult:
    return next(rung for rung in finished.rungs if rung.name == name)


# Fakes: judges


JUDGE = """
[[graders]]
type = "label_model"
name = "kind"
model = "fake:judge"
labels = ["right", "wrong"]
passing_labels = ["right"]
accept_uncalibrated = true
"""


class Judge(FakeEngine):
    """Says what its model reads, and which version of it computes."""

    def __init__(self, version: str) -> None:
        super().__init__(lambda prompt, decoding, adapter: json.dumps({"result": self._grade(prompt)}), name="a-judge")
        self.version = version

    @staticmethod
    def _grade(prompt: Prompt) -> str:
        texts = fenced(prompt)
        return "right" if texts["sample.output_text"] == texts["item.reference"] else "wrong"

    @property
    def setting(self) -> Mapping[str, Any]:
        return {"versions": {"torch": self.version}}

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [[len(message.content) for message in prompt.messages] for prompt in prompts]


def test_a_judge_is_asked_anew_without_the_cache_and_after_an_update(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, 24, rungs='skip = ["classifier", "constrained", "few-shot", "nearest"]\nlearning_curve = []')
    with (folder / "task.toml").open("a", encoding="utf-8") as file:
        file.write(JUDGE)
    kept = folder / "runs" / "judgements.jsonl"

    def judgements(version: str, **options: Any) -> int:
        judge = Judge(version)
        answers = AnswerStore(tmp_path / "answers", PLENTY)
        tools = replace(world.tools, judges={"fake:judge": FreeSpeaking(judge)}, answers=answers)
        finished = climb(folder, tools=tools, fresh=True, **options)
        assert verify(finished.folder).agrees
        assert (f"{len(judge.calls)} judgements" in finished.record.answering[0]) == bool(judge.calls and answers.read_back)
        return len(judge.calls)

    asked = judgements("1")
    assert asked > 0
    assert judgements("1") == 0
    before = kept.read_bytes()
    assert judgements("1", cache=False) == asked
    assert kept.read_bytes() == before
    assert sorted(path.name for path in (folder / "runs").iterdir() if path.is_file()) == ["judgements.jsonl", "judges.json"]
    assert judgements("2") == asked


# A real tiny model, tuned


@dataclass(frozen=True)
class Tuned:
    """A climb with a fine-tune, and the same once more."""

    climbs: tuple[Climb, Climb]
    model: Path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuned]:
    folder = tmp_path_factory.mktemp("repeated")
    model = build_tiny_model(folder / "tiny", hidden=32)
    rungs = 'skip = ["baseline", "classifier", "constrained", "few-shot", "nearest", "lora+nearest", "lora+constrained"]'
    write_task(
        folder / "task", 130, model=f'base = "{model}"', rungs=f"{rungs}\nlearning_curve = []", **{"rungs.lora": "epochs = 1"}
    )
    toml = folder / "task" / "task.toml"
    lines = toml.read_text(encoding="utf-8").splitlines()
    toml.write_text("\n".join(line for line in lines if not line.startswith(("labels", "[output]"))), encoding="utf-8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "ANSWERS"):
            patch.setenv(f"STEPLADDER_{name}", str(folder / name.lower()))
        patch.setenv("STEPLADDER_DTYPE", "float32")
        first, second = (climb(folder / "task", device="cpu", budget_minutes=600, fresh=True) for _ in range(2))
        yield Tuned((first, second), model)
    torch.set_num_threads(threads)


@pytest.mark.starter
def test_a_tuned_climb_once_more_reads_its_answers_back_and_says_what_it_computed_anew(tuned: Tuned) -> None:
    first, second = tuned.climbs
    assert rung_of(first, "lora").status is RungStatus.RAN
    assert " 0 read back" in first.record.answering[0]
    said = second.record.answering[0]
    assert "were read back from earlier climbs; none was asked anew." in said
    assert said.endswith("Computed anew: trainings, general abilities, checks of the data.")
    for one, other in zip(first.rungs, second.rungs, strict=True):
        assert (one.name, one.validation, one.test, one.role) == (other.name, other.validation, other.test, other.role)
        assert other.latency_p50_seconds == pytest.approx(one.latency_p50_seconds, abs=0.05)


@pytest.mark.starter
def test_a_talk_with_a_fine_tune_is_heard_while_it_is_written_beside_its_base(tuned: Tuned) -> None:
    finished = tuned.climbs[0]
    talk = open_chat(finished.folder, rung="lora", device="cpu")
    said = {}
    for voice in talk.voices:
        heard: list[str] = []
        said[voice.name] = voice.answer("A heron by the gate.", heard.append)
        assert len(heard) > 2
        assert "".join(heard) == said[voice.name].text
    lora, base = said["lora"].generation, said["base"].generation
    assert lora is not None
    assert base is not None
    (adapter,) = {hash_file(path) for path in finished.folder.glob("rungs/lora/*/adapter_model.safetensors")} & {
        lora.adapter_sha256
    }
    assert (base.adapter_sha256, adapter) == (None, lora.adapter_sha256)
    assert lora.model_sha256 == base.model_sha256
    assert lora.text != base.text
