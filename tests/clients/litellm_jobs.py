"""A job through the LiteLLM SDK, whose own types are strict; then a chat with its model. Arguments: the training file."""

import json
import os
import sys
import time
from pathlib import Path

import litellm

litellm.suppress_debug_info = True

where = {
    "custom_llm_provider": "openai",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
}
with Path(sys.argv[1]).open("rb") as rows:
    file = litellm.create_file(file=rows, purpose="fine-tune", **where)
job = litellm.create_fine_tuning_job(
    model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 1, "batch_size": 4}, **where
)
until = time.monotonic() + 500
while (found := litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **where)).status not in (
    "succeeded",
    "failed",
    "cancelled",
):
    if time.monotonic() > until:
        raise SystemExit(f"the job is still {found.status}")
    time.sleep(0.2)
listed = [one.id for one in litellm.list_fine_tuning_jobs(limit=5, **where)]
asked = [{"role": "user", "content": "Where is parcel number 4?"}]
answer = litellm.completion(model=found.fine_tuned_model, messages=asked, max_tokens=8, temperature=0, **where)
pieces = litellm.completion(model=found.fine_tuned_model, messages=asked, max_tokens=8, temperature=0, stream=True, **where)
second = litellm.create_fine_tuning_job(model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 50}, **where)
cancelled = litellm.cancel_fine_tuning_job(fine_tuning_job_id=second.id, **where)
print(
    json.dumps(
        {
            "status": found.status,
            "model": found.fine_tuned_model,
            "listed": job.id in listed,
            "answer": answer.choices[0].message.content,
            "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces),
            "cancelled": cancelled.status,
        }
    )
)
