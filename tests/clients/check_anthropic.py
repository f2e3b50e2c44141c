"""Anthropic's own client for Python."""

import json
from typing import Literal

import anthropic
from common import (
    ANSWER,
    ENTRY_SCHEMA,
    KEY,
    MODEL,
    PAGE_BASE64,
    PLAIN,
    QUESTION,
    RELAY,
    ROOM,
    TOOL_PARAMETERS,
    URL,
    Checks,
    Key,
    look_up,
    main,
    raises,
    refusal,
    run_call,
    whole,
)
from pydantic import BaseModel

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
checks = Checks("anthropic-python", "anthropic", "messages")
TEXT = {"type": "text", "text": QUESTION}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PAGE_BASE64}}
# The newest client has no argument for it.
SAMPLING = {"temperature": 9}


class Choice(BaseModel):
    """Without numbers: the client takes their bounds out of the schema."""

    key: Key
    certain: bool


TOOL = {"name": "look_up", "description": look_up.__doc__, "input_schema": TOOL_PARAMETERS}


def create(content=QUESTION, **options):
    options = {"max_tokens": ROOM, "messages": [{"role": "user", "content": content}]} | options
    return client.messages.create(model=MODEL, **options)


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


@checks("chat")
def plain():
    answer = create(system="Answer with a number.", stop_sequences=["never"])
    assert text(answer) and answer.stop_reason == "end_turn" and answer.role == "assistant"
    assert answer.usage.input_tokens and answer.usage.output_tokens


@checks("chat", "many turns")
def turns():
    messages = [*PLAIN, {"role": "assistant", "content": "284"}, {"role": "user", "content": "And LD?"}]
    assert text(create(messages=messages, system=[{"type": "text", "text": "Short."}]))


@checks("stream")
def stream():
    kinds = [event.type for event in create(stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds


@checks("stream", "helper")
def stream_helper():
    with client.messages.stream(model=MODEL, max_tokens=ROOM, messages=PLAIN) as events:
        streamed = "".join(events.text_stream)
        final = events.get_final_message()
    assert (
        streamed == text(final) == text(create())
        and final.stop_reason == "end_turn"
        and final.usage.output_tokens
    )


@checks("image first")
def image_first():
    assert text(create([IMAGE, TEXT])) == ANSWER


@checks("text first")
def text_first():
    assert text(create([TEXT, IMAGE])) == ANSWER


@checks("structured output", "output_config")
def output_config():
    whole(text(create(output_config={"format": {"type": "json_schema", "schema": ENTRY_SCHEMA}})))


@checks("structured output", "parse")
def parse():
    answer = client.messages.parse(model=MODEL, max_tokens=ROOM, messages=PLAIN, output_format=Choice)
    assert isinstance(answer.parsed_output, Choice)


def two_steps(choice):
    first = create(tools=[TOOL], tool_choice=choice)
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use" and calls, first
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": run_call(call.name, call.input)}
        for call in calls
    ]
    messages = [*PLAIN, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = create(messages=messages, tools=[TOOL])
    assert text(second) and second.stop_reason == "end_turn", second


@checks("tools", "any")
def tools_any():
    two_steps({"type": "any"})


@checks("tools", "named")
def tools_named():
    two_steps({"type": "tool", "name": "look_up", "disable_parallel_tool_use": True})


@checks("tools", "auto and none")
def tools_free():
    for choice in ("auto", "none"):
        assert create(tools=[TOOL], tool_choice={"type": choice}).content


@checks("tools", "stream")
def tools_stream():
    pieces = ""
    options = {"model": MODEL, "max_tokens": ROOM, "messages": PLAIN, "tools": [TOOL]}
    with client.messages.stream(
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, **options
    ) as events:
        for event in events:
            pieces += event.partial_json if event.type == "input_json" else ""
        final = events.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert json.loads(pieces) == call.input and run_call(call.name, call.input)


@checks("tools", "tool runner")
def tool_runner():
    results = []

    @anthropic.beta_tool
    def look_up_key(key: Literal["DZ", "LD"]) -> str:
        """Looks up the number that belongs to a key of the ledger."""
        results.append(look_up(Key(key)))
        return results[-1]

    relayed = anthropic.Anthropic(base_url=RELAY, api_key=KEY, max_retries=0)
    runner = relayed.beta.messages.tool_runner(
        model=MODEL, max_tokens=ROOM, messages=PLAIN, tools=[look_up_key]
    )
    assert text(runner.until_done()) and results


@checks("other", "count_tokens")
def count_tokens():
    assert (
        client.messages.count_tokens(model=MODEL, messages=PLAIN).input_tokens == create().usage.input_tokens
    )


@checks("other", "models")
def models():
    assert MODEL in [model.id for model in client.models.list()]


@checks("errors")
def errors():
    message = refusal("/v1/messages", {"model": MODEL, "max_tokens": 5, "messages": PLAIN} | SAMPLING)
    with raises(anthropic.BadRequestError, message):
        create(extra_body=SAMPLING)
    try:
        create(extra_body=SAMPLING)
    except anthropic.BadRequestError as error:
        assert error.body["type"] == "error" and error.body["error"]["type"] == "invalid_request_error", (
            error.body
        )


@checks("errors", "not found")
def errors_not_found():
    with raises(anthropic.NotFoundError, MODEL):
        client.messages.create(model="other", max_tokens=5, messages=PLAIN)


if __name__ == "__main__":
    main()
