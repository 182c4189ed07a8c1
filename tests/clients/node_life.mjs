// A job's life through OpenAI's Node SDK: upload, create, events, checkpoints, chat and its stream, delete.
// The last argument is the training file. Prints one JSON object.
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const file = await client.files.create({ file: fs.createReadStream(process.argv.at(-1)), purpose: "fine-tune" });
const made = await client.fineTuning.jobs.create({
  model: "gpt-4o-mini",
  training_file: file.id,
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
});
let job = made;
for (const until = Date.now() + 500_000; !["succeeded", "failed", "cancelled"].includes(job.status); ) {
  if (Date.now() > until) throw new Error(`the job is still ${job.status}`);
  await sleep(200);
  job = await client.fineTuning.jobs.retrieve(job.id);
}
const events = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 3 })) events.push(event.message);
const checkpoints = [];
for await (const one of client.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(one.step_number);
const asked = { model: job.fine_tuned_model, messages: [{ role: "user", content: "Where is parcel number 4?" }], max_tokens: 8, temperature: 0 };
const answer = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) streamed += chunk.choices[0]?.delta?.content ?? "";
const grader = { type: "string_check", name: "same", input: "{{ sample.output_text }}", reference: "x", operation: "eq" };
const graded = await client.fineTuning.alpha.graders.run({ grader, model_sample: "x" });
const deleted = await client.models.delete(job.fine_tuned_model);
console.log(
  JSON.stringify({
    status: job.status,
    model: job.fine_tuned_model,
    events,
    checkpoints,
    answer: answer.choices[0].message.content,
    streamed,
    reward: graded.reward,
    deleted: deleted.deleted,
  }),
);
