"""litellm, by both of its ways to an own server, and its bridges to responses and messages."""

import asyncio
import json

import litellm
from common import (
    ANSWER,
    API,
    ENTRY_SCHEMA,
    IMAGE_FIRST,
    KEY,
    MODEL,
    PAGE_URL,
    PLAIN,
    QUESTION,
    ROOM,
    TEXT_FIRST,
    TOOL,
    TOOL_PARAMETERS,
    Checks,
    Entry,
    look_up,
    main,
    raises,
    refusal,
    run_call,
    whole,
)

litellm.suppress_debug_info = True
OPTIONS = {"api_base": API, "api_key": KEY, "max_retries": 0, "max_tokens": ROOM}
SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "entry", "strict": True, "schema": ENTRY_SCHEMA},
}


def add(provider):
    checks = Checks(f"litellm {provider}/", "litellm", "chat")

    def create(messages=PLAIN, **options):
        return litellm.completion(model=f"{provider}/{MODEL}", messages=messages, **OPTIONS | options)

    def text(messages=PLAIN, **options):
        return create(messages, **options).choices[0].message.content

    @checks("chat")
    def plain():
        assert text() and create().usage.completion_tokens

    @checks("stream")
    def stream():
        assert "".join(chunk.choices[0].delta.content or "" for chunk in create(stream=True)) == text()

    @checks("image first")
    def image_first():
        assert text(IMAGE_FIRST) == ANSWER

    @checks("text first")
    def text_first():
        assert text(TEXT_FIRST) == ANSWER

    @checks("structured output", "json_schema")
    def json_schema():
        whole(text(response_format=SCHEMA_FORMAT))

    @checks("structured output", "pydantic")
    def pydantic():
        whole(text(response_format=Entry))

    @checks("structured output", "json_object")
    def json_object():
        tries = (
            create(response_format={"type": "json_object"}, seed=seed, temperature=1.5) for seed in range(16)
        )
        ended = next(one.choices[0] for one in tries if one.choices[0].finish_reason == "stop")
        assert isinstance(json.loads(ended.message.content), dict)

    @checks("tools")
    def tools():
        first = create(tools=[TOOL], tool_choice="required").choices[0]
        assert first.finish_reason == "tool_calls"
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": run_call(call.function.name, call.function.arguments),
            }
            for call in first.message.tool_calls
        ]
        assert text([*PLAIN, first.message, *results], tools=[TOOL])

    @checks("tools", "stream")
    def tools_stream():
        chunks = list(create(tools=[TOOL], tool_choice="required", stream=True))
        message = litellm.stream_chunk_builder(chunks).choices[0].message
        assert all(run_call(call.function.name, call.function.arguments) for call in message.tool_calls)

    @checks("errors")
    def errors():
        message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
        with raises(litellm.BadRequestError, message):
            create(temperature=9)


for name in ("openai", "hosted_vllm", "llamafile", "lm_studio"):
    add(name)


def add_responses(provider):
    checks = Checks(f"litellm {provider}/", "litellm", "responses")
    tool = {
        "type": "function",
        "name": "look_up",
        "description": look_up.__doc__,
        "parameters": TOOL_PARAMETERS,
    }

    def create(input=QUESTION, **options):
        options = {"api_base": API, "api_key": KEY, "max_output_tokens": ROOM} | options
        return litellm.responses(model=f"{provider}/{MODEL}", input=input, **options)

    def text(answer):
        parts = [part for item in answer.output if item.type == "message" for part in item.content]
        return "".join(part.text for part in parts)

    @checks("chat")
    def plain():
        assert text(create())

    @checks("stream")
    def stream():
        events = list(create(stream=True))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == text(create())

    @checks("text first")
    def text_first():
        content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": PAGE_URL}]
        assert text(create([{"role": "user", "content": content}])) == ANSWER

    @checks("structured output", "pydantic")
    def pydantic():
        whole(text(create(text_format=Entry)))

    @checks("tools")
    def tools():
        first = create(tools=[tool], tool_choice="required")
        calls = [item for item in first.output if item.type == "function_call"]
        results = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": run_call(call.name, call.arguments),
            }
            for call in calls
        ]
        assert calls
        history = [
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
            for call in calls
        ]
        assert text(create([{"role": "user", "content": QUESTION}, *history, *results], tools=[tool]))


add_responses("openai")
add_responses("hosted_vllm")


def add_messages(provider, api_base):
    """Its translation of Anthropic's interface."""
    checks = Checks(f"litellm {provider}/", "litellm", "messages")

    @checks("chat")
    def messages():
        answer = asyncio.run(
            litellm.anthropic.messages.acreate(
                model=f"{provider}/{MODEL}", messages=PLAIN, max_tokens=ROOM, api_base=api_base, api_key=KEY
            )
        )
        assert answer["content"][0]["text"]


add_messages("openai", API)
add_messages("hosted_vllm", API)
add_messages("anthropic", API.removesuffix("/v1"))

if __name__ == "__main__":
    main()
