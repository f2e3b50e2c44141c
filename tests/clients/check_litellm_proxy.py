"""litellm as a proxy before the server: what its own users send, by each of its ways to the server."""

import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import openai
from common import (
    ANSWER,
    API,
    IMAGE_FIRST,
    KEY,
    MODEL,
    PLAIN,
    QUESTION,
    ROOM,
    SECONDS_PER_CHECK,
    TEXT_FIRST,
    TOOL,
    URL,
    Checks,
    Entry,
    main,
    raises,
    refusal,
    run_call,
)

READY_SECONDS = 60
MASTER_KEY = "sk-" + secrets.token_hex(20)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
PROXY = f"http://127.0.0.1:{PORT}"
client = openai.OpenAI(base_url=PROXY + "/v1", api_key=MASTER_KEY, max_retries=0)
WAYS = {"openai": API, "hosted_vllm": API, "anthropic": URL}


def configuration():
    models = [
        {"model_name": way, "litellm_params": {"model": f"{way}/{MODEL}", "api_base": base, "api_key": KEY}}
        for way, base in WAYS.items()
    ]
    return {"model_list": models, "litellm_settings": {"num_retries": 0}}


def start(folder):
    # JSON is YAML.
    file = pathlib.Path(folder, "config.yaml")
    file.write_text(json.dumps(configuration()))
    command = [pathlib.Path(sys.executable).with_name("litellm"), "--config", file]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(PORT)],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        env=os.environ | {"LITELLM_MASTER_KEY": MASTER_KEY},
    )
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(PROXY + "/health/liveliness", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.3)
    process.kill()
    raise SystemExit(f"litellm's proxy was not ready after {READY_SECONDS} s")


def add(way):
    chat = Checks(f"litellm proxy, {way}/", "litellm", "chat")
    messages = Checks(f"litellm proxy, {way}/", "litellm", "messages")
    responses = Checks(f"litellm proxy, {way}/", "litellm", "responses")

    def create(asked=PLAIN, **options):
        return client.chat.completions.create(model=way, messages=asked, **{"max_tokens": ROOM} | options)

    def text(asked=PLAIN, **options):
        return create(asked, **options).choices[0].message.content

    @chat("chat")
    def plain():
        assert text()

    @chat("stream")
    def stream():
        chunks = create(stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text()

    @chat("image first")
    def image_first():
        assert text(IMAGE_FIRST) == ANSWER

    @chat("text first")
    def text_first():
        assert text(TEXT_FIRST) == ANSWER

    if way != "anthropic":

        @chat("structured output", "parse")
        def parse():
            options = {"model": way, "messages": PLAIN, "response_format": Entry, "max_tokens": ROOM}
            assert isinstance(client.chat.completions.parse(**options).choices[0].message.parsed, Entry)

    @chat("tools")
    def tools():
        first = create(tools=[TOOL], tool_choice="required").choices[0].message
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": run_call(call.function.name, call.function.arguments),
            }
            for call in first.tool_calls
        ]
        assert text([*PLAIN, first.model_dump(exclude_none=True), *results], tools=[TOOL])

    @chat("errors", "and no cooldown")
    def errors():
        message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "top_p": 9})
        with raises(openai.BadRequestError, message):
            create(top_p=9)
        # A wrong request is no reason to leave the server alone.
        assert text()

    @messages("chat")
    def anthropic_messages():
        body = json.dumps({"model": way, "messages": PLAIN, "max_tokens": ROOM}).encode()
        headers = {
            "content-type": "application/json",
            "x-api-key": MASTER_KEY,
            "anthropic-version": "2023-06-01",
        }
        request = urllib.request.Request(PROXY + "/v1/messages", body, headers)
        with urllib.request.urlopen(request, timeout=SECONDS_PER_CHECK) as answer:
            content = json.load(answer)["content"]
        assert "".join(block.get("text", "") for block in content)

    @responses("chat")
    def openai_responses():
        assert client.responses.create(model=way, input=QUESTION, max_output_tokens=ROOM).output_text


for name in WAYS:
    add(name)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        proxy = start(home)
        try:
            main()
        finally:
            proxy.terminate()
            proxy.wait()
