from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from stepladder.engines.transformers.attention import NAME, attend_one, use_short_attention


def tiny_llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes))


@given(
    rows=st.integers(1, 5), shared=st.integers(1, 3), groups=st.integers(1, 4), tokens=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_one_token_a_row_attends_as_torchs_own_does(rows: int, shared: int, groups: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, shared * groups, 1, 8, generator=generator)
    key, value = (torch.randn(rows, shared, tokens, 8, generator=generator) for _ in range(2))
    seen = torch.rand(rows, 1, 1, tokens, generator=generator) < 0.7
    seen[..., -1] = True  # a token always sees itself
    for mask in (None, seen, torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))):
        expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(attend_one(query, key, value, mask, 0.3), expected.transpose(1, 2))


def test_a_model_with_another_attention_keeps_it() -> None:
    model = tiny_llama()
    model.set_attn_implementation("eager")
    use_short_attention(model)
    assert model.config._attn_implementation == "eager"


def test_a_step_of_one_token_gives_the_logits_of_torchs_attention() -> None:
    model = tiny_llama().eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 3, 4, 1]])
    with torch.inference_mode():
        expected = model(ids).logits[:, -1]
        use_short_attention(model)
        assert model.config._attn_implementation == NAME
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        stepped = model(ids[:, -1:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-5)


def test_gradients_still_flow_through_torchs_attention() -> None:
    model = tiny_llama().requires_grad_(True)
    use_short_attention(model)
    model(torch.tensor([[5]])).logits.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None
