// Ollama's own client for node.

import assert from "node:assert/strict";

import { Ollama } from "ollama";
import { z } from "zod";

import {
  all,
  ANSWER,
  checksOf,
  Entry,
  main,
  MODEL,
  PAGE,
  PAGE_BASE64,
  PLAIN,
  QUESTION,
  RELAY,
  ROOM,
  runCall,
  TOOL,
  URL,
} from "./common.mjs";

const client = new Ollama({ host: URL });
const checks = checksOf("ollama-js", "ollama", "api");
const options = { num_predict: ROOM, temperature: 0 };
const BODY = { model: MODEL, messages: PLAIN, options };
const chat = async (more, by = client) => (await by.chat({ ...BODY, ...more })).message;
const generate = (more) => client.generate({ model: MODEL, prompt: QUESTION, options, ...more });

checks("chat", "", async () => assert.ok((await chat()).content));
checks("chat", "generate", async () => assert.ok((await generate()).response));
checks("stream", "", async () => {
  const pieces = await all(await client.chat({ ...BODY, stream: true }));
  assert.equal(pieces.map(({ message }) => message.content).join(""), (await chat()).content);
  assert.ok(pieces.at(-1).done);
});
// Its messages have a text and images apart, so that there is no order.
checks("image first", "chat", async () => {
  for (const image of [PAGE_BASE64, new Uint8Array(PAGE)]) {
    assert.equal(
      (await chat({ messages: [{ role: "user", content: QUESTION, images: [image] }] })).content,
      ANSWER,
    );
  }
});
checks("image first", "generate", async () => {
  assert.equal((await generate({ images: [PAGE_BASE64] })).response, ANSWER);
});
checks("structured output", "format: schema", async () => {
  Entry.parse(JSON.parse((await chat({ format: z.toJSONSchema(Entry) })).content));
});
checks("tools", "two steps", async () => {
  const first = await chat({ tools: [TOOL] }, new Ollama({ host: RELAY }));
  const results = first.tool_calls.map(({ function: { name, arguments: written } }) => ({
    role: "tool",
    tool_name: name,
    content: runCall(name, written),
  }));
  assert.ok((await chat({ messages: [...PLAIN, first, ...results], tools: [TOOL] })).content);
});
checks("other", "list, show, version", async () => {
  assert.ok((await client.list()).models.some(({ model }) => model.startsWith(MODEL)));
  assert.ok((await client.show({ model: MODEL })).capabilities.includes("vision"));
  assert.ok((await client.version()).version);
});
checks("errors", "", async () => {
  const wrong = chat({ options: { temperature: 9 } });
  await assert.rejects(
    wrong,
    ({ name, status_code, error }) =>
      name === "ResponseError" && status_code === 400 && error.includes("temperature"),
  );
});

await main();
