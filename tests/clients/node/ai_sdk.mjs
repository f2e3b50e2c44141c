// Vercel's AI SDK, by its provider for compatible servers, and by its provider for OpenAI, which speaks
// responses.

import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  generateObject,
  generateText,
  isStepCount,
  Output,
  streamObject,
  streamText,
  tool,
} from "ai";
import { z } from "zod";

import {
  all,
  ANSWER,
  API,
  checksOf,
  DESCRIPTION,
  Entry,
  KEY,
  Key,
  lookUp,
  main,
  MODEL,
  PAGE,
  PLAIN,
  QUESTION,
  raises,
  refusal,
  ROOM,
} from "./common.mjs";

const compatible = { name: "arrcoc", baseURL: API, apiKey: KEY };
const openai = createOpenAI({ baseURL: API, apiKey: KEY });
const TEXT = { type: "text", text: QUESTION };
const IMAGE = { type: "image", image: PAGE, mediaType: "image/png" };

function add(checks, model, path, body, json) {
  const options = { model, prompt: QUESTION, maxOutputTokens: ROOM, maxRetries: 0, temperature: 0 };
  const shown = (...content) => {
    const { prompt: _, ...rest } = options;
    return { ...rest, messages: [{ role: "user", content }] };
  };

  checks("chat", "", async () => {
    const { text, usage } = await generateText({ ...options, system: "Answer with a number." });
    assert.ok(text && usage.outputTokens);
  });
  checks("stream", "", async () => {
    const { textStream } = streamText(options);
    assert.equal((await all(textStream)).join(""), (await generateText(options)).text);
  });
  checks("image first", "", async () => assert.equal((await generateText(shown(IMAGE, TEXT))).text, ANSWER));
  checks("text first", "", async () => assert.equal((await generateText(shown(TEXT, IMAGE))).text, ANSWER));

  checks("structured output", "generateObject", async () => {
    Entry.parse((await generateObject({ ...options, schema: Entry })).object);
  });
  checks("structured output", "generateObject, enum", async () => {
    assert.ok(
      ["DZ", "LD"].includes(
        (await generateObject({ ...options, output: "enum", enum: ["DZ", "LD"] })).object,
      ),
    );
  });
  checks("structured output", "streamObject", async () => {
    const { partialObjectStream, object } = streamObject({ ...options, schema: Entry });
    assert.ok((await all(partialObjectStream)).length);
    Entry.parse(await object);
  });
  checks("structured output", "Output.object", async () => {
    Entry.parse((await generateText({ ...options, output: Output.object({ schema: Entry }) })).output);
  });
  if (json) checks("structured output", "json_object", async () => json(options));

  const look_up = tool({
    description: DESCRIPTION,
    inputSchema: z.object({ key: Key }).strict(),
    execute: async ({ key }) => lookUp(key),
  });
  // The model was not trained to call: it must at first, and must not once it has the result.
  const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
  const calling = { ...options, tools: { look_up }, stopWhen: isStepCount(3), prepareStep };

  checks("tools", "generateText", async () => {
    const { steps, text } = await generateText(calling);
    assert.ok(steps[0].toolResults.length && steps.length === 2 && text);
  });
  checks("tools", "streamText", async () => {
    const types = (await all(streamText(calling).fullStream)).map(({ type }) => type);
    assert.ok(
      types.includes("tool-result") && types.includes("text-delta") && !types.includes("error"),
      types.join(),
    );
  });
  checks("tools", "named", async () => {
    const { toolCalls } = await generateText({
      ...options,
      tools: { look_up },
      toolChoice: { type: "tool", toolName: "look_up" },
    });
    assert.ok(
      toolCalls.length && toolCalls.every(({ toolName, invalid }) => toolName === "look_up" && !invalid),
    );
  });
  checks("errors", "", async () => {
    const message = await refusal(path, { model: MODEL, ...body, temperature: 9 });
    const error = await raises(APICallError, message, () => generateText({ ...options, temperature: 9 }));
    assert.equal(error.statusCode, 400);
  });
}

// Without supportsStructuredOutputs it asks for some object, which this model does not make an entry of.
async function anyObject(options) {
  const model = createOpenAICompatible(compatible)(MODEL);
  for (let seed = 0; seed < 24; seed += 1) {
    try {
      const asked = { ...options, model, seed, temperature: 1.5, schema: z.looseObject({}) };
      return assert.equal(typeof (await generateObject(asked)).object, "object");
    } catch (error) {
      // What has no end is no object, and the SDK says so.
      if (error.name !== "AI_NoObjectGeneratedError") throw error;
    }
  }
  throw new Error("no answer ended");
}

const [chat, responses] = ["/v1/chat/completions", "/v1/responses"];
add(
  checksOf("AI SDK openai-compatible", "@ai-sdk/openai-compatible", "chat"),
  createOpenAICompatible({ ...compatible, supportsStructuredOutputs: true })(MODEL),
  chat,
  { messages: PLAIN },
  anyObject,
);
add(checksOf("AI SDK openai", "@ai-sdk/openai", "chat"), openai.chat(MODEL), chat, { messages: PLAIN });
add(checksOf("AI SDK openai", "@ai-sdk/openai", "responses"), openai(MODEL), responses, { input: QUESTION });

await main();
