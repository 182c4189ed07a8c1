"""One measurement in a process of its own: `python -m generation.child ORDER.json`, the answer as JSON beside it."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from generation.rungs import Rung, read
from generation.systems import BATCHED, NESTED, ONE_STRING, OURS, PADDED_ROWS
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.transformers.answering import Ask
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.conversation import encode_prompt
from stepladder.models.loading import LoadedModel, load
from training.process import answer, die_first, forget_peak, peak_bytes, read_order

LATENCY_ROWS = 30
MASKED_TOKENS = 24
ATTENTIONS = ("sdpa", "eager")
SCHEMAS = {
    ONE_STRING: '{"type": "object", "properties": {"text": {"type": "string", "minLength": 400}}, "required": ["text"]}',
    NESTED: """{"type": "array", "minItems": 40, "items": {"type": "object", "properties": {
        "intent": {"enum": ["PlayMusic", "AddToPlaylist", "BookRestaurant", "GetWeather", "RateBook", "SearchScreeningEvent"]},
        "sure": {"type": "boolean"},
        "slots": {"type": "object", "properties": {
            "date": {"type": "string", "format": "date"},
            "people": {"type": "integer", "minimum": 1, "maximum": 20},
            "place": {"type": "string", "pattern": "^[A-Z][a-z]{2,20}$"}
        }, "required": ["date", "people", "place"], "additionalProperties": false}
    }, "required": ["intent", "sure", "slots"], "additionalProperties": false}}""",
}
"""Grammars that no answer of MASKED_TOKENS can fulfil, so that both sides of the comparison write every token."""

Ids = list[int]


class Recording(TransformersEngine):
    """The engine as it is; remembers which tokens each answer was made of."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.written: dict[int, Ids] = {}

    def _generation(self, ask: Ask, prompt: Prompt) -> Generation:
        self.written[ask.row.index] = list(ask.row.answer)
        return super()._generation(ask, prompt)


def measure_ours(loaded: LoadedModel, rung: Rung, *, rounded_head: bool = False) -> dict[str, Any]:
    """All rows in one call, the shared beginning computed within the time.

    Args:
        rounded_head: Choose by logits rounded to the model's own type, as `generate()` does.
    """
    engine = Recording(loaded)
    if rounded_head and engine._answering.writer is not None:
        engine._answering.writer.chooser._rounding = 0.0  # as if the type were exact
    adapter = Path(rung.adapter) if rung.adapter else None
    engine.generate(rung.prompts[:1], Decoding(2), adapter=adapter)  # lays out the weights, reads the adapter
    forget_peak()
    started = time.perf_counter()
    answers = engine.generate(rung.prompts, Decoding(rung.max_new_tokens), adapter=adapter)
    seconds = time.perf_counter() - started
    shared = {answer.shared_prompt_tokens for answer in answers}
    own = sum(answer.prompt_tokens - answer.shared_prompt_tokens for answer in answers)
    return {
        "seconds": seconds,
        "answers": [engine.written[number] for number in range(len(answers))],
        "prefill_tokens": own + sum(shared),
        "decode_tokens": sum(answer.completion_tokens for answer in answers),
    }


def measure_generate(loaded: LoadedModel, rung: Rung, rows_at_once: int) -> dict[str, Any]:
    """transformers' `generate()`, so many rows at once in their order, padded on the left."""
    with ExitStack() as stack:
        model = stack.enter_context(loaded.adapter(Path(rung.adapter))) if rung.adapter else loaded.model
        prompts = [encode_prompt(loaded.template, loaded.tokenizer, prompt.messages) for prompt in rung.prompts]
        generate(loaded, model, prompts[:rows_at_once], 2)
        attention = faster_attention(loaded, model, prompts[:rows_at_once], rung.max_new_tokens)
        forget_peak()
        answers: list[Ids] = []
        prefill = decode = 0
        started = time.perf_counter()
        for first in range(0, len(prompts), rows_at_once):
            batch = prompts[first : first + rows_at_once]
            written = generate(loaded, model, batch, rung.max_new_tokens)
            answers += [whole_answer(ids, loaded.stop_ids) for ids in written]
            prefill += len(batch) * max(map(len, batch))
            decode += sum(map(len, written))
        seconds = time.perf_counter() - started
    found = {"seconds": seconds, "answers": answers, "prefill_tokens": prefill, "decode_tokens": decode}
    return {**found, "setting": f"{attention} attention"}


def faster_attention(loaded: LoadedModel, model: Any, batch: Sequence[Ids], max_new_tokens: int) -> str:
    """The attention that `generate()` answers a batch with in less time, which it has from then on.

    transformers' default is torch's own, which on a CPU may take several times as long for one query a row.
    """
    taken: dict[str, float] = {}
    for name in ATTENTIONS:
        loaded.model.set_attn_implementation(name)
        started = time.perf_counter()
        generate(loaded, model, batch, max_new_tokens)
        taken[name] = time.perf_counter() - started
    best = min(taken, key=lambda name: taken[name])
    loaded.model.set_attn_implementation(best)
    return best


def generate(loaded: LoadedModel, model: Any, prompts: Sequence[Ids], max_new_tokens: int) -> list[Ids]:
    """New token ids of every prompt, whatever stands behind a stop token included."""
    width = max(map(len, prompts))
    pad = loaded.stop_ids[0]
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(loaded.stop_ids),
            pad_token_id=pad,
        )
    rows: list[Ids] = made[:, width:].tolist()
    return rows


def whole_answer(ids: Ids, stop_ids: Sequence[int]) -> Ids:
    """The answer up to its stop token, without it."""
    return ids[: next((place for place, id in enumerate(ids) if id in stop_ids), len(ids))]


def margins(loaded: LoadedModel, rung: Rung, pairs: Sequence[tuple[int, Ids, Ids]]) -> list[float]:
    """How much likelier (in logits) the model by itself finds its token than the next one, where two answers first differ.

    Logits are taken in fp32 from the model's last state: in bf16 those between 16 and 32 lie 0.125 apart, and a margin of 0.13
    may look like one of 0.25.

    Args:
        pairs: (row, the answer of generate() one by one, another answer).
    """
    found = []
    with ExitStack() as stack:
        model = stack.enter_context(loaded.adapter(Path(rung.adapter))) if rung.adapter else loaded.model
        for number, plain, other in pairs:
            common = next((place for place, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b), None)
            common = min(len(plain), len(other)) if common is None else common
            prompt = encode_prompt(loaded.template, loaded.tokenizer, rung.prompts[number].messages)
            best = fine_logits(model, prompt + plain[:common]).topk(2).values
            found.append(float(best[0] - best[1]))
    return found


def fine_logits(model: Any, ids: Ids) -> torch.Tensor:
    """Logits of the token after `ids`, (vocabulary,): all but the output matrix in the model's type, that one in fp32."""
    head = model.get_output_embeddings()
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, -1].float()))
    try:
        with torch.inference_mode():
            model(torch.tensor([ids]), use_cache=False)
    finally:
        hook.remove()
    return head.weight.detach().float() @ seen[0]


def latency(loaded: LoadedModel, rung: Rung) -> dict[str, Any]:
    """Seconds from asking to the whole answer, one row at a time, warm and without drafts: median and 95th percentile."""
    engine = TransformersEngine(loaded)
    adapter = Path(rung.adapter) if rung.adapter else None
    decoding = Decoding(rung.max_new_tokens)
    engine.generate(rung.prompts[:2], Decoding(2), adapter=adapter)
    seconds = []
    tokens = 0
    for prompt in rung.prompts[:LATENCY_ROWS]:
        started = time.perf_counter()
        [answered] = engine.generate([prompt], decoding, adapter=adapter)
        seconds.append(time.perf_counter() - started)
        tokens += answered.completion_tokens
    cuts = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 19
    return {"p50_seconds": cuts[9], "p95_seconds": cuts[18], "rows": len(seconds), "seconds_per_token": sum(seconds) / tokens}


def mask_cost(loaded: LoadedModel, rung: Rung, schema: str, rounds: int = 3) -> dict[str, Any]:
    """What holding answers to a grammar adds to a batch in which every row writes as many tokens with it as without."""
    engine, grammar = TransformersEngine(loaded), Grammar("json_schema", schema)
    engine._start_grammar(grammar)  # while it knows which tokens end a turn
    engine._stop_ids = frozenset()  # nobody leaves early
    free, held = Decoding(MASKED_TOKENS), Decoding(MASKED_TOKENS, grammar=grammar)
    for decoding in (free, held):
        engine.generate(rung.prompts[:2], decoding)
    taken: dict[str, list[float]] = {"free": [], "held": []}
    for _ in range(rounds):
        for name, decoding in (("free", free), ("held", held)):
            started = time.perf_counter()
            answers = engine.generate(rung.prompts, decoding)
            taken[name].append(time.perf_counter() - started)
            assert {one.completion_tokens for one in answers} == {MASKED_TOKENS}
    free_seconds, held_seconds = min(taken["free"]), min(taken["held"])
    return {"seconds_free": free_seconds, "seconds_held": held_seconds, "cost": held_seconds / free_seconds - 1}


def versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("stepladder", "torch", "transformers", "peft", "llguidance")}


def main() -> None:
    warnings.filterwarnings("ignore")
    die_first()
    order = read_order()
    if order["task"] == "prepare":
        from generation.prepare import prepare  # the whole service: not where memory is measured

        prepare(Path(order["rungs"]), Path(order["datasets"]), order["names"], order["rows"])
        answer(order, {})
        return
    loaded = load(order["model"], device="cpu", dtype=order.get("dtype"))
    rung = read(Path(order["rungs"]), order["rung"])
    match order["task"]:
        case "measure":
            system = order["system"]
            result = (
                measure_ours(loaded, rung)
                if system == OURS
                else measure_generate(loaded, rung, PADDED_ROWS if system == BATCHED else 1)
            )
        case "rounded head":
            result = measure_ours(loaded, rung, rounded_head=True)
        case "margins":
            result = {"margins": margins(loaded, rung, order["pairs"])}
        case "latency":
            result = latency(loaded, rung)
        case _:
            result = mask_cost(loaded, rung, SCHEMAS[order["schema"]])
    about = {"dtype": loaded.identity.dtype, "threads": torch.get_num_threads(), "peak_memory_bytes": peak_bytes()}
    answer(order, {**result, **about, "versions": versions()})


if __name__ == "__main__":
    sys.exit(main())
