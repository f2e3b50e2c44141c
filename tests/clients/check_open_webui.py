"""Open WebUI's requests, over both kinds of connection that it has; the program itself is not run."""

import json
import urllib.request

from common import (
    ANSWER,
    ENTRY_SCHEMA,
    MODEL,
    PAGE_BASE64,
    PLAIN,
    QUESTION,
    SECONDS_PER_CHECK,
    TEXT_FIRST,
    URL,
    Checks,
    main,
)

openai = Checks("Open WebUI's requests", None, "chat")
ollama = Checks("Open WebUI's requests", None, "api")


def send(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer none"}
    request = urllib.request.Request(URL + path, data, headers)
    with urllib.request.urlopen(request, timeout=SECONDS_PER_CHECK) as answer:
        return answer.read().decode()


def events(path, body):
    lines = [
        line.removeprefix("data: ") for line in send(path, body).splitlines() if line.startswith("data: ")
    ]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@openai("other", "models")
def models():
    assert MODEL in [model["id"] for model in json.loads(send("/v1/models"))["data"]]


@openai("stream")
def stream():
    body = {"model": MODEL, "messages": PLAIN, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events("/v1/chat/completions", body)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"]


@openai("text first")
def text_first():
    chunks = events("/v1/chat/completions", {"model": MODEL, "messages": TEXT_FIRST, "stream": True})
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert text == ANSWER


@openai("chat", "title")
def title():
    body = {"model": MODEL, "messages": PLAIN, "stream": False, "max_completion_tokens": 1000}
    assert json.loads(send("/v1/chat/completions", body))["choices"][0]["message"]["content"]


@ollama("other", "version, tags, ps, show")
def discovery():
    assert json.loads(send("/api/version"))["version"]
    (model,) = json.loads(send("/api/tags"))["models"]
    assert model["model"] and model["name"] and "details" in model
    assert "models" in json.loads(send("/api/ps"))
    assert "capabilities" in json.loads(send("/api/show", {"model": model["model"]}))


@ollama("stream")
def ollama_stream():
    body = {"model": MODEL, "messages": PLAIN, "options": {}, "stream": True, "keep_alive": "5m"}
    pieces = [json.loads(line) for line in send("/api/chat", body).splitlines()]
    assert pieces[-1]["done"] and "".join(piece["message"]["content"] for piece in pieces)


@ollama("image first")
def ollama_image():
    messages = [{"role": "user", "content": QUESTION, "images": [PAGE_BASE64]}]
    answer = json.loads(send("/api/chat", {"model": MODEL, "messages": messages, "stream": False}))
    assert answer["message"]["content"] == ANSWER


@ollama("structured output")
def ollama_format():
    body = {"model": MODEL, "messages": PLAIN, "stream": False, "format": ENTRY_SCHEMA}
    assert set(json.loads(json.loads(send("/api/chat", body))["message"]["content"])) == set(
        ENTRY_SCHEMA["required"]
    )


if __name__ == "__main__":
    main()
