"""The shared prefix against the plain forward of the same model, in fp64."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from stepladder.models.prefix.forward import Prefix, backward_loss, row_nll, shared_forward, supports_sharing
from stepladder.models.prefix.rows import EncodedRow, common_prefix_length, group_by_length

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWS = ["sliding_attention", "full_attention"] * 2
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 6, "layer_types": WINDOWS, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 6, "layer_types": WINDOWS, "query_pre_attn_scalar": 8},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "smollm3": {},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_config(name: str) -> PreTrainedConfig:
    if name == "gpt2":
        return CONFIG_MAPPING["gpt2"](vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=128)
    return CONFIG_MAPPING[name](**{**SIZES, **ARCHITECTURES[name]})


def build_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float64, attention: str | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()


def build_rows(shared: int, own: Sequence[int], seed: int = 0) -> list[EncodedRow]:
    """Rows of `shared` equal tokens and their own; about the last half of the own ones is learned, some with half weight."""
    draw = random.Random(seed)
    prefix = tuple(draw.randrange(3, VOCAB) for _ in range(shared))
    rows = []
    for number, length in enumerate(own):
        tokens = (number + 3, *(draw.randrange(3, VOCAB) for _ in range(length - 1)))
        learned = max(1, length // 2)
        weights = (0.0,) * (shared + length - learned) + tuple(draw.choice([0.5, 1.0]) for _ in range(learned))
        rows.append(EncodedRow(f"row-{number}", prefix + tokens, weights))
    return rows


def plain_loss(model: torch.nn.Module, rows: Sequence[EncodedRow]) -> torch.Tensor:
    """The same loss the long way: every row alone, through the stock model's own head."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logits = model(input_ids=torch.tensor([row.token_ids])).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row.token_ids[1:]), reduction="none")
        total = total + (nll * torch.tensor(row.weights[1:], dtype=logits.dtype)).sum()
    return total / sum(row.weight for row in rows)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_equal_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert left.keys() == right.keys()
    for name, grad in left.items():
        scale = max(grad.norm().item(), 1e-9)
        assert (grad - right[name]).norm().item() <= tolerance * scale, name


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gpt2"])
def test_a_shared_prefix_gives_the_plain_loss_and_gradients_in_fp64(name: str) -> None:
    model = build_model(build_config(name))
    rows = build_rows(shared=11, own=[9, 4, 6, 2, 12])
    assert supports_sharing(model) is None
    assert common_prefix_length(rows) == 11

    expected = plain_loss(model, rows)
    expected.backward()
    plain = gradients(model)
    loss = backward_loss(model, rows, share=True, tokens_per_pass=24)

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert_equal_gradients(plain, gradients(model))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tokens_per_pass", [1, 17, 10_000])
def test_the_number_of_passes_changes_nothing(attention: str, tokens_per_pass: int) -> None:
    model = build_model(build_config("llama"), attention=attention)
    rows = build_rows(shared=8, own=[9, 4, 6, 2])
    reference = backward_loss(model, rows, share=False, tokens_per_pass=10_000)
    plain = gradients(model)
    assert backward_loss(model, rows, share=True, tokens_per_pass=tokens_per_pass) == pytest.approx(reference, rel=1e-6)
    assert_equal_gradients(plain, gradients(model))


def test_rows_that_differ_only_in_their_labels_still_learn_from_their_own_positions() -> None:
    model = build_model(build_config("llama"))
    prompt = (5, 6, 7, 8)
    rows = [EncodedRow(f"{label}", (*prompt, label, 2), (0.0,) * 4 + (1.0, 1.0)) for label in (9, 10, 11)]
    assert common_prefix_length(rows) == 3  # the last prompt token predicts the label, so every row keeps it
    expected = plain_loss(model, rows)
    expected.backward()
    plain = gradients(model)
    assert backward_loss(model, rows, share=True, tokens_per_pass=100) == pytest.approx(expected.item(), rel=1e-6)
    assert_equal_gradients(plain, gradients(model))


def test_equal_rows_and_rows_with_labels_inside_the_common_tokens_are_exact() -> None:
    model = build_model(build_config("llama"))
    weights = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0)
    rows = [EncodedRow("a", (3, 4, 5, 6, 7, 8, 9, 2), weights), EncodedRow("b", (3, 4, 5, 6, 7, 8, 9, 2), weights)]
    assert common_prefix_length(rows) == 2
    expected = plain_loss(model, rows)
    assert backward_loss(model, rows, share=True, tokens_per_pass=100) == pytest.approx(expected.item(), rel=1e-6)


def test_held_out_nll_is_a_mean_per_learned_token_of_each_row_in_order() -> None:
    model = build_model(build_config("llama"))
    rows = build_rows(shared=6, own=[3, 9, 5])
    expected = [plain_loss(model, [row]).item() for row in rows]
    assert row_nll(model, rows, share=True, tokens_per_pass=20) == pytest.approx(expected, rel=1e-6)
    assert row_nll(model, rows, share=False, tokens_per_pass=20) == pytest.approx(expected, rel=1e-6)


def test_only_the_labelled_positions_reach_the_head() -> None:
    model = build_model(build_config("llama"))
    rows = build_rows(shared=6, own=[3, 9, 5])
    states = shared_forward(model, rows, Prefix(model, rows[0].token_ids[:6]))
    assert states.states.shape == (sum(len(row.labelled) for row in rows), SIZES["hidden_size"])
    assert states.labels.tolist() == [row.token_ids[place] for row in rows for place in row.labelled]
    assert states.rows.tolist() == [number for number, row in enumerate(rows) for _ in row.labelled]


def test_a_fork_leaves_the_prefix_untouched() -> None:
    model = build_model(build_config("mistral"))
    rows = build_rows(shared=12, own=[5, 5])
    prefix = Prefix(model, rows[0].token_ids[:12])
    first = shared_forward(model, rows, prefix).states
    second = shared_forward(model, rows, prefix).states
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (lambda: CONFIG_MAPPING["t5"](vocab_size=VOCAB, d_model=16, d_kv=4, num_layers=1, num_heads=2, d_ff=16), "encoder"),
        (
            lambda: CONFIG_MAPPING["mamba"](vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, state_size=4),
            "linear_attention layers keep",
        ),
        (
            lambda: CONFIG_MAPPING["lfm2"](**{**SIZES, "layer_types": ["conv", "full_attention"] * 2}),
            "conv layers keep a state",
        ),
    ],
)
def test_architectures_that_cannot_share_are_named(config: object, word: str) -> None:
    class Bare:  # the check reads the configuration alone
        pass

    model = Bare()
    model.config = config()  # type: ignore[attr-defined, operator]
    reason = supports_sharing(model)
    assert reason is not None
    assert word in reason


def test_a_row_whose_first_token_is_learned_is_refused() -> None:
    with pytest.raises(ValueError, match="row a: its first token"):
        EncodedRow("a", (1, 2), (1.0, 1.0))
    with pytest.raises(ValueError, match="2 tokens but 1 weights"):
        EncodedRow("a", (1, 2), (0.0,))
    with pytest.raises(ValueError, match="row a: a token of an excluded answer is learned"):
        EncodedRow("a", (1, 2), (0.0, 1.0), excluded=(1,))


def test_a_prompts_weight_reaches_neither_the_first_token_nor_an_excluded_answer() -> None:
    row = EncodedRow("a", (1, 2, 3, 4, 5), (0.0, 0.0, 0.0, 0.0, 1.0), excluded=(2,))
    assert row.with_prompt_weight(0.25).weights == (0.0, 0.25, 0.0, 0.25, 1.0)
    assert row.with_prompt_weight(0.0) is row


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=8), min_size=1, max_size=6)


@given(ROWS, st.data())
def test_the_common_prefix_is_the_longest_that_leaves_every_label_an_own_position(
    tokens: list[list[int]], data: st.DataObject
) -> None:
    rows = []
    for number, ids in enumerate(tokens):
        first = data.draw(st.integers(1, len(ids) - 1))
        rows.append(EncodedRow(str(number), tuple(ids), tuple(float(place >= first) for place in range(len(ids)))))
    length = common_prefix_length(rows)

    def fits(size: int) -> bool:
        alike = len({row.token_ids[:size] for row in rows}) == 1
        return alike and all(row.labelled[0] - 1 >= size for row in rows)

    if len(rows) == 1:
        assert length == 0
    else:
        assert length == 0 or fits(length)
        assert not fits(length + 1)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100), st.booleans())
def test_groups_hold_every_row_once_and_keep_to_the_budget(lengths: list[int], budget: int, alike: bool) -> None:
    groups = group_by_length(lengths, budget, alike=alike)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget
        assert not alike or len({lengths[index] for index in group}) == 1
