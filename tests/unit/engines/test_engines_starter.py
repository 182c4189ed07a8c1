"""Answers of the real starter model beside transformers' `generate()`: equal in fp32, and in bf16 but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from scipy.stats import binomtest

from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.conversation import encode_prompt
from stepladder.models.loading import LoadedModel, load

pytestmark = [pytest.mark.long, pytest.mark.starter]

SYSTEM = "Read the request to a voice assistant and say in one sentence what it wants, and which words tell you so."
WORDS = "please book a table for five near the old mill on friday and tell me what the weather will be in Paris then".split()
TOKENS = 24


def prompts_of(rows: int) -> list[Prompt]:
    return [
        Prompt(
            f"row-{row}",
            (Message("system", SYSTEM), Message("user", " ".join(WORDS[row % 7 : row % 7 + 5 + row % 11]) + f" {row}")),
        )
        for row in range(rows)
    ]


def generated(loaded: LoadedModel, prompts: Sequence[Prompt], rows_at_once: int) -> list[list[int]]:
    """New tokens of `generate()` up to the stop token, in batches padded on the left."""
    found: list[list[int]] = []
    stop = loaded.stop_ids
    for first in range(0, len(prompts), rows_at_once):
        rows = [encode_prompt(loaded.template, loaded.tokenizer, one.messages) for one in prompts[first : first + rows_at_once]]
        width = max(map(len, rows))
        ids = torch.tensor([[stop[0]] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            made = loaded.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=TOKENS,
                eos_token_id=list(stop),
                pad_token_id=stop[0],
            )[:, width:].tolist()
        found += [row[: next((place for place, id in enumerate(row) if id in stop), len(row))] for row in made]
    return found


def written(loaded: LoadedModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The engine's new tokens, read off its rows."""
    rows: dict[int, list[int]] = {}

    class Recording(TransformersEngine):
        def _generation(self, ask, prompt):  # type: ignore[no-untyped-def]
            rows[ask.row.index] = list(ask.row.answer)
            return super()._generation(ask, prompt)

    Recording(loaded).generate(prompts, Decoding(TOKENS))
    return [rows[place] for place in range(len(prompts))]


def test_in_fp32_every_token_is_the_one_of_plain_generate() -> None:
    loaded = load("smollm2-135m-instruct", device="cpu", dtype="float32")
    prompts = prompts_of(10)
    assert written(loaded, prompts) == generated(loaded, prompts, 1)


def test_in_bf16_no_more_rows_differ_than_between_generate_and_its_own_batches_and_only_by_rounding() -> None:
    """Which near-equal tokens rounding tips is luck, here as there: more rows than by luck would tell of a fault."""
    loaded = load("smollm2-135m-instruct", device="cpu", dtype="bfloat16")
    prompts = prompts_of(96)
    plain, batched, ours = generated(loaded, prompts, 1), generated(loaded, prompts, 16), written(loaded, prompts)
    differing = {place for place in range(len(prompts)) if plain[place] != ours[place]}
    own = {place for place in range(len(prompts)) if plain[place] != batched[place]}
    only_ours, only_own = len(differing - own), len(own - differing)
    assert binomtest(only_ours, max(1, only_ours + only_own), alternative="greater").pvalue > 0.01, (differing, own)
    for place in differing:
        pairs = zip(plain[place], ours[place], strict=False)
        common = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(plain[place]), len(ours[place])))
        ids = [*encode_prompt(loaded.template, loaded.tokenizer, prompts[place].messages), *plain[place][:common]]
        with torch.inference_mode():
            state = loaded.model.model(torch.tensor([ids])).last_hidden_state[0, -1].float()
        # In fp32: between 16 and 32, logits in bf16 lie 0.125 apart, and a margin of 0.1 may look like one of 0.25.
        best = (loaded.model.get_output_embeddings().weight.detach().float() @ state).topk(2).values
        assert float(best[0] - best[1]) < 0.25
