"""What a finished adapter says about itself: the side file `stepladder.json` and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stepladder.domain.errors import RunError
from stepladder.domain.protocols import ModelIdentity, TrainPoint, Tuned
from stepladder.files import hash_bytes, hash_file, hash_json, write_text
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import WEIGHTS
from stepladder.training.binding import Binding, circumstances, differences, other_training, versions
from stepladder.training.presets import TrainSettings
from stepladder.training.proof import Proof

FORMAT = 1
SIDE_FILE = "stepladder.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


def pins(
    identity: ModelIdentity, settings: TrainSettings, rows: Sequence[EncodedRow], held_out: Sequence[EncodedRow]
) -> dict[str, Any]:
    """Everything an adapter depends on: weights, tokenizer, template, data and settings. Equal pins, equal adapter.

    `tokens_per_pass` is the one that the training was begun with.
    """
    return {
        "base": identity.name,
        "base_sha256": identity.base_sha256,
        "tokenizer_sha256": identity.tokenizer_sha256,
        "template_sha256": identity.template_sha256,
        "dtype": identity.dtype,
        "data_sha256": fingerprint(rows),
        "held_out_sha256": fingerprint(held_out),
        "settings": asdict(settings),
    }


def fingerprint(rows: Sequence[EncodedRow]) -> str:
    """Hash of the rows as they are trained on: ids, tokens and weights, in order."""
    return hash_json([[row.id, row.token_ids, row.weights] for row in rows])


def side_file(binding: Binding, tuned: Tuned, proof: Proof, files: Mapping[str, bytes], device: torch.device) -> dict[str, Any]:
    """The content of `stepladder.json`, beside `files`. `device`: the one trained on."""
    return {
        "format": FORMAT,
        "pins": dict(binding.pins),
        "rows": binding.rows,
        "versions": versions(),
        "circumstances": circumstances(device),
        "adapter_sha256": tuned.adapter_sha256,
        "files_sha256": {name: hash_bytes(content) for name, content in files.items() if name != WEIGHTS},
        "held_out_nll": list(tuned.held_out_nll),
        "best_step": tuned.best_step,
        "steps": tuned.steps,
        "seconds": tuned.seconds,
        "tokens": tuned.tokens,
        "checks": asdict(proof),
        "history": [asdict(point) for point in tuned.history],
    }


def read_finished(folder: Path, binding: Binding, *, anew: bool = False) -> Tuned | str | None:
    """The finished training in `folder`; why it has to be done again, in a few words; None when there is none.

    Args:
        anew: Take the place of an adapter of other data, settings or base instead of refusing to.
    Raises:
        RunError: The folder holds something else, or an adapter of other data, settings or base; with the difference.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / SIDE_FILE).exists():
        raise RunError(f"{folder} holds something that is no adapter of Stepladder's.", "Choose another folder, or move it away.")
    try:
        raw = json.loads((folder / SIDE_FILE).read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            return "another version wrote it"
        recorded = Binding(raw["pins"], raw.get("rows", {}))
        if recorded.training != binding.training:
            if not anew:
                raise other_training(f"the adapter at {folder}", recorded, binding)
            return f"it belongs to something else ({'; '.join(differences(recorded, binding))})"
        recorded_files = {WEIGHTS: raw["adapter_sha256"], **raw.get("files_sha256", {})}  # older adapters name the weights only
        if fault := _fault(folder, recorded_files):
            return fault
        return Tuned(
            folder=folder,
            adapter_sha256=raw["adapter_sha256"],
            held_out_nll=tuple(raw["held_out_nll"]),
            history=tuple(TrainPoint(**point) for point in raw["history"]),
            best_step=raw["best_step"],
            steps=raw["steps"],
            seconds=raw["seconds"],
            tokens=raw["tokens"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {SIDE_FILE} cannot be read: {type(error).__name__}"


def _fault(folder: Path, files: Mapping[str, str]) -> str:
    """Which of an adapter's files is not as it was written, in a few words; empty when all are."""
    for name, digest in files.items():
        what = "its weights are" if name == WEIGHTS else f"its {name} is"
        if not (folder / name).is_file():
            return f"{what} missing"
        if hash_file(folder / name) != digest:
            return f"{what} damaged"
    return ""


def model_card(pinned: Mapping[str, Any], tuned: Tuned, proof: Proof) -> str:
    """The adapter folder's README.md."""
    settings = pinned["settings"]
    scaled = "rank-stabilised, " if settings["rank_stabilised"] else ""
    layers = ", ".join(settings["target_modules"]) or "all linear layers but the head"
    weight, smoothing = settings["prompt_loss_weight"], settings["label_smoothing"]
    learned = f"answers, and on prompts with weight {weight:g}" if weight else "answers only (prompts are not learned)"
    smoothed = f"; labels smoothed by {smoothing:g}" if smoothing else ""
    unit = "nats per learned token" if pinned["objective"] == "sft" else "preference loss; ln 2 = 0.6931 before"
    method = (
        "supervised" if pinned["objective"] == "sft" else f"DPO, β {pinned['beta']:g}, from adapter `{pinned['start_sha256']}`"
    )
    stopped = f"mean {sum(tuned.held_out_nll) / len(tuned.held_out_nll):.4f}" if tuned.held_out_nll else "no held-out rows"
    return f"""---
base_model: {json.dumps(pinned["base"])}
library_name: peft
pipeline_tag: text-generation
tags: [lora, stepladder]
---
# LoRA adapter for {pinned["base"]}

Trained by Stepladder on {learned}{smoothed}. Load it on exactly the base model below:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```

| | |
|---|---|
| base model | {pinned["base"]}, sha256 `{pinned["base_sha256"]}` |
| tokenizer, chat template | sha256 `{pinned["tokenizer_sha256"]}`, `{pinned["template_sha256"]}` |
| rank, alpha | {settings["rank"]}, {settings["alpha"]:g}, {scaled}on {layers}; no dropout |
| learning rate | {settings["learning_rate"]:.3g} at its peak, AdamW |
| steps | {tuned.steps} run, step {tuned.best_step} kept |
| held-out loss | {stopped} ({unit}; over {len(tuned.held_out_nll)} rows) |
| method | {method} |
| training data | sha256 `{pinned["data_sha256"]}` |
{"".join(f"| {name} | {found} |{chr(10)}" for name, found in proof.lines())}
`{SIDE_FILE}` beside this file pins all of it and holds the training's history.
"""


def tokenizer_files(folder: Path | None) -> dict[str, bytes]:
    """The tokenizer with its template, by file name; none without a folder."""
    if folder is None:
        return {}
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def write_papers(folder: Path, *, side: Mapping[str, Any], card: str) -> None:
    """What is said about the files: the model card, then the side file. The card is no part of what is compared: it may grow."""
    write_text(folder / "README.md", card)
    write_text(folder / SIDE_FILE, json.dumps(side, indent=2, ensure_ascii=False) + "\n")
