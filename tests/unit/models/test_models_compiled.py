"""Compiled kernels: the same formulas, the same numbers but for rounding, and a training that goes on without a compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from small_architectures import VOCAB, build
from stepladder.models.prefix import compiled, elementwise
from stepladder.models.prefix.anatomy import Norm
from stepladder.models.prefix.kernels import PLAIN, Kernels
from stepladder.models.prefix.paths import FusedPath, NotCompiled
from stepladder.models.prefix.rows import EncodedRow

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's compiler itself
]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code lies in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.CACHE_VARIABLE, str(tmp_path_factory.mktemp("compiled")))
        yield


def adapted(architecture: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", target_modules="all-linear")
    wrapped = get_peft_model(build(architecture, dtype), config).eval()
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.normal_(0, 0.1)
    return wrapped


def rows_of(*lengths: int) -> list[EncodedRow]:
    draw = torch.Generator().manual_seed(1)
    return [
        EncodedRow(
            f"row-{length}", tuple(torch.randint(3, VOCAB, (length,), generator=draw).tolist()), (0.0,) + (1.0,) * (length - 1)
        )
        for length in lengths
    ]


def gradient(wrapped: Any, path: FusedPath, rows: list[EncodedRow]) -> tuple[float, torch.Tensor]:
    wrapped.zero_grad(set_to_none=True)
    loss = path.backward_loss(rows, tokens_per_pass=64)
    return loss, torch.cat([value.grad.flatten() for value in wrapped.parameters() if value.grad is not None])


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(1, 9), activation=st.sampled_from(("silu", "gelu", "gelu_tanh")), seed=st.integers(0, 99))
def test_the_plain_formulas_are_those_that_are_written_for_speed(tokens: int, activation: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    norm = Norm(torch.randn(12, generator=draw), 1e-5)
    inputs, arrived, beside = (torch.randn(tokens, 12, generator=draw) for _ in range(3))
    close = torch.testing.assert_close
    close(compiled.rms_norm(inputs, norm.weight, norm.eps), elementwise.norm_forward(norm, inputs))
    close(compiled.rms_norm_backward(arrived, inputs, norm.weight, norm.eps), elementwise.norm_backward(norm, arrived, inputs))
    close(
        compiled.rms_norm_backward_beside(arrived, inputs, norm.weight, norm.eps, beside),
        elementwise.norm_backward_beside(norm, arrived, inputs, beside),
    )
    spread, opened = torch.randn(tokens, 10, generator=draw), torch.randn(tokens, 5, generator=draw)
    close(compiled.open_gate(activation, spread), elementwise.open_forward(activation, spread, True))
    close(
        compiled.open_gate_backward(activation, opened, spread),
        elementwise.open_backward(activation, opened.clone(), spread, True),
    )
    angles = torch.randn(tokens, 2, generator=draw)  # of six dimensions four are turned
    projected = torch.randn(tokens, (4 + 2 * 2) * 6, generator=draw)
    parts = elementwise.split_heads(projected, angles.cos(), angles.sin(), 4, 2)
    for ours, theirs in zip(compiled.split_heads(projected, angles.cos(), angles.sin(), 4, 2), parts, strict=True):
        close(ours, theirs)
    close(compiled.join_heads(*parts, angles.cos(), angles.sin()), elementwise.join_heads(*parts, angles.cos(), angles.sin()))
    close(elementwise.join_heads(*parts, angles.cos(), angles.sin()), projected)  # turned there and back


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
def test_compiled_passes_give_the_same_loss_and_gradient_but_for_rounding(architecture: str) -> None:
    wrapped = adapted(architecture, torch.bfloat16)
    path = FusedPath(wrapped.get_base_model())
    assert path.may_compile
    rows = rows_of(2, 31, 60)  # in passes of two lengths
    loss, expected = gradient(wrapped, path, rows)
    path.compile()
    assert path.name == "fused compiled"
    own_loss, own = gradient(wrapped, path, rows)
    assert own_loss == pytest.approx(loss, rel=0.01)
    assert not torch.equal(own, expected)  # it is other code
    assert float((own - expected).norm() / expected.norm()) < 0.05


def test_wider_types_and_layer_norms_stay_as_they_are() -> None:
    assert not FusedPath(adapted("llama", torch.float32).get_base_model()).may_compile
    assert not FusedPath(adapted("phi", torch.bfloat16).get_base_model()).may_compile


def test_without_a_compiler_a_path_says_so_and_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import torch._inductor.config as config

    monkeypatch.setenv(compiled.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(compiled, "_kernels", compiled._kernels.__wrapped__)
    torch._dynamo.reset()
    wrapped = adapted("mistral", torch.bfloat16)
    path = FusedPath(wrapped.get_base_model())
    with pytest.raises(NotCompiled, match="compiler failed"):
        path.compile()
    assert path.name == "fused"
    assert gradient(wrapped, path, rows_of(9))[0] > 0


def test_kernels_that_differ_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Kernels(norm_forward=lambda norm, inputs: PLAIN.norm_forward(norm, inputs) * 1.1)
    monkeypatch.setattr(compiled, "_kernels", lambda: wrong)
    with pytest.raises(NotCompiled, match="differ by 10%"):
        FusedPath(adapted("llama", torch.bfloat16).get_base_model()).compile()
