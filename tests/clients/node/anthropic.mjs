// Anthropic's own client for node.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";

import {
  ANSWER,
  checksOf,
  Choice,
  DESCRIPTION,
  KEY,
  main,
  MODEL,
  PAGE_BASE64,
  PLAIN,
  QUESTION,
  raises,
  refusal,
  ROOM,
  runCall,
  TOOL_PARAMETERS,
  URL,
} from "./common.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY, maxRetries: 0 });
const checks = checksOf("anthropic-node", "@anthropic-ai/sdk", "messages");
const BODY = { model: MODEL, max_tokens: ROOM, messages: PLAIN };
const TEXT = { type: "text", text: QUESTION };
const IMAGE = { type: "image", source: { type: "base64", media_type: "image/png", data: PAGE_BASE64 } };
const TOOL = { name: "look_up", description: DESCRIPTION, input_schema: TOOL_PARAMETERS };
const create = (options) => client.messages.create({ ...BODY, ...options });
const textOf = ({ content }) =>
  content
    .filter(({ type }) => type === "text")
    .map(({ text }) => text)
    .join("");
const shown = async (...content) => textOf(await create({ messages: [{ role: "user", content }] }));
const called = ({ content }) => content.filter(({ type }) => type === "tool_use");

checks("chat", "", async () => assert.ok(textOf(await create({ system: "Answer with a number." }))));
checks("stream", "helper", async () => {
  const stream = client.messages.stream(BODY);
  let streamed = "";
  stream.on("text", (delta) => {
    streamed += delta;
  });
  assert.equal(await stream.finalText(), streamed);
  assert.equal(streamed, textOf(await create()));
});
checks("image first", "", async () => assert.equal(await shown(IMAGE, TEXT), ANSWER));
checks("text first", "", async () => assert.equal(await shown(TEXT, IMAGE), ANSWER));
checks("structured output", "parse, zod", async () => {
  const { parsed_output } = await client.messages.parse({
    ...BODY,
    output_config: { format: zodOutputFormat(Choice) },
  });
  Choice.parse(parsed_output);
});
checks("tools", "any", async () => {
  const first = await create({ tools: [TOOL], tool_choice: { type: "any" } });
  assert.equal(first.stop_reason, "tool_use");
  const results = called(first).map(({ id, name, input }) => ({
    type: "tool_result",
    tool_use_id: id,
    content: runCall(name, input),
  }));
  const { content } = first;
  const messages = [...PLAIN, { role: "assistant", content }, { role: "user", content: results }];
  assert.ok(textOf(await create({ messages, tools: [TOOL] })));
});
checks("tools", "stream", async () => {
  const final = await client.messages
    .stream({ ...BODY, tools: [TOOL], tool_choice: { type: "any" } })
    .finalMessage();
  for (const { name, input } of called(final)) runCall(name, input);
  assert.ok(called(final).length);
});
checks("errors", "", async () => {
  const message = await refusal("/v1/messages", { ...BODY, temperature: 9 });
  await raises(Anthropic.BadRequestError, message, () => create({ temperature: 9 }));
});

await main();
