"""From conversations to an adapter, over a real (tiny) model folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation, Preference, SilentProgress, Tuned, Tuner, Unwatched
from stepladder.domain.task import DpoSettings, LoraSettings
from stepladder.models.conversation import encode_prompt
from stepladder.models.loading import LoadedModel, load, unload_all
from stepladder.training.tuner import LoraTuner
from tiny_model import build_tiny_model
from tiny_training import KilledError, Watcher
from tool_tasks import CALLING_TEMPLATE, CITIES, TOOLS

QUICK = LoraSettings(rank=2, learning_rate=1e-2, epochs=2, batch_size=4)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    folder = build_tiny_model(tmp_path_factory.mktemp("tuner") / "tiny", hidden=32)
    yield load(str(folder), device="cpu", dtype="float32")
    unload_all()


def conversation(number: int, answer: str = "refund") -> Conversation:
    turns = (
        Message("system", "Answer the customer's message with one word."),
        Message("user", f"My order number is {number}, where is it?"),
        Message("assistant", answer, weight=1),
    )
    return Conversation(f"row-{number}", turns)


def test_a_tuner_trains_and_the_engines_way_of_loading_accepts_the_folder(loaded: LoadedModel, tmp_path: Path) -> None:
    tuner: Tuner = LoraTuner(loaded)
    rows, held_out = [conversation(number) for number in range(8)], [conversation(number) for number in range(90, 93)]
    tuned = tuner.tune(rows, held_out, QUICK, folder=tmp_path / "a", seed=0, progress=SilentProgress())
    assert len(tuned.held_out_nll) == 3
    assert tuned.history[-1].loss < tuned.history[0].loss
    assert (tuned.folder / "tokenizer.json").is_file()
    assert (tuned.folder / "chat_template.jinja").is_file()
    with loaded.adapter(tuned.folder) as model:
        assert any("lora_A" in name for name, _ in model.named_parameters())


def test_a_tuner_that_searches_is_watched_too_and_goes_on_from_an_adapter(loaded: LoadedModel, tmp_path: Path) -> None:
    class Leaving(Unwatched):
        def may_go_on(self) -> None:
            raise KeyboardInterrupt

    rows, held_out = [conversation(number) for number in range(4)], [conversation(90)]
    searching = QUICK.model_copy(update={"search_learning_rate": True, "epochs": 1})
    given = {"folder": tmp_path / "a", "seed": 0, "progress": SilentProgress()}
    with pytest.raises(KeyboardInterrupt):
        LoraTuner(loaded).tune(rows, held_out, searching, watch=Leaving(), **given)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="there is no adapter to go on from"):
        LoraTuner(loaded).tune(rows, held_out, searching, start=tmp_path / "nowhere", **given)  # type: ignore[arg-type]


def test_exactly_the_answer_and_its_end_of_turn_are_learned(loaded: LoadedModel) -> None:
    row = LoraTuner(loaded).encode(conversation(7))
    learned = [row.token_ids[place] for place in row.labelled]
    assert loaded.tokenizer.decode(learned, keep_control_tokens=True) == "refund<|im_end|>"
    assert learned[-1] in loaded.stop_ids


def test_the_masks_are_shown_with_their_control_tokens(loaded: LoadedModel, tmp_path: Path) -> None:
    class Notes(SilentProgress):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    progress = Notes()
    LoraTuner(loaded).tune([conversation(1), conversation(2)], [], QUICK, folder=tmp_path / "a", seed=0, progress=progress)
    example = next(note for note in progress.notes if note.startswith("Training row 1"))
    assert "<|im_start|>assistant\n⟦refund<|im_end|>⟧" in example


def test_a_row_without_a_learned_turn_is_named(loaded: LoadedModel, tmp_path: Path) -> None:
    silent = Conversation("silent", (Message("user", "Hello"), Message("assistant", "Hi", weight=0)))
    with pytest.raises(ModelError, match="silent"):
        LoraTuner(loaded).tune([silent], [], QUICK, folder=tmp_path / "a", seed=0, progress=SilentProgress())


def test_a_row_over_the_allowed_length_is_named(loaded: LoadedModel, tmp_path: Path) -> None:
    wanted = QUICK.model_copy(update={"max_tokens": 60})
    rows = [conversation(1), conversation(2, answer="refund " * 60)]
    with pytest.raises(ModelError, match="row-2 has .* tokens, more than 60"):
        LoraTuner(loaded).tune(rows, [], wanted, folder=tmp_path / "a", seed=0, progress=SilentProgress())


def test_preferences_are_learned_from_conversations_and_the_engines_way_of_loading_accepts_the_folder(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    tuner: Tuner = LoraTuner(loaded)
    silent = SilentProgress()
    sft = tuner.tune([conversation(number) for number in range(6)], [], QUICK, folder=tmp_path / "sft", seed=0, progress=silent)
    pairs = [Preference(conversation(number), conversation(number, "delivery")) for number in range(8)]
    wanted = DpoSettings(learning_rate=5e-3, epochs=3, batch_size=4)
    options = {"start": sft.folder, "folder": tmp_path / "dpo", "seed": 0, "progress": silent}
    tuned = tuner.prefer(pairs[:6], pairs[6:], wanted, **options)  # type: ignore[arg-type]
    assert len(tuned.held_out_nll) == 2
    assert tuned.history[-1].loss < tuned.history[0].loss == pytest.approx(math.log(2), abs=1e-6)
    with loaded.adapter(tuned.folder) as model:
        assert any("lora_A" in name for name, _ in model.named_parameters())


def test_a_base_in_4_bits_is_tuned_left_as_it_was_and_answers_with_its_adapter(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny", hidden=64)
    four_bit = load(str(folder), device="cpu", dtype="float32", four_bit=True)
    tokens = torch.tensor([[1, 20, 21]])
    with torch.no_grad():
        before = four_bit.model(input_ids=tokens).logits
    rows, held_out = [conversation(number) for number in range(8)], [conversation(number) for number in range(90, 93)]
    tuned = LoraTuner(four_bit).tune(rows, held_out, QUICK, folder=tmp_path / "a", seed=0, progress=SilentProgress())
    assert tuned.history[-1].loss < tuned.history[0].loss
    with torch.no_grad():
        assert torch.equal(four_bit.model(input_ids=tokens).logits, before)
        with four_bit.adapter(tuned.folder) as model:
            assert not torch.equal(model(input_ids=tokens).logits, before)
    plain = load(str(folder), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="trained on another base weights"), plain.adapter(tuned.folder):
        pass


def test_a_training_over_4_bits_ends_with_the_same_bits_whatever_was_answered_before(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny", hidden=64)
    hashes = []
    for number in range(2):
        unload_all()
        four_bit = load(str(folder), device="cpu", dtype="float32", four_bit=True)
        if number:
            with torch.no_grad():
                four_bit.model(input_ids=torch.tensor([[1, 20, 21]]))
        rows = [conversation(number) for number in range(8)]
        tuned = LoraTuner(four_bit).tune(rows, [], QUICK, folder=tmp_path / f"{number}", seed=0, progress=SilentProgress())
        hashes.append(tuned.adapter_sha256)
    assert hashes[0] == hashes[1]


def test_a_training_over_4_bits_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "tiny", hidden=64)
    rows, held_out = [conversation(number) for number in range(8)], [conversation(number) for number in range(90, 93)]

    def tuned_at(name: str, watcher: Watcher) -> Tuned:
        unload_all()  # as in another process: the weights are read and rounded to 4 bits anew
        tuner = LoraTuner(load(str(folder), device="cpu", dtype="float32", four_bit=True), save_every_seconds=0.0)
        return tuner.tune(rows, held_out, QUICK, folder=tmp_path / name, seed=0, progress=watcher)

    whole = tuned_at("whole", Watcher())
    for at in range(1, whole.steps + 1):
        with pytest.raises(KilledError):
            tuned_at(f"killed-{at}", Watcher(at))
        tuned = tuned_at(f"killed-{at}", watcher := Watcher())
        assert (f"Continuing the training behind step {at - 1}." in watcher.notes) == (at > 1)
        assert (tuned.adapter_sha256, tuned.history) == (whole.adapter_sha256, whole.history)


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = build_tiny_model(tmp_path_factory.mktemp("calling") / "tiny", hidden=32, template=CALLING_TEMPLATE)
    return load(str(folder), device="cpu", dtype="float32")


def talk(number: int) -> Conversation:
    """Two answers of which only the second is learned: a call. The first would be a wrong thing to learn."""
    call = ToolCall(f"call-{number}", "get_weather", f'{{"city": "{CITIES[number % 12]}", "day": "Monday"}}')
    turns = (
        Message("user", f"What is my order {number}?"),
        Message("assistant", "I do not care.", weight=0),
        Message("user", f"And the weather in {CITIES[number % 12]} on Monday?"),
        Message("assistant", "", tool_calls=(call,), weight=1),
    )
    return Conversation(f"talk-{number}", turns, TOOLS)


def test_turns_of_weight_0_are_shown_and_not_learned_and_calls_are_learned_as_the_template_writes_them(
    calling: LoadedModel,
) -> None:
    row = LoraTuner(calling).encode(talk(3))
    whole = calling.tokenizer.decode(row.token_ids, keep_control_tokens=True)
    learned = calling.tokenizer.decode([row.token_ids[place] for place in row.labelled], keep_control_tokens=True)
    assert "I do not care." in whole
    assert "set_alarm" in whole
    assert learned.strip() == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Steyr", "day": "Monday"}}\n</tool_call><|im_end|>'
    )
    assert {row.weights[place] for place in row.labelled} == {1.0}


def test_a_weight_on_prompts_leaves_out_answers_that_are_not_to_be_learned(calling: LoadedModel) -> None:
    row = LoraTuner(calling).encode(talk(3)).with_prompt_weight(0.5)

    def text(weight: float) -> str:
        tokens = [token for token, own in zip(row.token_ids[1:], row.weights[1:], strict=True) if own == weight]
        return calling.tokenizer.decode(tokens, keep_control_tokens=True)

    assert text(0.0).strip() == "I do not care.<|im_end|>"
    assert text(1.0).strip().startswith("<tool_call>")
    assert "What is my order 3?<|im_end|>\n<|im_start|>assistant" in text(0.5)
    assert "And the weather in Steyr on Monday?" in text(0.5)


def test_the_loss_of_a_training_counts_exactly_the_turns_of_weight_1(calling: LoadedModel, tmp_path: Path) -> None:
    """From conversations through the tuner to the first step's loss, against the stock model on hand-made labels."""
    talks = [talk(number) for number in range(4)]
    tuner = LoraTuner(calling)
    losses: list[float] = []
    for one in talks:
        token_ids = tuner.encode(one).token_ids
        asked = len(encode_prompt(calling.template, calling.tokenizer, one.messages[:-1], one.tools))
        end = max(place for place, token in enumerate(token_ids) if token in calling.stop_ids)
        tokens = torch.tensor([token_ids])
        with torch.no_grad():
            logits = calling.model(input_ids=tokens).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")[asked - 1 : end].tolist()
    wanted = QUICK.model_copy(update={"epochs": 1})
    tuned = tuner.tune(talks, [], wanted, folder=tmp_path / "a", seed=0, progress=SilentProgress())
    assert tuned.history[0].loss == pytest.approx(fmean(losses), rel=1e-4)


def test_a_template_that_drops_tools_is_refused_by_the_row_it_fails_on(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="talk-1"):
        LoraTuner(loaded).tune([talk(1)], [], QUICK, folder=tmp_path / "a", seed=0, progress=SilentProgress())
