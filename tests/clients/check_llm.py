"""The command `llm`, over chat completions and over responses, as its users type it."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from common import (
    ANSWER,
    ENTRY_SCHEMA,
    MODEL,
    PAGE,
    PLAIN,
    QUESTION,
    RELAY,
    URL,
    Checks,
    main,
    refusal,
    whole,
)

HOME = tempfile.TemporaryDirectory()
FUNCTIONS = """
import typing

def look_up(key: typing.Literal["DZ", "LD"]) -> str:
    "Looks up the number that belongs to a key of the ledger."
    return "284"
"""


def model(name, url, **options):
    known = {"vision": True, "supports_schema": True, "supports_tools": True}
    return {"model_id": name, "model_name": MODEL, "api_base": url + "/v1"} | known | options


# JSON is YAML.
pathlib.Path(HOME.name, "extra-openai-models.yaml").write_text(
    json.dumps(
        [
            model("chat", URL),
            model("responses", URL, responses=True),
            model("relayed", RELAY),
            model("completions", URL, completion=True),
        ]
    )
)


def llm(*words, fails=False):
    command = pathlib.Path(sys.executable).with_name("llm")
    environment = os.environ | {"LLM_USER_PATH": HOME.name, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [command, "prompt", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode != 0) == fails, f"{done.returncode} {done.stdout[-300:]} {done.stderr[-300:]}"
    return (done.stderr if fails else done.stdout).strip()


for api in ("chat", "responses"):
    checks = Checks("llm", "llm", api)

    @checks("chat")
    def plain(api=api):
        assert llm("-m", api, "--no-stream", QUESTION)

    @checks("stream")
    def stream(api=api):
        assert llm("-m", api, "-o", "temperature", "0", QUESTION) == llm(
            "-m", api, "-o", "temperature", "0", "--no-stream", QUESTION
        )

    # It always sends the text first.
    @checks("text first")
    def image(api=api):
        assert llm("-m", api, QUESTION, "-a", PAGE) == ANSWER

    @checks("structured output", "--schema")
    def schema(api=api):
        whole(llm("-m", api, "--schema", json.dumps(ENTRY_SCHEMA), QUESTION))

    @checks("errors")
    def errors(api=api):
        field, path, body = "max_tokens", "/v1/chat/completions", {"messages": PLAIN, "max_tokens": 0}
        if api == "responses":
            field, path, body = "max_tokens", "/v1/responses", {"input": QUESTION, "max_output_tokens": 0}
        message = llm("-m", api, "-o", field, "0", QUESTION, fails=True)
        assert refusal(path, {"model": MODEL} | body) in message, message


checks = Checks("llm", "llm", "chat")


@checks("tools", "--functions")
def tools():
    told = llm("-m", "relayed", "--functions", FUNCTIONS, "--td", "--no-stream", QUESTION)
    assert told, told


texts = Checks("llm", "llm", "completions")


@texts("chat")
def completions():
    llm("-m", "completions", "Which number", "-o", "max_tokens", "8")


if __name__ == "__main__":
    main()
