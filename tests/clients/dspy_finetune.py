"""DSPy bootstraps a fine-tune: it uploads rows, makes the job, polls it, and asks the model that came of it."""

import json
import os
import sys
from pathlib import Path

import dspy
from dspy.clients.openai import OpenAIProvider
from dspy.clients.utils_finetune import TrainDataFormat

BASE = "gpt-4o-mini-2024-07-18"
provider = OpenAIProvider()
lm = dspy.LM(
    f"openai/{BASE}",
    provider=provider,
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    cache=False,
    max_tokens=16,
    temperature=0.0,
)
rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
job = lm.finetune(rows, TrainDataFormat.CHAT, {"n_epochs": 1, "batch_size": 4})
tuned = job.result()
if isinstance(tuned, Exception):
    raise tuned
job_id = job.provider_job_id
answer = dspy.LM(
    tuned.model,
    custom_llm_provider="openai",
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    cache=False,
    max_tokens=16,
    temperature=0.0,
)("Where is parcel number 4?")
print(
    json.dumps({"model": tuned.model, "job": job_id, "answers": [one if isinstance(one, str) else one["text"] for one in answer]})
)
