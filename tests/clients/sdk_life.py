"""A job's whole life through OpenAI's Python SDK, which refuses every answer that is not of the promised type.

Run by the Python of an environment with `openai` alone; its arguments are the files to train and to validate on. Prints one
JSON object: what happened, and every reply as it came over the wire.
"""

import json
import sys
import time
from pathlib import Path
from typing import Literal

import httpx2
from openai import NotFoundError, OpenAI
from pydantic import BaseModel

TRAINING, VALIDATION = map(Path, sys.argv[1:3])
DEADLINE_SECONDS = 500
replies = []


def keep(reply):
    """Note a reply that is JSON and not a stream."""
    if reply.headers.get("content-type", "").startswith("application/json"):
        reply.read()
        replies.append([reply.request.method, reply.request.url.path, reply.status_code, reply.json()])


client = OpenAI(max_retries=0, _strict_response_validation=True, http_client=httpx2.Client(event_hooks={"response": [keep]}))


def wait_for(job, *wanted):
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        found = client.fine_tuning.jobs.retrieve(job)
        if found.status in wanted:
            return found
        del replies[-1]  # a look at a job under way is like the one before
        if found.status in ("failed", "succeeded", "cancelled"):
            break
        time.sleep(0.1)
    raise SystemExit(f"the job is {found.status}: {found.error}")


class Answer(BaseModel):
    word: Literal["refund", "delivery"]


training = client.files.create(file=TRAINING, purpose="fine-tune")
validation = client.files.create(file=VALIDATION, purpose="fine-tune")
client.files.wait_for_processing(training.id)
job = client.fine_tuning.jobs.create(
    model="gpt-4o-mini-2024-07-18",
    training_file=training.id,
    validation_file=validation.id,
    suffix="desk",
    seed=7,
    metadata={"team": "blue"},
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 40, "batch_size": 1, "lora_rank": 2}}},
)
wait_for(job.id, "running")
plain = OpenAI(max_retries=0)  # the strict types know no job that is paused, since OpenAI's own description does not
plain.fine_tuning.jobs.pause(job.id)
until = time.monotonic() + DEADLINE_SECONDS
while (status := plain.fine_tuning.jobs.retrieve(job.id).status) != "paused" and time.monotonic() < until:
    time.sleep(0.1)
paused = status
client.fine_tuning.jobs.resume(job.id)
done = wait_for(job.id, "succeeded")
events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=50)]
checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
listed = [one.id for one in client.fine_tuning.jobs.list(limit=1)]  # page by page; other clients have jobs there, too
result = client.files.content(done.result_files[0]).read()

asked = [{"role": "user", "content": "Where is parcel number 4?"}]
answer = client.chat.completions.create(model=done.fine_tuned_model, messages=asked, max_tokens=8, temperature=0)
stream = client.chat.completions.create(
    model=done.fine_tuned_model, messages=asked, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
formed = client.chat.completions.parse(model=done.fine_tuned_model, messages=asked, max_tokens=64, response_format=Answer)
of_checkpoint = client.chat.completions.create(
    model=checkpoints[-1].fine_tuned_model_checkpoint, messages=asked, max_tokens=8, temperature=0
)

names = {model.id for model in client.models.list()}
shown = client.models.retrieve(done.fine_tuned_model).id
gone = client.models.delete(done.fine_tuned_model).deleted
try:
    client.models.retrieve(done.fine_tuned_model)
    missing = ""
except NotFoundError as error:
    missing = error.code
client.files.delete(training.id)

print(
    json.dumps(
        {
            "paused": paused,
            "model": done.fine_tuned_model,
            "listed": job.id in listed,
            "events": events,
            "checkpoints": [one.step_number for one in checkpoints],
            "newest_checkpoint": checkpoints[0].fine_tuned_model_checkpoint,
            "result_bytes": len(result),
            "answer": answer.choices[0].message.content,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "usage": answer.usage.total_tokens == chunks[-1].usage.total_tokens,
            "formed": formed.choices[0].message.content,
            "oldest_checkpoint": checkpoints[-1].fine_tuned_model_checkpoint,
            "of_checkpoint": of_checkpoint.model,
            "listed_model": done.fine_tuned_model in names and shown == done.fine_tuned_model,
            "gone": gone,
            "missing": missing,
            "replies": replies,
        }
    )
)
