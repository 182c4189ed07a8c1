"""A real but tiny language model on disk: random llama weights, a small trained BPE, and a ChatML template.

It has the starter model's traps in small: every turn begins with the id of bos, pad = eos = `<|im_end|>`, a default system prompt
comes from the template, and tools are dropped.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (ENDOFTEXT, IM_START, IM_END)  # ids 0, 1, 2

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny model.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SENTENCES = (
    "You are a tiny model. Answer the customer's message with one JSON object.",
    "system user assistant tool",
    "The parcel has not arrived and I would like a refund, please.",
    "My order number is 4711 and the lamp came broken on Tuesday.",
    "Where can I change my address before the next delivery?",
    '{"category": "refund", "urgent": true, "order": "4711"}',
    '{"category": "delivery", "urgent": false, "order": null}',
    "Thank you for the quick answer; the invoice is still missing.",
    "Question: what does the ticket cost? Answer: two euros and forty cents.",
    "Positive, negative or neutral? The answer is one word.",
)


def build_tiny_tokenizer(*, vocab: int = 400, sentences: tuple[str, ...] = SENTENCES) -> Tokenizer:
    """A byte-level BPE that can write any text; at least 259 entries (3 special tokens and 256 bytes)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def build_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    vocab: int = 400,
    context_tokens: int = 2048,
    template: str = CHATML,
) -> Path:
    """Write a random llama of `hidden` width and `layers` layers, with tokenizer and template, as a Hugging Face folder.

    The same arguments give the same files. Token ids: 0 `<|endoftext|>`, 1 `<|im_start|>` (bos), 2 `<|im_end|>` (eos and pad).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tiny_tokenizer(vocab=vocab)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": IM_START,
        "eos_token": IM_END,
        "pad_token": IM_END,
        "unk_token": ENDOFTEXT,
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        initializer_range=0.1,  # wide enough that random logits differ clearly between tokens
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2], pad_token_id=2)
    model.save_pretrained(folder, safe_serialization=True)
    return folder
