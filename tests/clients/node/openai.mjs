// OpenAI's own client for node, chat completions and completions.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import {
  all,
  ANSWER,
  API,
  checksOf,
  DESCRIPTION,
  Entry,
  IMAGE_PART,
  KEY,
  Key,
  lookUp,
  main,
  MODEL,
  PLAIN,
  raises,
  refusal,
  RELAY,
  ROOM,
  runCall,
  TEXT_PART,
  TOOL,
} from "./common.mjs";

const client = new OpenAI({ baseURL: API, apiKey: KEY, maxRetries: 0 });
const chat = checksOf("openai-node", "openai", "chat");
const texts = checksOf("openai-node", "openai", "completions");
const BODY = { model: MODEL, messages: PLAIN, max_tokens: ROOM };
const create = (options) => client.chat.completions.create({ ...BODY, ...options });
const answer = async (options) => (await create(options)).choices[0];
const text = async (options) => (await answer(options)).message.content;
const user = (...content) => [{ role: "user", content }];

chat("chat", "", async () => {
  const { choices, usage } = await create();
  assert.ok(choices[0].message.content && choices[0].finish_reason === "stop" && usage.total_tokens);
});
chat("chat", "withResponse", async () => {
  const { response, request_id } = await create().withResponse();
  assert.ok(response.ok && request_id);
});
chat("stream", "", async () => {
  const chunks = await all(await create({ stream: true, stream_options: { include_usage: true } }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), await text());
  assert.ok(chunks.at(-1).usage.completion_tokens);
});
chat("stream", "helper", async () => {
  const stream = client.chat.completions.stream(BODY);
  let streamed = "";
  stream.on("content", (delta) => {
    streamed += delta;
  });
  assert.equal(await stream.finalContent(), streamed);
});
chat("stream", "abort", async () => {
  const stream = await create({ stream: true, max_tokens: 2000, ignore_eos: true });
  for await (const _ of stream) break;
  assert.ok(stream.controller.signal.aborted);
});
chat("image first", "", async () =>
  assert.equal(await text({ messages: user(IMAGE_PART, TEXT_PART) }), ANSWER),
);
chat("text first", "", async () =>
  assert.equal(await text({ messages: user(TEXT_PART, IMAGE_PART) }), ANSWER),
);

const response_format = zodResponseFormat(Entry, "entry");
chat("structured output", "json_schema", async () =>
  Entry.parse(JSON.parse(await text({ response_format }))),
);
chat("structured output", "json_object", async () => {
  for (let seed = 0; seed < 16; seed += 1) {
    const options = { response_format: { type: "json_object" }, seed, temperature: 1.5 };
    const { finish_reason, message } = await answer(options);
    if (finish_reason === "stop") return assert.equal(typeof JSON.parse(message.content), "object");
  }
  throw new Error("no answer ended");
});
chat("structured output", "parse, zod", async () => {
  const { choices } = await client.chat.completions.parse({ ...BODY, response_format });
  Entry.parse(choices[0].message.parsed);
});
chat("structured output", "stream, zod", async () => {
  const { choices } = await client.chat.completions
    .stream({ ...BODY, response_format })
    .finalChatCompletion();
  Entry.parse(choices[0].message.parsed);
});

async function twoSteps(tool_choice) {
  const first = await answer({ tools: [TOOL], tool_choice });
  assert.equal(first.finish_reason, "tool_calls");
  const results = first.message.tool_calls.map(({ id, function: { name, arguments: written } }) => ({
    role: "tool",
    tool_call_id: id,
    content: runCall(name, written),
  }));
  assert.ok(await text({ messages: [...PLAIN, first.message, ...results], tools: [TOOL] }));
}

chat("tools", "required", () => twoSteps("required"));
chat("tools", "named", () => twoSteps({ type: "function", function: { name: "look_up" } }));
chat("tools", "stream", async () => {
  const stream = client.chat.completions.stream({ ...BODY, tools: [TOOL], tool_choice: "required" });
  const { choices } = await stream.finalChatCompletion();
  for (const call of choices[0].message.tool_calls) runCall(call.function.name, call.function.arguments);
  assert.ok(choices[0].message.tool_calls.length);
});
chat("tools", "parse, zod", async () => {
  const tools = [zodFunction({ name: "enter", parameters: Entry })];
  const { choices } = await client.chat.completions.parse({ ...BODY, tools, tool_choice: "required" });
  Entry.parse(choices[0].message.tool_calls[0].function.parsed_arguments);
});
chat("tools", "runTools", async () => {
  const relayed = new OpenAI({ baseURL: `${RELAY}/v1`, apiKey: KEY, maxRetries: 0 });
  const results = [];
  const run = ({ key }) => {
    results.push(lookUp(key));
    return results.at(-1);
  };
  const parameters = z.object({ key: Key }).strict();
  const tool = zodFunction({ name: "look_up", description: DESCRIPTION, parameters, function: run });
  assert.ok(await relayed.chat.completions.runTools({ ...BODY, tools: [tool] }).finalContent());
  assert.ok(results.length);
});
chat("errors", "", async () => {
  const message = await refusal("/v1/chat/completions", { ...BODY, temperature: 9 });
  const error = await raises(OpenAI.BadRequestError, message, () => create({ temperature: 9 }));
  assert.equal(error.param, "temperature");
});
chat("errors", "not found", () => raises(OpenAI.NotFoundError, MODEL, () => create({ model: "other" })));

const complete = (options) =>
  client.completions.create({ model: MODEL, prompt: "Which number", max_tokens: 8, ...options });
texts("chat", "", async () => assert.ok((await complete()).usage.completion_tokens));
texts("stream", "", async () => {
  const chunks = await all(await complete({ stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), (await complete()).choices[0].text);
});
texts("other", "list of prompts", async () =>
  assert.equal((await complete({ prompt: ["a", "b"] })).choices.length, 2),
);

await main();
