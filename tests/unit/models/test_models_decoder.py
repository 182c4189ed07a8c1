"""The written-out decoder against the model's own modules: states of rows that write, begin, leave and share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from small_architectures import ARCHITECTURES, build
from stepladder.models.prefix import row_attention
from stepladder.models.prefix.anatomy import NotRead, read_anatomy
from stepladder.models.prefix.choice import Chooser
from stepladder.models.prefix.decoder import Decoder
from stepladder.models.prefix.elementwise import norm_forward, rotate
from stepladder.models.prefix.lanes import Arrival, Lanes
from stepladder.models.prefix.products import Voice, read_voice, stack
from stepladder.models.prefix.row_attention import Held, Sight, attend_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

BEGINNING = list(range(3, 14))
ROWS = ([20, 21, 22], [30, 31, 32, 33, 34, 35, 36, 37, 38], [40])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def logits_of(model: Any, ids: Sequence[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def assert_next(model: Any, states: Tensor, rows: Sequence[Sequence[int]]) -> None:
    """The states, in order, foretell what the model does after each row."""
    found = Chooser(model).logits(states)
    for own, row in zip(found, rows, strict=True):
        torch.testing.assert_close(own, logits_of(model, row)[-1].to(own.dtype), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copied", [False, True], ids=["shared", "copied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_begin_write_and_leave_give_the_models_own_logits(architecture: str, copied: bool) -> None:
    model = build(architecture)
    decoder = Decoder(model)
    beginning = decoder.share(BEGINNING)
    held = beginning if copied else None
    lanes = Lanes(decoder.anatomy, 4, 40, None if copied else beginning)
    states = decoder.step(lanes, [], [Arrival(row, held=held) for row in ROWS])
    assert_next(model, states, [BEGINNING + row for row in ROWS])
    states = decoder.step(lanes, [50, 51, 52], [Arrival([53, 54], wanted=2, held=held)])
    written = [[*row, token] for row, token in zip(ROWS, [50, 51, 52], strict=True)]
    assert_next(model, states, [BEGINNING + row for row in (*written, [53], [53, 54])])
    lanes.drop(1)
    rows = [written[0], [53, 54], written[2]]
    assert_next(model, decoder.step(lanes, [55, 56, 57]), [[*BEGINNING, *row, 55 + at] for at, row in enumerate(rows)])
    lanes.forget(0, 2)
    rows = [[*ROWS[0], 58], [53, 54, 56, 59], [*written[2], 57, 60]]
    assert_next(model, decoder.step(lanes, [58, 59, 60]), [BEGINNING + row for row in rows])


@pytest.fixture(params=["apart", "copied", "elsewhere"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How shared keys are seen: by themselves, copied for each row, or as on a device without torch's sums."""
    monkeypatch.setattr(row_attention, "FEW_SHARED", 0 if request.param == "apart" else 10_000)
    if request.param == "elsewhere":
        monkeypatch.setattr(row_attention, "SUMMING_DEVICES", set())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_of_a_long_beginning_sees_what_it_should(architecture: str) -> None:
    model = build(architecture)
    decoder = Decoder(model)
    ids = [3 + number % 50 for number in range(60)]
    lanes = Lanes(decoder.anatomy, 2, 80, decoder.share(ids[:33]))
    states = decoder.step(lanes, [], [Arrival(ids[33:], wanted=27), Arrival([5])])
    found = Chooser(model).logits(states)
    torch.testing.assert_close(found[:27], logits_of(model, ids)[33:], rtol=1e-4, atol=1e-4)
    assert_next(model, decoder.step(lanes, [58, 59]), [[*ids, 58], [*ids[:33], 5, 59]])


def test_a_beginning_can_be_cut() -> None:
    model = build("llama")
    decoder = Decoder(model)
    lanes = Lanes(decoder.anatomy, 1, 10, decoder.share(BEGINNING).first(4))
    assert_next(model, decoder.step(lanes, [], [Arrival([20, 21])]), [[*BEGINNING[:4], 20, 21]])


def test_lanes_used_again_hold_nothing_of_before() -> None:
    model = build("qwen2")
    decoder = Decoder(model)
    first = Lanes(decoder.anatomy, 3, 30)
    decoder.step(first, [], [Arrival([9] * 25)] * 3)
    again = Lanes(decoder.anatomy, 2, 20, room=first.room)
    assert again.room is first.room
    assert_next(model, decoder.step(again, [], [Arrival([20]), Arrival([30, 31, 32])]), [[20], [30, 31, 32]])


# Adapters


def adapted(seed: int, targets: Any = "all-linear") -> Any:
    torch.manual_seed(seed)
    config = LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", target_modules=targets, init_lora_weights=False)
    return get_peft_model(build("llama"), config).eval()


def voice_of(wrapped: Any) -> Voice:
    return read_voice(read_anatomy(wrapped.get_base_model()))


def test_an_adapter_speaks_as_peft_lets_it() -> None:
    wrapped = adapted(1)
    voice, decoder = voice_of(wrapped), Decoder(build("llama"))
    lanes = Lanes(decoder.anatomy, 3, 40, decoder.share(BEGINNING, voice), voice)
    assert_next(wrapped, decoder.step(lanes, [], [Arrival(row) for row in ROWS]), [BEGINNING + row for row in ROWS])


def test_rows_of_base_and_adapters_stand_in_one_pass_and_do_not_touch_each_other() -> None:
    base, one, two = build("llama"), adapted(1), adapted(2, ["q_proj", "down_proj", "v_proj"])
    decoder = Decoder(base)
    lanes = Lanes(decoder.anatomy, 4, 40, None, stack([voice_of(one), None, voice_of(two)]), mixed=True)
    speakers = [(one, 0), (base, 1), (two, 2), (base, -1)]
    rows = [*ROWS, [20, 21, 22]]
    states = decoder.step(lanes, [], [Arrival(row, speaker=number) for row, (_, number) in zip(rows, speakers, strict=True)])
    for state, row, (model, _) in zip(states, rows, speakers, strict=True):
        assert_next(model.get_base_model() if model is not base else base, state[None], [row])
    lanes.drop(0)  # the last row takes its lane, with its own speaker
    states = decoder.step(lanes, [50, 51, 52])
    for state, row, (model, _) in zip(
        states, ([20, 21, 22, 50], [*ROWS[1], 51], [*ROWS[2], 52]), (speakers[3], speakers[1], speakers[2]), strict=True
    ):
        assert_next(model.get_base_model() if model is not base else base, state[None], [row])


def test_the_base_among_adapters_is_the_base_to_the_last_bit() -> None:
    decoder = Decoder(build("llama"))
    voice = stack([voice_of(adapted(1)), None])
    plain = decoder.step(Lanes(decoder.anatomy, 1, 20), [], [Arrival([20, 21, 22])])
    mixed = decoder.step(Lanes(decoder.anatomy, 1, 20, None, voice, mixed=True), [], [Arrival([20, 21, 22], speaker=1)])
    assert torch.equal(plain, mixed)


# What cannot be read


@pytest.mark.parametrize(
    ("architecture", "settings", "why"),
    [
        ("olmo2", {}, "Olmo2DecoderLayer"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "rotary embedding is dynamic",
        ),
    ],
)
def test_a_decoder_that_cannot_be_read_is_named(architecture: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(NotRead, match=why):
        Decoder(build(architecture, **settings))


def test_a_model_that_carries_an_adapter_is_not_taken_for_the_base() -> None:
    with pytest.raises(NotRead, match="carries an adapter"):
        Decoder(adapted(1).get_base_model())


# Choosing


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.02, 0.3, 3.0]))
def test_in_16_bits_the_likeliest_token_is_that_of_exact_products(seed: int, masked: bool, spread: float) -> None:
    model = build("llama", torch.bfloat16, vocab_size=2_000)
    draw = torch.Generator().manual_seed(seed)
    states = (torch.randn(7, model.config.hidden_size, generator=draw) * spread).to(torch.bfloat16)
    weight = model.get_output_embeddings().weight.detach()
    exact = states.double() @ weight.double().t()
    allowed = None
    if masked:
        allowed = torch.rand(exact.shape, generator=draw) < 0.003
        allowed[:, 5] = True
        exact.masked_fill_(~allowed, float("-inf"))
    chosen = Chooser(model).likeliest(states, allowed)
    best = exact.gather(1, torch.tensor(chosen)[:, None])[:, 0]
    assert (best >= exact.amax(dim=1) - 1e-5 * exact.amax(dim=1).abs()).all()


def test_of_equal_logits_the_first_token_counts() -> None:
    model = build("llama", torch.bfloat16)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[[50, 9, 33]] = weight.abs().amax(dim=0) * 2
    states = torch.ones((2, model.config.hidden_size), dtype=torch.bfloat16)
    assert Chooser(model).likeliest(states) == [9, 9]


def test_logits_in_16_bits_are_not_rounded_to_them() -> None:
    model = build("llama", torch.bfloat16)
    states = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = states.double() @ model.get_output_embeddings().weight.detach().double().t()
    found = Chooser(model).logits(states)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("count", [1, 5])
def test_attention_in_16_bits_is_as_near_to_the_truth_as_its_inputs_allow(count: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def drawn(*sizes: int, by: float = 1.0) -> Tensor:
        return (torch.randn(*sizes, generator=draw) * by).to(torch.bfloat16)

    queries = drawn(2, count, 6, 64, by=3.0)  # two query heads to a key head
    own = drawn(2, 3, 30, 64, by=3.0), drawn(2, 3, 30, 64)
    shared = drawn(1, 3, 200, 64, by=3.0), drawn(1, 3, 200, 64)
    positions = torch.arange(230 - count, 230)[None]

    def attended(dtype: torch.dtype) -> Tensor:
        sight = Sight(positions, 200, 30, None, dtype)
        held = Held(*(part.to(dtype) for part in own)), Held(*(part.to(dtype) for part in shared))
        return attend_rows(queries.to(dtype), *held, sight, 0.125)

    keys, values = (torch.cat([two.expand(2, -1, -1, -1), one], dim=2).double() for one, two in zip(own, shared, strict=True))
    by_head = queries.double().view(2, count, 3, 2, 64).permute(0, 2, 3, 1, 4)
    scores = by_head @ keys[:, :, None].transpose(-1, -2) * 0.125
    scores = scores.masked_fill(torch.arange(230)[None] > positions[0][:, None], float("-inf"))
    true = (torch.softmax(scores, dim=-1) @ values[:, :, None]).permute(0, 3, 1, 2, 4).reshape(2, count, 6, 64)
    torch.testing.assert_close(attended(torch.float64), true)
    torch.testing.assert_close(attended(torch.float32).double(), true, rtol=1e-4, atol=1e-5)
    error = (attended(torch.bfloat16).double() - true).abs().max()
    assert error < 0.02, error  # a score of 30 rounded to 16 bits alone would be off by 0.06, and its weight by 6 %


def test_hidden_keys_and_windows_are_those_of_a_causal_model() -> None:
    seen = ~row_attention.hidden(torch.tensor([[3, 4]]), torch.arange(6), 3)
    assert seen.int().tolist() == [[[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_and_rotations_in_16_bits_round_as_the_models_own_modules_do(architecture: str) -> None:
    model = build(architecture, torch.bfloat16)
    anatomy = read_anatomy(model)
    draw = torch.Generator().manual_seed(0)
    states = (torch.randn(1, 7, model.config.hidden_size, generator=draw) * 3).to(torch.bfloat16)
    stock, norm = model.base_model.layers[0].input_layernorm, anatomy.layers[0].norm_attention
    with torch.inference_mode():
        assert torch.equal(norm_forward(norm, states[0]), stock(states)[0])
        heads = torch.randn(1, 2, 7, anatomy.head_dim, generator=draw).to(torch.bfloat16)
        angles = anatomy.rotations(torch.arange(7))[anatomy.layers[0].kind]
        half = angles[0].shape[-1] // 2
        cosines, sines = (angle.to(torch.bfloat16) for angle in angles)
        turned, _ = apply_rotary_pos_emb(heads[..., : 2 * half], heads[..., : 2 * half], cosines[None], sines[None])
        expected = torch.cat([turned, heads[..., 2 * half :]], dim=-1)
        assert torch.equal(rotate(heads, cosines[:, :half], sines[:, :half]), expected)
