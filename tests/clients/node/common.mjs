// What the checks of node's clients share; the same as common.py has for Python's.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { z } from "zod";

export const URL = process.env.ARRCOC_URL;
export const MODEL = process.env.ARRCOC_MODEL;
// Requires calls for clients that cannot.
export const RELAY = process.env.ARRCOC_RELAY;
export const API = `${URL}/v1`;
export const KEY = "none";
export const PAGE = readFileSync(process.env.ARRCOC_PAGE);
export const PAGE_BASE64 = PAGE.toString("base64");
export const PAGE_URL = `data:image/png;base64,${PAGE_BASE64}`;
export const QUESTION = "Which number belongs to DZ?";
export const ANSWER = "284";
export const ROOM = 400;
const SECONDS_PER_CHECK = 60;
const LONGEST_REASON = 600;

export const TEXT_PART = { type: "text", text: QUESTION };
export const IMAGE_PART = { type: "image_url", image_url: { url: PAGE_URL } };
export const PLAIN = [{ role: "user", content: QUESTION }];
export const Key = z.enum(["DZ", "LD"]);
export const Entry = z
  .object({ key: Key, number: z.number().int().min(0).max(999), certain: z.boolean() })
  .strict();
export const Choice = z.object({ key: Key, certain: z.boolean() }).strict();
export const DESCRIPTION = "Looks up the number that belongs to a key of the ledger.";
export const TOOL_PARAMETERS = {
  type: "object",
  properties: { key: { type: "string", enum: ["DZ", "LD"] } },
  required: ["key"],
  additionalProperties: false,
};
export const TOOL = {
  type: "function",
  function: { name: "look_up", description: DESCRIPTION, parameters: TOOL_PARAMETERS },
};

export const lookUp = (key) => ({ DZ: "284", LD: "122" })[Key.parse(key)];

// The tool's result for a call that a model wrote.
export function runCall(name, written) {
  assert.equal(name, "look_up");
  return lookUp((typeof written === "string" ? JSON.parse(written) : written).key);
}

// The version of a package, from its own description.
export function version(name) {
  return JSON.parse(readFileSync(new globalThis.URL(`node_modules/${name}/package.json`, import.meta.url)))
    .version;
}

// The message with which the server refuses a body; clients must show it.
export async function refusal(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(URL + path, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(answer.status, 400, `${path}: ${answer.status}`);
  const { error } = await answer.json();
  return typeof error === "string" ? error : error.message;
}

// The client's own error, with the server's message in it.
export async function raises(kind, message, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `expected ${kind.name}, found ${error?.constructor?.name}: ${error}`);
    assert.ok(String(error.message).includes(message), `expected ${message} in ${error.message}`);
    return error;
  }
  throw new Error(`expected ${kind.name}, found no error`);
}

export async function all(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

const list = [];

// The checks of one client over one of the server's interfaces: `checks(column, mode, check)`.
export function checksOf(client, name, api) {
  const head = { client, version: version(name), api };
  return (column, mode, check) => list.push({ head: { ...head, column, mode }, check });
}

const write = (head, result) => console.log("CHECK " + JSON.stringify({ ...head, ...result }));

function reasonOf(error) {
  const own =
    String(error?.stack)
      .split("\n")
      .find((line) => /clients\/node\/[a-z_]+\.mjs/.test(line)) ?? "";
  const place = own.match(/[a-z_]+\.mjs:\d+/)?.[0] ?? "?";
  return `${error?.name}: ${error?.message}`.replace(/\s+/g, " ").slice(0, LONGEST_REASON) + ` [${place}]`;
}

async function limited(check) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no end after ${SECONDS_PER_CHECK} s`)),
      SECONDS_PER_CHECK * 1000,
    );
  });
  await Promise.race([check(), late]).finally(() => clearTimeout(timer));
}

// Runs all checks of this process, or those that have the word of the command line.
export async function main() {
  const word = process.argv[2] ?? "";
  const wanted = list.filter(({ head }) => Object.values(head).join(" ").includes(word));
  // Before the first runs: what a process that dies has not told is missing, not forgotten.
  for (const { head } of wanted) write(head, { planned: true });
  for (const { head, check } of wanted) {
    try {
      await limited(check);
      write(head, { ok: true });
    } catch (error) {
      write(head, { ok: false, reason: reasonOf(error) });
    }
  }
}
