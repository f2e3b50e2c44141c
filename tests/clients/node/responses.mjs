// OpenAI's own client for node, responses.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";

import {
  all,
  ANSWER,
  API,
  checksOf,
  DESCRIPTION,
  Entry,
  KEY,
  main,
  MODEL,
  PAGE_URL,
  QUESTION,
  raises,
  refusal,
  ROOM,
  runCall,
  TOOL_PARAMETERS,
} from "./common.mjs";

const client = new OpenAI({ baseURL: API, apiKey: KEY, maxRetries: 0 });
const checks = checksOf("openai-node", "openai", "responses");
const BODY = { model: MODEL, input: QUESTION, max_output_tokens: ROOM };
const TEXT = { type: "input_text", text: QUESTION };
const IMAGE = { type: "input_image", image_url: PAGE_URL, detail: "auto" };
const TOOL = {
  type: "function",
  name: "look_up",
  description: DESCRIPTION,
  parameters: TOOL_PARAMETERS,
  strict: true,
};
const create = (options) => client.responses.create({ ...BODY, ...options });
const text = async (options) => (await create(options)).output_text;
const called = ({ output }) => output.filter(({ type }) => type === "function_call");

checks("chat", "", async () => assert.ok(await text({ instructions: "Answer with a number." })));
checks("chat", "previous_response_id", async () => {
  const { id } = await create();
  assert.ok(await text({ input: "And LD?", previous_response_id: id }));
});
checks("stream", "", async () => {
  const events = await all(await create({ stream: true }));
  const deltas = events.filter(({ type }) => type === "response.output_text.delta");
  assert.equal(deltas.map(({ delta }) => delta).join(""), await text());
  assert.equal(events.at(-1).type, "response.completed");
});
checks("stream", "helper", async () => {
  const { output_text } = await client.responses.stream(BODY).finalResponse();
  assert.equal(output_text, await text());
});
checks("image first", "", async () => {
  assert.equal(await text({ input: [{ role: "user", content: [IMAGE, TEXT] }] }), ANSWER);
});
checks("text first", "", async () => {
  assert.equal(await text({ input: [{ role: "user", content: [TEXT, IMAGE] }] }), ANSWER);
});
checks("structured output", "parse, zod", async () => {
  const { output_parsed } = await client.responses.parse({
    ...BODY,
    text: { format: zodTextFormat(Entry, "entry") },
  });
  Entry.parse(output_parsed);
});
checks("structured output", "stream, zod", async () => {
  const stream = client.responses.stream({ ...BODY, text: { format: zodTextFormat(Entry, "entry") } });
  Entry.parse((await stream.finalResponse()).output_parsed);
});
checks("tools", "required", async () => {
  const first = await create({ tools: [TOOL], tool_choice: "required" });
  const calls = called(first);
  assert.ok(calls.length);
  const results = calls.map(({ call_id, name, arguments: written }) => ({
    type: "function_call_output",
    call_id,
    output: runCall(name, written),
  }));
  const input = [{ role: "user", content: QUESTION }, ...first.output, ...results];
  assert.ok(await text({ input, tools: [TOOL] }));
});
checks("tools", "stream", async () => {
  const final = await client.responses
    .stream({ ...BODY, tools: [TOOL], tool_choice: "required" })
    .finalResponse();
  for (const { name, arguments: written } of called(final)) runCall(name, written);
  assert.ok(called(final).length);
});
checks("errors", "", async () => {
  const message = await refusal("/v1/responses", { ...BODY, temperature: 9 });
  await raises(OpenAI.BadRequestError, message, () => create({ temperature: 9 }));
});

await main();
