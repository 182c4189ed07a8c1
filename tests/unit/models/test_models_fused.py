"""The written-out passes against the stock modules and autograd: losses, and the gradient of every adapter tensor."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

from small_architectures import ARCHITECTURES, SIZES, VOCAB, build
from stepladder.models.prefix import attention
from stepladder.models.prefix.anatomy import NotRead, read_anatomy
from stepladder.models.prefix.fused import FusedStep, Sending, Work
from stepladder.models.prefix.layer import Tape, layer_forward
from stepladder.models.prefix.losses import WeightedMean
from stepladder.models.prefix.paths import FusedPath, StockPath
from stepladder.models.prefix.rows import EncodedRow

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_adapted(architecture: str, dtype: torch.dtype = torch.float64, **lora: Any) -> Any:
    """A random model with an adapter none of whose matrices is zero."""
    torch.manual_seed(0)
    wrapped = get_peft_model(
        build(architecture, dtype),
        LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **{"target_modules": "all-linear", **lora}),
        autocast_adapter_dtype=False,
    ).eval()
    with torch.no_grad():
        for value in trained(wrapped).values():
            value.normal_(0, 0.1)
    return wrapped


def trained(wrapped: Any) -> dict[str, Tensor]:
    return {name: value for name, value in wrapped.named_parameters() if value.requires_grad}


def tree_rows(seed: int, most: int = 8) -> list[EncodedRow]:
    """Rows that share none, one or two levels of tokens, with weights of 0, a half and 1."""
    draw = random.Random(seed)
    shared = [draw.randrange(3, VOCAB) for _ in range(draw.choice([0, 1, 5, 20]))]
    rows = []
    for number in range(draw.randint(1, most)):
        middle = [7] * draw.choice([0, 0, 4, 4, 11])
        own = [draw.randrange(3, VOCAB) for _ in range(draw.randint(2, 25))]
        tokens = (*shared, *middle, *own)
        learned = draw.randint(1, len(own) - 1)
        weights = [0.0] * (len(tokens) - learned) + [draw.choice([0.0, 0.5, 1.0]) for _ in range(learned)]
        weights[-1] = 1.0
        rows.append(EncodedRow(f"row-{number}", tokens, tuple(weights)))
    return rows


def plain(wrapped: Any, rows: Sequence[EncodedRow]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the stock model, row by row."""
    wrapped.zero_grad(set_to_none=True)
    total = sum(row.weight for row in rows)
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logits = wrapped(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0, :-1]
        nll = -torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]
        loss = loss + (nll * torch.tensor(row.weights[1:], dtype=nll.dtype)).sum() / total
    loss.backward()
    return loss.item(), {name: value.grad for name, value in trained(wrapped).items()}


def fused(
    wrapped: Any,
    rows: Sequence[EncodedRow],
    tokens_per_pass: int,
    worthwhile: int,
    *,
    room: int | None = None,
    late: bool = False,
) -> tuple[float, dict[str, Tensor]]:
    wrapped.zero_grad(set_to_none=True)
    total = sum(row.weight for row in rows)
    work = Work.of(rows, tokens_per_pass=tokens_per_pass, worthwhile=worthwhile)
    step = FusedStep(read_anatomy(wrapped.get_base_model()), room=room)
    loss = 0.0
    for labels, nll in step.backward(work, Sending(lambda labels: [label.weight / total for label in labels], late=late)):
        loss += sum(label.weight * nats for label, nats in zip(labels, nll.tolist(), strict=True)) / total
    return loss, {name: value.grad for name, value in trained(wrapped).items()}


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest ‖g − g′‖ / ‖g‖ over all tensors; a g that is nothing beside the others' is rounding, and counts as a millionth."""
    least = 1e-6 * max(right.norm().item() for right in theirs.values())
    return max((ours[name] - right).norm().item() / max(right.norm().item(), least) for name, right in theirs.items())


@contextmanager
def stock_in_fp64(wrapped: Any) -> Iterator[None]:
    """The stock norms and rotary embeddings, which round to fp32, in fp64: only for comparing to the last digits."""
    changed: list[tuple[Any, Callable[..., Any]]] = []

    def replace(module: Any, forward: Callable[..., Any]) -> None:
        changed.append((module, module.forward))
        module.forward = forward

    for module in wrapped.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            replace(module, _wide_norm(module))
        elif name.endswith("RotaryEmbedding"):
            replace(module, _wide_rotary(module))
    yield
    for module, forward in changed:
        module.forward = forward


def _wide_norm(module: Any) -> Callable[[Tensor], Tensor]:
    gemma = type(module).__name__.startswith("Gemma")

    def forward(states: Tensor) -> Tensor:
        eps = module.eps if gemma else module.variance_epsilon
        normed = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + eps)
        return normed * (1.0 + module.weight) if gemma else module.weight * normed

    return forward


def _wide_rotary(module: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    def forward(states: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        prefix = f"{layer_type}_" if layer_type else ""
        frequencies = getattr(module, f"{prefix}inv_freq").double()
        angles = position_ids[..., None].double() * frequencies
        both = torch.cat((angles, angles), dim=-1)
        scale = getattr(module, f"{prefix}attention_scaling")
        return both.cos() * scale, both.sin() * scale

    return forward


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_of_ordinary_training_to_ten_digits(architecture: str) -> None:
    wrapped = build_adapted(architecture)
    with stock_in_fp64(wrapped):
        for seed in range(3):
            rows = tree_rows(seed)
            loss, gradients = plain(wrapped, rows)
            for tokens_per_pass in (10_000, 30, 5):
                ours, own_gradients = fused(wrapped, rows, tokens_per_pass, worthwhile=1)
                assert abs(ours - loss) <= 1e-10
                assert furthest(own_gradients, gradients) <= 1e-10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_modules_which_round_to_fp32_agree_to_a_few_millionths(architecture: str) -> None:
    wrapped = build_adapted(architecture)
    for seed in range(3):
        rows = tree_rows(seed)
        loss, gradients = plain(wrapped, rows)
        ours, own_gradients = fused(wrapped, rows, 30, worthwhile=1)
        assert abs(ours - loss) <= 1e-6
        assert furthest(own_gradients, gradients) <= 3e-6  # with the same modules in fp64 it is less than 1e-10, as above


@settings(max_examples=25, deadline=None)
@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    seed=st.integers(0, 10_000),
    tokens_per_pass=st.integers(1, 200),
    worthwhile=st.integers(1, 60),
    queries_at_once=st.sampled_from([256, 7, 1]),
)
@example(architecture="llama", seed=2860, tokens_per_pass=1, worthwhile=1, queries_at_once=256)
@example(architecture="gemma3_text", seed=3, tokens_per_pass=60, worthwhile=1, queries_at_once=5)
def test_any_rows_in_any_passes_and_chunks_give_the_same_gradient(
    architecture: str, seed: int, tokens_per_pass: int, worthwhile: int, queries_at_once: int
) -> None:
    wrapped = build_adapted(architecture)
    rows = tree_rows(seed)
    with stock_in_fp64(wrapped), patch.object(attention, "QUERIES_AT_ONCE", queries_at_once):
        loss, gradients = plain(wrapped, rows)
        ours, own_gradients = fused(wrapped, rows, tokens_per_pass, worthwhile)
    assert abs(ours - loss) <= 1e-10
    nothing = all(row.labelled == (1,) for row in rows)  # labels that see one token give a query no gradient but rounding
    assert furthest(own_gradients, gradients) <= (1e-9 if nothing else 1e-10)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_in_bf16_the_loss_is_that_of_fp32_within_its_rounding(architecture: str) -> None:
    rows = tree_rows(2)
    exact, gradients = plain(build_adapted(architecture, torch.float32), rows)
    wrapped = build_adapted(architecture, torch.float32).to(torch.bfloat16)
    with torch.no_grad():
        for value in trained(wrapped).values():
            value.data = value.data.float()
    ours, own_gradients = fused(wrapped, rows, 30, worthwhile=1)
    assert ours == pytest.approx(exact, abs=0.1)
    assert furthest(own_gradients, gradients) <= 0.2
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in trained(wrapped).values())


def test_the_losses_alone_are_those_of_the_training_step() -> None:
    wrapped = build_adapted("llama")
    rows = tree_rows(4)
    loss, _ = fused(wrapped, rows, 20, worthwhile=1)
    step = FusedStep(read_anatomy(wrapped.get_base_model()))
    total = sum(row.weight for row in rows)
    alone = 0.0
    for labels, nll in step.losses(Work.of(rows, tokens_per_pass=50)):
        alone += sum(label.weight * nats for label, nats in zip(labels, nll.tolist(), strict=True)) / total
    assert alone == pytest.approx(loss, abs=1e-9)


def test_chosen_target_modules_and_rank_stabilised_scaling_are_followed() -> None:
    wrapped = build_adapted("llama", target_modules=["q_proj", "down_proj"], use_rslora=True)
    rows = tree_rows(5)
    loss, gradients = plain(wrapped, rows)
    ours, own_gradients = fused(wrapped, rows, 40, worthwhile=1)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert furthest(own_gradients, gradients) <= 1e-5
    assert len(gradients) == 2 * 2 * SIZES["num_hidden_layers"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("lora", "reason"),
    [({"lora_dropout": 0.1}, "its adapter has dropout"), ({"use_dora": True}, "a variant of LoRA")],
)
def test_an_adapter_of_another_kind_is_not_read(lora: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotRead, match=reason):
        read_anatomy(build_adapted("llama", **lora).get_base_model())


def test_a_decoder_of_another_class_is_not_read() -> None:
    config = CONFIG_MAPPING["gpt2"](vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    with pytest.raises(NotRead, match="its layers are of class GPT2Model"):
        read_anatomy(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_are_those_of_autograd_with_torchs_own_cross_entropy(architecture: str, smoothing: float) -> None:
    wrapped = build_adapted(architecture)
    rows = tree_rows(6)
    total = sum(row.weight for row in rows)
    loss = torch.zeros((), dtype=torch.float64)
    with stock_in_fp64(wrapped):
        for row in rows:
            logits = wrapped(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(
                logits, torch.tensor(row.token_ids[1:]), reduction="none", label_smoothing=smoothing
            )
            loss = loss + (each * torch.tensor(row.weights[1:], dtype=each.dtype)).sum() / total
        wrapped.zero_grad(set_to_none=True)
        loss.backward()
        right = {name: value.grad.clone() for name, value in trained(wrapped).items()}
        for path in (FusedPath(wrapped.get_base_model()), StockPath(wrapped.get_base_model(), share=True)):
            for tokens_per_pass in (5, 10_000):
                wrapped.zero_grad(set_to_none=True)
                found = path.backward_loss(rows, tokens_per_pass=tokens_per_pass, loss=WeightedMean(smoothing=smoothing))
                assert found == pytest.approx(loss.item(), abs=1e-9)
                assert furthest({name: value.grad for name, value in trained(wrapped).items()}, right) <= 1e-9


def test_weights_that_take_too_much_memory_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = build_adapted("gemma3_text")
    rows = tree_rows(6)
    loss, gradients = fused(wrapped, rows, 40, worthwhile=1)
    monkeypatch.setattr("stepladder.models.prefix.attention.KEPT_WEIGHTS_BYTES", 0)
    again, own_gradients = fused(wrapped, rows, 40, worthwhile=1)
    assert again == loss
    assert furthest(own_gradients, gradients) <= 1e-12


@settings(max_examples=25, deadline=None)
@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    dtype=st.sampled_from([torch.float64, torch.bfloat16]),
    seed=st.integers(0, 10_000),
    tokens_per_pass=st.integers(1, 200),
    room=st.integers(0, 80),
    late=st.booleans(),
)
def test_layers_computed_twice_give_the_same_gradient_to_the_last_bit(
    architecture: str, dtype: torch.dtype, seed: int, tokens_per_pass: int, room: int, late: bool
) -> None:
    wrapped = build_adapted(architecture).to(dtype)
    rows = tree_rows(seed)
    loss, gradients = fused(wrapped, rows, tokens_per_pass, worthwhile=1)
    again, own_gradients = fused(wrapped, rows, tokens_per_pass, worthwhile=1, room=room, late=late)
    assert again == loss
    assert all(torch.equal(own_gradients[name], gradients[name]) for name in gradients)


def most_tapes(monkeypatch: pytest.MonkeyPatch, rows: Sequence[EncodedRow], tokens_per_pass: int, room: int | None) -> int:
    """Of how many layers, over all passes, what the backward pass needs stood in memory at once."""
    counts = [0]

    def counting(*inputs: Any, **options: Any) -> Any:
        result = layer_forward(*inputs, **options)
        counts.append(sum(type(thing) is Tape for thing in gc.get_objects()))
        return result

    with monkeypatch.context() as here:
        here.setattr("stepladder.models.prefix.fused.layer_forward", counting)
        fused(build_adapted("llama"), rows, tokens_per_pass, worthwhile=1, room=room)
    return max(counts)


def test_what_has_no_room_is_held_for_one_layer_at_a_time_and_a_shared_beginning_gives_way_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = int(SIZES["num_hidden_layers"])  # type: ignore[call-overload]
    begun = tuple(range(3, 23))
    rows = [EncodedRow(f"row-{own}", (*begun, own, 5), (0.0,) * 21 + (1.0,)) for own in (30, 31, 32)]
    assert most_tapes(monkeypatch, rows, 10_000, room=None) == layers
    assert most_tapes(monkeypatch, rows, 4, room=None) == 2 * layers  # the beginning's, and those of the rows behind it
    assert most_tapes(monkeypatch, rows, 4, room=24) == 2 * layers
    assert most_tapes(monkeypatch, rows, 4, room=23) == layers  # only the rows'
    assert most_tapes(monkeypatch, rows, 4, room=0) <= 2


@pytest.mark.parametrize("architecture", ["llama", "llama-without-groups", "qwen3", "gemma3_text", "phi"])
def test_the_fused_attention_of_a_gpu_gives_the_same_gradients(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held on the CPU, whose version of the same function takes the same arguments."""
    wrapped = build_adapted(architecture)
    for seed in range(3):
        rows = tree_rows(seed)
        for tokens_per_pass in (10_000, 30, 5):
            loss, gradients = fused(wrapped, rows, tokens_per_pass, worthwhile=1)
            with monkeypatch.context() as here:
                here.setattr("stepladder.models.prefix.attention.FUSED_DEVICES", {"cpu"})
                again, own_gradients = fused(wrapped, rows, tokens_per_pass, worthwhile=1)
            assert again == pytest.approx(loss, abs=1e-10)
            assert furthest(own_gradients, gradients) <= 1e-9
            assert any(not torch.equal(own_gradients[name], gradients[name]) for name in gradients)  # another way was taken
