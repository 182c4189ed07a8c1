"""A step runs where the model is and needs no fp64 there: held on torch's device without data, which mixes with no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.models.auto import CONFIG_MAPPING

from stepladder.models.prefix.anatomy import read_anatomy
from stepladder.models.prefix.fused import FusedStep, Sending, Work
from tiny_training import build_rows

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"pad_token_id": 0},
    "phi": {"num_key_value_heads": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


class Made(TorchDispatchMode):
    """Number formats of everything made on a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.dtypes = device, set[torch.dtype]()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.device.type == self.device]
        self.dtypes |= {tensor.dtype for tensor in made}
        return result


def on_an_accelerator(architecture: str, dtype: torch.dtype) -> Any:
    config = CONFIG_MAPPING[architecture](**{**SIZES, **ARCHITECTURES[architecture]})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval().to("meta")
    return get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear")).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_of_a_step_lies_where_the_model_lies(architecture: str, dtype: torch.dtype) -> None:
    wrapped = on_an_accelerator(architecture, dtype)
    step = FusedStep(read_anatomy(wrapped.get_base_model()))
    work = Work.of(build_rows(6), tokens_per_pass=20, worthwhile=1)
    with Made("meta") as made:
        losses = [nll for _, nll in step.backward(work, Sending(lambda labels: [label.weight for label in labels]))]
        losses += [nll for _, nll in step.losses(work)]
    assert {nll.device.type for nll in losses} == {"meta"}
    gradients = [value.grad for value in wrapped.parameters() if value.requires_grad]
    assert {(gradient.device.type, gradient.dtype) for gradient in gradients} == {("meta", torch.float32)}
    assert torch.float64 not in made.dtypes
    assert torch.float32 in made.dtypes
