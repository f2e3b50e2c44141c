#!/usr/bin/env python3
"""Renders chat templates of many families with transformers, and tokenises what they write.

    python reference/prompts/make_table.py runtime/src/prompt/table.json

The runtime's test `prompts_equal_transformers` renders the same conversations and compares. Versions: requirements.lock.
"""

import datetime
import hashlib
import json
import sys

import jinja2
import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import features
import text_families
import tool_families
import vision_families

NOW = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
IMAGE = {"type": "image"}
STRUCTURE = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<image>", "<IMG_CONTEXT>", "[IMG]",
    "<start_of_image>", "<|image|>", "<|image_1|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]",
    "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<end_of_utterance>", "<|start|>",
    "<|message|>", "<｜User｜>", "<｜Assistant｜>", "<|END_OF_TURN_TOKEN|>",
]


def text(words):
    return {"type": "text", "text": words}


def says(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = {
    "single": [says("user", "Which number belongs to DZ?")],
    "system": [says("system", "Be brief."), says("user", "Hello there")],
    "turns": [says("user", "Hi"), says("assistant", "Hello! How can I help?"), says("user", "Tell me a joke.")],
    "system turns": [
        says("system", " Be brief. "), says("user", "One"), says("assistant", "Two"), says("user", "Three"),
        says("assistant", "Four"), says("user", "Five"),
    ],
    "ends with assistant": [says("user", "Count"), says("assistant", "1, 2, 3")],
    "list of one": [says("user", [text("in a list")])],
    "list of two": [says("user", [text("first"), text("second")])],
    "image first": [says("user", [IMAGE, text("What is this?")])],
    "image last": [says("user", [text("What is this?"), IMAGE])],
    "two images": [says("user", [IMAGE, text("and"), IMAGE, text("differ how?")])],
    "image with system": [says("system", "Look closely."), says("user", [IMAGE, text("Colour?")])],
    "image in the past": [
        says("user", [IMAGE, text("What?")]), says("assistant", "A cat."), says("user", "Where?"),
    ],
    "empty": [says("user", "")],
    "unicode": [says("user", "naïve Ünïcödé → 日本語 😀 e\u0301 \u00a0nbsp")],
    "white space": [says("user", "  two  spaces \n\n\ttab \r\n end \n ")],
    "quotes": [says("user", "it's \"quoted\" \\ {'a': 1} <b>&amp;</b> {{ no }} {% no %}")],
    "thinks": [says("user", "why"), says("assistant", "<think>\nhm </think> a</think>\n\nbecause"), says("user", "ok")],
    "long": [says("user", "word " * 60)],
    "control tokens": [says("user", "a<|im_end|>\n<|im_start|>system\n<image><start_of_turn></s>[INST]")],
    "two users": [says("user", "one"), says("user", "two")],
    "thoughts": [says("user", "why"), {**says("assistant", "because"), "reasoning_content": "\n\nhm\nso\n"}, says("user", "ok")],
    "thoughts at the end": [says("user", "why"), {**says("assistant", "\nbecause"), "reasoning_content": "hm</think>"}],
    "unthinking": [says("user", "why")],
    "little effort": [says("user", "why")],
}
# What is given to the template besides.
VARIABLES = {"unthinking": {"enable_thinking": False}, "little effort": {"reasoning_effort": "low", "unread": [{"a": 1.5}]}}


def function(name, properties, **more):
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": name, "description": f"Does <{name}> & 'more' \"ä\"", "parameters": parameters}}


TOOLS = [
    function("weather", {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}}, required=["city"]),
    function("now", {}),
]


def calls(*named):
    return [
        {"id": f"call0000{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(named)
    ]


def result(index, name, content):
    return {"role": "tool", "content": content, "tool_call_id": f"call0000{index}", "name": name}


OSLO = ("weather", {"city": "Oslo <b> 'x' \"y\" é", "days": 3, "near": [1, {"a": None, "b": True}]})
# Conversations of those templates alone that have places for tools; all of them with TOOLS, but for the last.
TOOL_CONVERSATIONS = {
    "offered": [says("system", "Be brief."), says("user", "How is Oslo?")],
    "offered without instructions": [says("user", "How is Oslo?")],
    "called": [
        says("user", "How is Oslo?"), {**says("assistant", ""), "tool_calls": calls(OSLO)}, result(0, "weather", "{\"t\": -3}"),
    ],
    "called with words": [
        says("user", "How is Oslo?"), {**says("assistant", "Let me see."), "tool_calls": calls(OSLO)}, result(0, "weather", "cold"),
        says("assistant", "Cold."), says("user", "And now?"),
    ],
    "called twice": [
        says("user", "How is Oslo?"), {**says("assistant", ""), "tool_calls": calls(OSLO, ("now", {}))}, result(0, "weather", "cold"),
        result(1, "now", "12:00"),
    ],
    "called before, and offered no more": [
        says("user", "How is Oslo?"), {**says("assistant", ""), "tool_calls": calls(OSLO)}, result(0, "weather", "cold"),
    ],
}


def with_arguments(conversation, objects):
    """Arguments as objects, or as JSON in strings."""
    def message(message):
        if objects or "tool_calls" not in message:
            return message
        strings = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}}
            for call in message["tool_calls"]
        ]
        return {**message, "tool_calls": strings}

    return [message(each) for each in conversation]


def as_read(conversation, reads, image_token):
    """Contents in the form that a template reads: what the client sent, where it reads that."""

    def content(value):
        if reads == "lists" and isinstance(value, str):
            return [text(value)]
        if reads == "strings" and isinstance(value, list):
            return "\n".join(part.get("text", image_token) for part in value)
        if isinstance(value, list) and len(value) == 1 and "text" in value[0] and reads == "both":
            return value[0]["text"]
        return value

    return [{**message, "content": content(message["content"])} for message in conversation]


def corpus():
    texts = [template for template in text_families.TEMPLATES.values()]
    for conversation in CONVERSATIONS.values():
        for message in conversation:
            content = message["content"]
            texts += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return [line for text in texts for line in text.splitlines()] * 2


def added(**options):
    return [AddedToken(token, special=True, normalized=False, **options) for token in STRUCTURE]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>")] + added())
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("naïve", single_word=True, normalized=True)])
    return tokenizer


def sentence_piece(tokenizer, prepend):
    """A trained BPE with bytes for what it does not know, as SentencePiece's converters write it."""
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, limit_alphabet=60)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.train_from_iterator(corpus(), trainer)
    data = json.loads(tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    data["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    return Tokenizer.from_str(json.dumps(data))


def llama2():
    tokenizer = sentence_piece(Tokenizer(models.BPE(unk_token="<unk>")), "always")
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(added())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def metaspace():
    """Metaspace, and added tokens that take white space or only whole words."""
    tokenizer = sentence_piece(Tokenizer(models.BPE(unk_token="<unk>")), "first")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    half = len(STRUCTURE) // 2
    tokenizer.add_special_tokens(added(rstrip=True)[:half] + added(lstrip=True)[half:])
    tokenizer.add_tokens([AddedToken("brief", single_word=True, normalized=False), AddedToken("joke", normalized=True, lstrip=True)])
    return tokenizer


def digest(ids):
    return hashlib.sha256(b"".join(int(token).to_bytes(4, "little") for token in ids)).hexdigest()[:12]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW.timetuple()[:6])


def templates():
    for name, source in text_families.TEMPLATES.items():
        yield name, source, "<image>", "strings"
    for name, (source, image, reads) in vision_families.TEMPLATES.items():
        yield name, source, image, reads
    for name, source in features.TEMPLATES.items():
        yield name, source, "<image>", "strings"


def tool_rows(backends):
    """Templates with places for tools: beside the usual cells those of TOOL_CONVERSATIONS."""
    for name, (source, syntax, reads, objects) in tool_families.TEMPLATES.items():
        options = {key: value for key, value in config(name).items() if value is not None}
        fast = [PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=source, **options) for backend in backends]
        image = "<|image_pad|>" if reads == "both" else "<image>"
        cells = [
            cell(fast, as_read(conversation, reads, image), VARIABLES.get(title, {}), title != "control tokens")
            for title, conversation in CONVERSATIONS.items()
        ]
        tool_cells = [
            cell(fast, with_arguments(conversation, objects), {"tools": offered(title)}, True)
            for title, conversation in TOOL_CONVERSATIONS.items()
        ]
        yield {
            "name": name, "template": source, "config": config(name), "image": image, "reads": reads, "syntax": syntax, "cells": cells,
            "tool_cells": tool_cells,
        }


def offered(title):
    return None if title.endswith("offered no more") else TOOLS


def config(name):
    """Templates of text families name their tokens; the corners have none, and one of them a null."""
    if name.startswith("py-"):
        return {"bos_token": None, "eos_token": "</s>", "extra_special_tokens": {"image_token": "<image>"}}
    return {"bos_token": "<s>", "eos_token": "</s>", "unk_token": None, "pad_token": "</s>"}


def cell(fast, conversation, variables, with_ids):
    """What transformers' processors do: render, and add special tokens unless the prompt begins with the first of them."""
    try:
        prompt = fast[0].apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **variables)
    except Exception as error:
        return {"error": type(error).__name__}
    ids = []
    for tokenizer in fast if with_ids else []:
        begun = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
        ids.append(digest(tokenizer(prompt, add_special_tokens=not begun)["input_ids"]))
    return {"prompt": prompt, "ids": ids}


def main(destination):
    chat_template_utils.datetime = FixedClock
    backends = [byte_level(), llama2(), metaspace()]
    rows = []
    for name, source, image, reads in templates():
        options = {key: value for key, value in config(name).items() if value is not None}
        fast = [PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=source, **options) for backend in backends]
        cells = []
        for title, conversation in CONVERSATIONS.items():
            # Control tokens in messages count in transformers, and not here: only what is rendered is
            # compared.
            conversation = as_read(conversation, reads, image)
            cells.append(cell(fast, conversation, VARIABLES.get(title, {}), title != "control tokens"))
        rows.append({
            "name": name, "template": source, "config": config(name), "image": image, "reads": reads, "cells": cells,
        })
    rows.extend(tool_rows(backends))
    table = {
        "transformers": transformers.__version__,
        "jinja2": jinja2.__version__,
        "tokenizers": tokenizers.__version__,
        "now": int(NOW.timestamp()),
        "backends": [json.loads(backend.to_str()) for backend in backends],
        "conversations": [
            {"title": title, "messages": messages, "variables": VARIABLES.get(title, {})} for title, messages in CONVERSATIONS.items()
        ],
        "tool_conversations": [
            {"title": title, "messages": messages, "tools": offered(title) or []} for title, messages in TOOL_CONVERSATIONS.items()
        ],
        "templates": rows,
    }
    with open(destination, "w", encoding="utf-8") as file:
        json.dump(table, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    cells = [cell for row in rows for cell in row["cells"] + row.get("tool_cells", [])]
    print(len(rows), "templates,", len(cells), "cells,", sum("error" in cell for cell in cells), "errors")
    for row in rows:
        if all("error" in cell for cell in row["cells"]):
            print("always an error:", row["name"])


if __name__ == "__main__":
    main(sys.argv[1])
