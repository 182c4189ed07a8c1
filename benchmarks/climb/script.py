"""The climb as a script: TRL trains, `generate()` answers in batches of 16. Run as `python -m climb.script ORDER`.

One step after the other as the work list says; what a step took is on disk before the next begins, so that a script which was
stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from training.process import answer, die_first, read_order

ROWS_AT_ONCE = 16
JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Turns = list[dict[str, str]]
Step = dict[str, Any]


class HeldToSchema(LogitsProcessor):
    """Leaves every row only the tokens its answer may go on with; for one call of `generate()`."""

    def __init__(self, grammars: Any, schema: str, rows: int, vocabulary: int, stop_id: int) -> None:
        import llguidance
        from llguidance.numpy import allocate_token_bitmask

        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=JSON_FORM)
        self._matchers = [llguidance.LLMatcher(grammars, grammar) for _ in range(rows)]
        self._bits = allocate_token_bitmask(rows, vocabulary)
        self._stop_id = stop_id
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import numpy as np
        from llguidance.numpy import fill_next_token_bitmask

        for row, matcher in enumerate(self._matchers):
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            if not matcher.is_stopped():
                fill_next_token_bitmask(matcher, self._bits, row)
        self._begun = True
        allowed = np.unpackbits(self._bits.view(np.uint8), axis=1, bitorder="little", count=scores.shape[1])
        for row, matcher in enumerate(self._matchers):
            if matcher.is_stopped():  # nothing but the end of the turn may follow
                allowed[row] = 0
                allowed[row, self._stop_id] = 1
        return scores.masked_fill(torch.from_numpy(allowed == 0), float("-inf"))


class Script:
    """The models and what answers with them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.folder = Path(order["adapters"])
        self.tokenizer = AutoTokenizer.from_pretrained(order["model"], padding_side="left")
        self.stop_ids: list[int] = order["stop_ids"]

    @lru_cache(maxsize=1)  # noqa: B019 - the script lives as long as its process
    def model(self, adapter: str) -> Any:
        """The base, or the base with an adapter merged into it."""
        model = AutoModelForCausalLM.from_pretrained(self.order["model"], dtype=torch.bfloat16)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self.folder / adapter).merge_and_unload()
        return model.eval()

    @lru_cache(maxsize=1)  # noqa: B019
    def grammars(self, vocabulary: int) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self.tokenizer, n_vocab=vocabulary, eos_token=self.stop_ids)

    def answer(self, step: Step) -> list[str]:
        """An answer to every prompt, the longest prompts first."""
        model = self.model(step["adapter"])
        prompts = [
            self.tokenizer.apply_chat_template(turns(one), add_generation_prompt=True, tokenize=False) for one in step["prompts"]
        ]
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        answers = [""] * len(prompts)
        for first in range(0, len(order), ROWS_AT_ONCE):
            places = order[first : first + ROWS_AT_ONCE]
            batch = self.tokenizer(
                [prompts[place] for place in places], return_tensors="pt", padding=True, add_special_tokens=False
            )
            more = {}
            if step["schema"]:
                vocabulary = model.config.vocab_size
                held = HeldToSchema(self.grammars(vocabulary), step["schema"], len(places), vocabulary, self.stop_ids[0])
                more = {"logits_processor": [held]}
            with torch.inference_mode():
                made = model.generate(
                    **batch,
                    do_sample=False,
                    max_new_tokens=step["max_new_tokens"],
                    eos_token_id=self.stop_ids,
                    pad_token_id=self.stop_ids[0],
                    **more,
                )
            written = self.tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for place, text in zip(places, written, strict=True):
                answers[place] = text
        return answers

    def train(self, step: Step) -> float:
        """Train an adapter and save it; returns the mean loss of the held-out rows."""
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        size = step["batch_size"]
        arguments = SFTConfig(
            output_dir=str(self.folder / "trainer"),
            use_cpu=True,
            bf16=False,  # weights are bf16 already
            gradient_checkpointing=False,
            per_device_train_batch_size=size,
            per_device_eval_batch_size=size,
            max_steps=step["steps"],
            learning_rate=step["learning_rate"],
            warmup_steps=step["warmup_steps"],
            lr_scheduler_type="linear",
            max_length=None,
            eval_strategy="steps",
            eval_steps=max(1, -(-len(step["rows"]) // size)),  # once an epoch
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=step["seed"],
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(self.order["model"], dtype=torch.bfloat16),
            args=arguments,
            train_dataset=Dataset.from_list([as_row(one) for one in step["rows"]]),
            eval_dataset=Dataset.from_list([as_row(one) for one in step["held_out"]]),
            processing_class=AutoTokenizer.from_pretrained(self.order["model"]),
            peft_config=LoraConfig(
                r=step["rank"], lora_alpha=step["alpha"], target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
            ),
        )
        trainer.train()
        trainer.save_model(str(self.folder / step["adapter"]))
        losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        return float(losses[-1]) if losses else float("nan")


def turns(prompt: Sequence[Sequence[str]]) -> Turns:
    return [{"role": role, "content": text} for role, text in prompt]


def as_row(conversation: Sequence[Sequence[str]]) -> dict[str, Turns]:
    """A row of TRL's prompt-completion form: only the last turn is learned."""
    return {"prompt": turns(conversation[:-1]), "completion": turns(conversation[-1:])}


def main() -> None:
    die_first()
    began = time.perf_counter()
    order = read_order()
    progress = Path(order["progress"])
    done: dict[str, Any] = json.loads(progress.read_text(encoding="utf-8")) if progress.is_file() else {}
    script = Script(order)
    for step in json.loads(Path(order["work_list"]).read_text(encoding="utf-8")):
        if step["name"] in done:
            continue
        if time.perf_counter() - began > order["seconds"]:
            break
        started = time.perf_counter()
        if step["kind"] == "train":
            result: dict[str, Any] = {"held_out_loss": script.train(step), "rows": len(step["rows"])}
        else:
            result = {"rows": len(script.answer(step))}
        done[step["name"]] = {**result, "seconds": time.perf_counter() - started}
        progress.write_text(json.dumps(done, indent=1), encoding="utf-8")
    answer(order, {"done": done, "threads": torch.get_num_threads(), "versions": versions()})


def versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("torch", "transformers", "peft", "trl", "llguidance")}


if __name__ == "__main__":
    sys.exit(main())
