"""The faults that spoil fine-tunes elsewhere, planted one by one: each is found and named, before, during or after a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepladder.domain.errors import ModelError, RunError
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation, SilentProgress
from stepladder.domain.task import LoraSettings
from stepladder.models.loading import load, unload_all
from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import adapted, adapter_files, adapter_tensors
from stepladder.training.loop import build_optimizer, train
from stepladder.training.presets import TrainSettings
from stepladder.training.proof import check_saved, measure_stopping, probe_logits, up_to_its_end
from stepladder.training.tuner import LoraTuner
from stepladder.training.verify import choose_path
from tiny_model import CHATML, build_tiny_model
from tiny_training import IDENTITY, QUICK, KilledError, Watcher, build_base, build_llama, build_rows, tune
from tool_tasks import CALLING_TEMPLATE, TOOLS

TOOL = {"type": "function", "function": {"name": "find_order", "parameters": {"type": "object", "properties": {}}}}


def row(
    prompt: Sequence[int], answer: Sequence[int], id: str = "planted", *, learned: Sequence[float] | None = None
) -> EncodedRow:
    return EncodedRow(id, (*prompt, *answer), (*(0.0,) * len(prompt), *(learned or (1.0,) * len(answer))))


def refused(rows: list[EncodedRow], said: str, tmp_path: Path, **changes: Any) -> None:
    """The training does not begin, says why, and leaves nothing."""
    with pytest.raises(ModelError, match=said):
        tune(build_base(), tmp_path / "a", rows=rows, **changes)
    assert list(tmp_path.iterdir()) == []


def encode(tmp_path: Path, template: str, conversation: Conversation) -> EncodedRow:
    """A conversation as a tuner over a model with this chat template sees it."""
    try:
        folder = build_tiny_model(tmp_path / "model", hidden=32, template=template)
        return LoraTuner(load(str(folder), device="cpu", dtype="float32")).encode(conversation)
    finally:
        unload_all()


def conversation(*turns: Message, **keywords: Any) -> Conversation:
    return Conversation("planted", (*turns, Message("user", "Where is it?"), Message("assistant", "refund")), **keywords)


# Ends of turns (5.2)


def test_ends_of_turns__one_that_is_masked_like_padding_is_refused(tmp_path: Path) -> None:
    masked = row((20, 21, 22), (7, 8, 2), learned=(1.0, 1.0, 0.0))
    refused([*build_rows(4), masked], "training row planted never learns to stop", tmp_path)


def test_ends_of_turns__a_missing_one_in_an_earlier_turn_is_refused(tmp_path: Path) -> None:
    two_turns = EncodedRow("planted", (20, 21, 7, 22, 23, 8, 2), (0, 0, 1, 0, 0, 1, 1))
    refused([*build_rows(4), two_turns], "training row planted never learns to stop", tmp_path)


def test_ends_of_turns__a_doubled_one_is_refused(tmp_path: Path) -> None:
    refused([*build_rows(4), row((20, 21, 22), (7, 2, 2))], "row planted learns two end-of-turn tokens in a row", tmp_path)


def test_ends_of_turns__the_pad_token_being_the_same_masks_none_of_them(tmp_path: Path) -> None:
    encoded = encode(tmp_path, CHATML, conversation(Message("user", "Hi"), Message("assistant", "Hello")))
    learned = [encoded.token_ids[place] for place in encoded.labelled]
    assert learned.count(2) == 2  # <|im_end|> is eos and pad of the tiny model, and ends both answers


def test_ends_of_turns__a_tuned_model_that_does_not_stop_is_told_after_the_training(tmp_path: Path) -> None:
    watcher = Watcher()
    wanted = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    tuned = tune(build_base(), tmp_path / "a", wanted=wanted, progress=watcher)
    assert any(
        note.startswith("The tuned model is sure to end its turn on 0% of 5 held-out rows, the untuned one on 0%: its answers")
        for note in watcher.notes
    )
    assert "| ends its turn | on 0% of 5 held-out rows; untuned 0% (" in (tuned.folder / "README.md").read_text()


def test_ends_of_turns__a_model_that_learned_to_stop_raises_no_alarm(tmp_path: Path) -> None:
    watcher = Watcher()
    wanted = LoraSettings(rank=8, learning_rate=2e-2, epochs=30, batch_size=5)
    tuned = tune(build_base(), tmp_path / "a", wanted=wanted, held_out=[], progress=watcher)
    assert not any("end its turn" in note for note in watcher.notes)
    assert "| ends its turn | on 100% of 10 training rows (" in (tuned.folder / "README.md").read_text()


def test_ends_of_turns__what_is_measured_is_the_probability_where_the_answer_ends() -> None:
    model, rows = build_llama(), build_rows(3)
    found = measure_stopping(FusedPath(model), rows, [], stop_ids={2}, tokens_per_pass=500)
    assert found is not None
    chances = [
        model(input_ids=torch.tensor([row.token_ids[:-1]])).logits[0, -1].softmax(-1)[2].item() for row in rows
    ]  # each row ends with its end of turn
    assert found.probability == pytest.approx(sum(chances) / 3, rel=1e-4)
    assert (found.part, found.rows, found.share) == ("training", 3, sum(chance > 0.5 for chance in chances) / 3)
    assert measure_stopping(FusedPath(model), rows, [], stop_ids=set(), tokens_per_pass=500) is None
    ending = up_to_its_end(EncodedRow("r", (20, 7, 2, 21, 8, 2, 30), (0, 1, 1, 0, 1, 1, 0)), {2})
    assert ending == EncodedRow("r", (20, 7, 2, 21, 8, 2), (0, 0, 0, 0, 0, 1))


# Doubled first tokens (5.3)


def test_a_doubled_first_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="begins with its first token twice"):
        encode(tmp_path, "<|im_start|>" + CHATML, conversation())


# Masks (5.4)


def test_masks__a_row_with_nothing_to_learn_is_named(tmp_path: Path) -> None:
    refused([*build_rows(4), row((20, 21), (7, 2), learned=(0.0, 0.0))], "row planted has nothing to learn", tmp_path)


def test_masks__prompts_that_would_all_be_learned_are_refused(tmp_path: Path) -> None:
    everything = [replace(row, weights=(0.0, *(1.0,) * (len(row) - 1))) for row in build_rows(4)]
    refused(everything, "every token of all 4 training rows would be learned, the prompts included", tmp_path)


def test_masks__what_is_learned_reads_as_the_answer_and_nothing_else(tmp_path: Path) -> None:
    try:
        loaded = load(str(build_tiny_model(tmp_path / "model", hidden=32)), device="cpu", dtype="float32")
        encoded = LoraTuner(loaded).encode(conversation(Message("user", "Hi"), Message("assistant", "Hello", weight=0)))
        learned = loaded.tokenizer.decode([encoded.token_ids[place] for place in encoded.labelled], keep_control_tokens=True)
        assert learned == "refund<|im_end|>"
    finally:
        unload_all()


# Silent cuts (5.5)


def test_cuts__a_row_beyond_the_models_context_is_refused_not_cut(tmp_path: Path) -> None:
    long = row((20,) * 90, (7,) * 10 + (2,))
    refused([*build_rows(4), long], "row planted has 101 tokens, more than 96", tmp_path)


def test_cuts__a_row_beyond_the_users_own_limit_is_refused_not_cut(tmp_path: Path) -> None:
    wanted = QUICK.model_copy(update={"max_tokens": 17})
    refused([row((20, 21), (7, 2), "fits"), row((20,) * 16, (7, 2))], "row planted has 18 tokens", tmp_path, wanted=wanted)


def test_cuts__every_token_of_every_row_is_trained_on(tmp_path: Path) -> None:
    tuned = tune(build_base(), tmp_path / "a", held_out=[])
    assert tuned.tokens == QUICK.epochs * sum(map(len, build_rows(10)))  # type: ignore[operator]


# Dropped content (5.6)


def test_dropped_content__tools_that_the_template_leaves_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Row 'planted': The chat template of .* drops the tools on offer"):
        encode(tmp_path, CHATML, conversation(tools=(TOOL,)))


@pytest.mark.parametrize("role", ["system", "user"])
def test_dropped_content__a_turn_that_the_template_leaves_out_is_refused(tmp_path: Path, role: str) -> None:
    careless = CHATML.replace(
        "{{ '<|im_start|>' + message['role']", "{{ '' if message['content'] == 'Be brief.' else '<|im_start|>' + message['role']"
    )
    turns = [Message(role, "Be brief.")] + ([] if role == "system" else [Message("assistant", "Yes.")])
    with pytest.raises(ModelError, match=rf"Row 'planted': .*template of .* drops words of turn 1 \({role}\)"):
        encode(tmp_path, careless, conversation(*turns))


@pytest.mark.parametrize(
    ("right", "wrong", "dropped"),
    [
        ("message.role == 'tool'", "message.role == 'nobody'", r"words of turn 3 \(tool\)"),
        ("message.tool_calls or []", "(message.tool_calls or [])[:1]", "'get_weather' of tool call 2 in turn 2"),
        ("(call.function.arguments | tojson)", "'{'", "tool calls"),
    ],
    ids=["results", "further calls", "arguments"],
)
def test_dropped_content__what_the_template_leaves_out_of_calls_and_results_is_refused(
    tmp_path: Path, right: str, wrong: str, dropped: str
) -> None:
    calls = tuple(ToolCall(f"call{city}", "get_weather", json.dumps({"city": city})) for city in ("Graz", "Linz"))
    turns = (
        Message("user", "Is it warmer in Graz or in Linz?"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "17 degrees", tool_call_id="callGraz"),
        Message("tool", "19 degrees", tool_call_id="callLinz"),
        Message("assistant", "In Linz."),
    )
    assert CALLING_TEMPLATE.count(right) == 1
    with pytest.raises(ModelError, match=f"Row 'planted': .*template of .* drops {dropped}"):
        encode(tmp_path, CALLING_TEMPLATE.replace(right, wrong), conversation(*turns, tools=TOOLS))
    encode(tmp_path / "right", CALLING_TEMPLATE, conversation(*turns, tools=TOOLS))


def test_dropped_content__an_answer_that_the_template_changes_is_refused(tmp_path: Path) -> None:
    loud = CHATML.replace("message['content'] +", "(message['content'] | upper if loop.index == 2 else message['content']) +")
    with pytest.raises(ModelError, match="Row 'planted': .*changes the assistant's words"):
        encode(tmp_path, loud, conversation())


# Inert and partial adapters (5.7)


@pytest.mark.parametrize(("matrix", "step", "which"), [("lora_B", 1, "first"), ("lora_A", 2, "second")])
def test_inert_adapters__a_matrix_without_gradient_is_named_after_its_step(
    quick_settings: TrainSettings, matrix: str, step: int, which: str
) -> None:
    class Spoilt(FusedPath):
        def backward_loss(self, rows: Sequence[EncodedRow], **options: Any) -> float:
            loss = super().backward_loss(rows, **options)
            planted.grad.zero_()
            return loss

    with adapted(build_llama(), quick_settings) as wrapped:
        name = f"layers.1.mlp.up_proj.{matrix}"
        planted: Any = next(value for full, value in wrapped.named_parameters() if name in full)
        base = wrapped.get_base_model()
        events = train(base, build_optimizer(wrapped, quick_settings), build_rows(8), [], quick_settings, path=Spoilt(base))
        for _ in range(step - 1):
            next(events)
        with pytest.raises(
            ModelError, match=rf"after the {which} step .* no gradient at .*layers.1.mlp.up_proj \(matrix {matrix[-1]}"
        ):
            next(events)


def saved_adapter(model: Any, settings: TrainSettings, folder: Path) -> tuple[list[torch.Tensor], bytes]:
    """Leave an adapter that changes something in `folder`; its logits on three rows, and its weights as they were written."""
    with adapted(model, settings) as wrapped:
        with torch.no_grad():
            for value in adapter_tensors(wrapped).values():
                value.fill_(0.05)
        written = adapter_files(wrapped, "tiny")
        for name, content in written.items():
            (folder / name).write_bytes(content)
        return probe_logits(wrapped.get_base_model(), build_rows(3)), written["adapter_model.safetensors"]


def test_inert_adapters__a_whole_one_passes(quick_settings: TrainSettings, tmp_path: Path) -> None:
    model = build_llama()
    trained = saved_adapter(model, quick_settings, tmp_path)
    difference, allowed, change = check_saved(model, tmp_path, build_rows(3), *trained)
    assert difference == 0
    assert allowed < change


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("harm", ["a tensor is missing", "a tensor is another", "a number is none", "a name is another"])
def test_inert_adapters__one_that_reloads_in_part_is_refused(
    quick_settings: TrainSettings, tmp_path: Path, harm: str, dtype: torch.dtype
) -> None:
    model = build_llama().to(dtype)
    trained = saved_adapter(model, quick_settings, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    if harm == "a tensor is missing":
        del weights[name]
    elif harm == "a name is another":
        weights[name.replace("layers.0", "layers.7")] = weights.pop(name)
    else:
        weights[name] = weights[name] * (1.0001 if harm == "a tensor is another" else float("nan"))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=r"the saved adapter is not the trained one: plain PEFT reads [12] of its tensors.*lora_B"
    ):
        check_saved(model, tmp_path, build_rows(3), *trained)


def test_inert_adapters__one_that_is_read_whole_but_used_otherwise_is_refused(
    quick_settings: TrainSettings, tmp_path: Path
) -> None:
    model = build_llama()
    trained = saved_adapter(model, quick_settings, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": 4 * config["lora_alpha"]}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match="the saved adapter is not the trained one: in plain PEFT its logits differ by"):
        check_saved(model, tmp_path, build_rows(3), *trained)


def test_inert_adapters__one_that_changes_nothing_is_refused(quick_settings: TrainSettings, tmp_path: Path) -> None:
    model, rows = build_llama(), build_rows(3)
    with adapted(model, quick_settings) as wrapped:  # every B is still zero
        written = adapter_files(wrapped, "tiny")
        for name, content in written.items():
            (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"the adapter changes nothing.*Raise \[rungs.lora\] learning_rate or epochs"):
        check_saved(model, tmp_path, rows, probe_logits(model, rows), written["adapter_model.safetensors"])


def test_inert_adapters__a_training_whose_rate_moves_nothing_ends_in_an_error_and_leaves_no_adapter(tmp_path: Path) -> None:
    wanted = QUICK.model_copy(update={"learning_rate": 1e-25})
    with pytest.raises(ModelError, match="the adapter changes nothing"):
        tune(build_base(), tmp_path / "a", wanted=wanted)
    assert not (tmp_path / "a").exists()


def test_inert_adapters__logits_are_the_models_own_whether_or_not_it_can_leave_some_out() -> None:
    model, rows = build_llama(), build_rows(2)
    stock = model.forward

    def whole(input_ids: torch.Tensor, use_cache: bool) -> Any:
        return stock(input_ids=input_ids, use_cache=use_cache)

    some = probe_logits(model, rows)
    model.forward = whole
    for one, other, known in zip(some, probe_logits(model, rows), rows, strict=True):
        assert one.shape == (len(known.labelled), 61)
        torch.testing.assert_close(one, other)


def test_inert_adapters__the_card_says_what_was_measured(tmp_path: Path) -> None:
    card = (tune(build_base(), tmp_path / "a").folder / "README.md").read_text()
    assert "| saved adapter in plain PEFT | logits differ by at most 0 from those in training |" in card
    assert "| change of the base | logits move by up to " in card


# Rates, sums and divergence (5.9)


def poisoned(model: Any, token: int) -> Any:
    """The model with an endless embedding of one token; its head, which shares the weights, stays as it is."""

    def poison(module: Any, given: tuple[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
        return torch.where((given[0] == token)[..., None], torch.inf, embedded)

    model.get_input_embeddings().register_forward_hook(poison)
    return model


def test_divergence__a_loss_that_is_no_number_names_the_row_it_comes_from(quick_settings: TrainSettings) -> None:
    poison = next(token for token in range(3, 61) if not any(token in row.token_ids for row in build_rows(3)))
    rows = [*build_rows(3), row((*range(20, 29), poison), (7, 2))]
    with adapted(poisoned(build_llama(), poison), quick_settings) as wrapped:
        base = wrapped.get_base_model()
        events = train(base, build_optimizer(wrapped, quick_settings), rows, [], quick_settings, path=FusedPath(base))
        with pytest.raises(
            ModelError, match=r"broke at step 1: the loss is nan .*\(row planted\)\. Lower .* or look at this row\."
        ):
            next(events)


@pytest.mark.parametrize("others", [0, 3])
def test_divergence__a_held_out_row_without_a_loss_is_named(tmp_path: Path, others: int) -> None:
    poison = next(token for token in range(3, 61) if not any(token in row.token_ids for row in build_rows(10)))
    base = replace(build_base(), model=poisoned(build_llama(), poison))
    held_out = [*build_rows(others), row((*range(20, 29), poison), (7, 2))]
    with pytest.raises(
        ModelError, match=r"broke at step 3: the loss of held-out row planted is not a number.*look at this row\."
    ):
        tune(base, tmp_path / "a", held_out=held_out)
    assert not (tmp_path / "a").exists()


def test_divergence__a_rate_far_too_high_is_an_error_that_names_a_row(tmp_path: Path) -> None:
    model, rows = build_llama(), []
    for known in build_rows(8):  # what the model says anyway, so that the loss begins low
        prompt = known.token_ids[: known.labelled[0]]
        told = int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())
        rows.append(row(prompt, (told,), known.id))
    wanted = LoraSettings(rank=8, learning_rate=3.0, epochs=40, batch_size=4)
    said = r"training diverges: at step 6 .* is 3.* without training it is 1.* \(worst now: row row-\d\)\. Lower \[rungs.lora\] l"
    with pytest.raises(ModelError, match=said):
        tune(replace(build_base(), model=model, stop_ids=()), tmp_path / "a", rows=rows, held_out=[], wanted=wanted)
    assert not (tmp_path / "a").exists()


def test_divergence__four_passes_of_a_step_count_as_one(quick_settings: TrainSettings) -> None:
    gradients = []
    for tokens_per_pass in (1, 10_000):
        with adapted(build_llama(), quick_settings) as wrapped:
            path = FusedPath(wrapped.get_base_model())
            loss = path.backward_loss(build_rows(4), tokens_per_pass=tokens_per_pass)
            flat = torch.cat([value.grad.flatten() for value in adapter_tensors(wrapped).values() if value.grad is not None])
            gradients.append((loss, flat))
    (one, left), (other, right) = gradients
    assert one == pytest.approx(other, rel=1e-5)
    assert torch.linalg.norm(left - right) <= 1e-4 * torch.linalg.norm(right)


# Resumes (5.13)


def test_resumes__rates_order_moments_and_tensors_are_those_of_the_uninterrupted_training(tmp_path: Path) -> None:
    whole = tune(build_base(), tmp_path / "whole")
    with pytest.raises(KilledError):
        tune(build_base(), tmp_path / "a", progress=Watcher(8))
    resumed = tune(build_base(), tmp_path / "a", progress=(watcher := Watcher()))
    assert "Continuing the training behind step 6." in watcher.notes
    assert [(point.step, point.learning_rate, point.loss) for point in resumed.history] == [
        (point.step, point.learning_rate, point.loss) for point in whole.history
    ]
    assert resumed.adapter_sha256 == whole.adapter_sha256


def test_resumes__a_finished_training_is_not_taken_for_one_to_go_on_with(tmp_path: Path) -> None:
    first = tune(build_base(), tmp_path / "a")
    assert tune(build_base(), tmp_path / "a", progress=(watcher := Watcher())) == first
    assert watcher.details == []


# Packed rows, drifted bases (5.15)


def test_packing__a_rows_loss_does_not_depend_on_the_rows_beside_it(quick_settings: TrainSettings) -> None:
    rows = build_rows(4)
    with adapted(build_llama(), quick_settings) as wrapped:
        with torch.no_grad():
            for value in adapter_tensors(wrapped).values():
                value.fill_(0.05)
        path = FusedPath(wrapped.get_base_model())
        alone = [path.row_nll([row], tokens_per_pass=500)[0] for row in rows]
        assert path.row_nll(rows, tokens_per_pass=500) == pytest.approx(alone, rel=1e-5)


def test_packing__a_way_through_the_model_that_gives_another_loss_is_not_taken() -> None:
    model = build_llama()
    attention = model.model.layers[0].self_attn
    stock = attention.forward

    def louder(*arguments: Any, **keywords: Any) -> Any:
        states, *rest = stock(*arguments, **keywords)
        return (3 * states, *rest)

    attention.forward = louder  # what the written-out passes do not know of
    notes: list[str] = []
    assert choose_path(model, build_rows(4), notes.append).name == "stock, shared prefix"
    assert "a trial on two rows gave another loss" in notes[0]


def test_drift__a_base_that_changed_under_its_adapter_is_refused(tmp_path: Path) -> None:
    tune(build_base(), tmp_path / "a")
    drifted = replace(build_base(), identity=replace(IDENTITY, base_sha256="ee" * 32))
    with pytest.raises(RunError, match="base_sha256 aaaaaaaaaaaa… -> eeeeeeeeeeee…"):
        tune(drifted, tmp_path / "a")


def test_drift__a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model", hidden=32)
    other = build_tiny_model(tmp_path / "other", hidden=32, vocab=300)
    (other / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    try:
        with pytest.raises(ModelError, match="the tokenizer knows .* tokens, the model only"):
            load(str(other), device="cpu", dtype="float32")
    finally:
        unload_all()


def test_nothing_of_this_is_said_of_a_healthy_training(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model", hidden=32)
    try:
        tuner = LoraTuner(load(str(folder), device="cpu", dtype="float32"))
        rows = [replace(conversation(Message("system", f"Case {number}.")), id=f"row-{number}") for number in range(8)]
        wanted = LoraSettings(rank=4, learning_rate=1e-2, epochs=3, batch_size=4)
        tuned = tuner.tune(rows, rows[:3], wanted, folder=tmp_path / "a", seed=0, progress=SilentProgress())
        assert tuned.history[-1].loss < tuned.history[0].loss
    finally:
        unload_all()
