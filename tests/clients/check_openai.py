"""OpenAI's own client for Python, chat completions and completions; the newest and the last of version 1."""

import json

import openai
from common import (
    ANSWER,
    API,
    ENTRY_SCHEMA,
    FUNCTION,
    IMAGE_FIRST,
    KEY,
    MODEL,
    PLAIN,
    ROOM,
    TEXT_FIRST,
    TOOL,
    Checks,
    Entry,
    main,
    raises,
    refusal,
    run_call,
    whole,
)

client = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0)
chat = Checks("openai-python", "openai", "chat")
texts = Checks("openai-python", "openai", "completions")
SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "entry", "strict": True, "schema": ENTRY_SCHEMA},
}


def create(messages=PLAIN, **options):
    return client.chat.completions.create(model=MODEL, messages=messages, **{"max_tokens": ROOM} | options)


@chat("chat")
def plain():
    answer = create()
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@chat("stream")
def stream():
    text = create().choices[0].message.content
    chunks = list(create(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens


@chat("stream", "helper")
def stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=PLAIN, max_tokens=ROOM) as events:
        kinds = {event.type for event in events}
        answer = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert answer.choices[0].message.content == create().choices[0].message.content


@chat("image first")
def image_first():
    assert create(IMAGE_FIRST).choices[0].message.content == ANSWER


@chat("text first")
def text_first():
    assert create(TEXT_FIRST).choices[0].message.content == ANSWER


@chat("structured output", "json_schema")
def json_schema():
    whole(create(response_format=SCHEMA_FORMAT).choices[0].message.content)


@chat("structured output", "json_object")
def json_object():
    ended = []
    for seed in range(16):
        answer = create(response_format={"type": "json_object"}, seed=seed, temperature=1.5).choices[0]
        if answer.finish_reason == "stop":
            ended.append(json.loads(answer.message.content))
    # Nothing but the form is bound, and a model may write on without end.
    assert ended and all(isinstance(value, dict) for value in ended), ended


@chat("structured output", "parse")
def parse():
    answer = client.chat.completions.parse(
        model=MODEL, messages=PLAIN, response_format=Entry, max_tokens=ROOM
    )
    assert isinstance(answer.choices[0].message.parsed, Entry)


@chat("structured output", "parse, stream")
def parse_stream():
    options = {"model": MODEL, "messages": PLAIN, "response_format": Entry, "max_tokens": ROOM}
    with client.chat.completions.stream(**options) as events:
        parsed = [event.parsed for event in events if event.type == "content.done"]
        final = events.get_final_completion().choices[0].message.parsed
    assert isinstance(final, Entry) and parsed == [final]


@chat("structured output", "beta.parse")
def beta_parse():
    parse = getattr(client.beta, "chat", client.chat).completions.parse
    answer = parse(model=MODEL, messages=TEXT_FIRST, response_format=Entry, max_tokens=ROOM)
    assert isinstance(answer.choices[0].message.parsed, Entry)


def two_steps(**options):
    """The model calls, the function runs, and the model answers about its result."""
    first = create(tools=[TOOL], **options).choices[0]
    calls = first.message.tool_calls
    assert first.finish_reason == "tool_calls" and calls, first
    results = [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": run_call(call.function.name, call.function.arguments),
        }
        for call in calls
    ]
    second = create([*PLAIN, first.message, *results], tools=[TOOL]).choices[0]
    assert second.finish_reason == "stop" and second.message.content, second


@chat("tools", "required")
def tools_required():
    two_steps(tool_choice="required")


@chat("tools", "named")
def tools_named():
    two_steps(tool_choice={"type": "function", "function": {"name": "look_up"}})


@chat("tools", "auto and none")
def tools_free():
    for choice in ("auto", "none"):
        answer = create(tools=[TOOL], tool_choice=choice).choices[0]
        assert answer.message.content or answer.message.tool_calls


@chat("tools", "stream")
def tools_stream():
    name, arguments, ids, reason = "", "", set(), None
    for chunk in create(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True):
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            assert call.index == 0
            name += call.function.name or ""
            arguments += call.function.arguments or ""
            ids |= {call.id} - {None}
        reason = (chunk.choices[0].finish_reason if chunk.choices else None) or reason
    assert run_call(name, arguments) and len(ids) == 1 and reason == "tool_calls"


@chat("tools", "parse")
def tools_parse():
    tool = openai.pydantic_function_tool(Entry, name="enter")
    options = {"model": MODEL, "messages": PLAIN, "tools": [tool], "max_tokens": ROOM}
    answer = client.chat.completions.parse(tool_choice="required", **options)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Entry)


@chat("tools", "functions")
def functions():
    first = create(functions=[FUNCTION], function_call={"name": "look_up"}).choices[0]
    call = first.message.function_call
    assert first.finish_reason == "function_call" and call
    result = {"role": "function", "name": call.name, "content": run_call(call.name, call.arguments)}
    assert create([*PLAIN, first.message, result], functions=[FUNCTION]).choices[0].message.content


@chat("other", "ignore_eos, min_tokens")
def exact_length():
    for options in ({"ignore_eos": True}, {"min_tokens": 32}):
        assert create(max_tokens=32, extra_body=options).usage.completion_tokens == 32


@chat("errors")
def errors():
    message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
    with raises(openai.BadRequestError, message):
        create(temperature=9)
    try:
        create(temperature=9)
    except openai.BadRequestError as error:
        assert error.param == "temperature" and error.code == "invalid_value"


@chat("errors", "not found")
def errors_not_found():
    with raises(openai.NotFoundError, MODEL):
        client.chat.completions.create(model="other", messages=PLAIN)


def complete(prompt="Which number", **options):
    return client.completions.create(model=MODEL, prompt=prompt, **{"max_tokens": 8} | options)


@texts("chat")
def complete_plain():
    assert complete().usage.completion_tokens


@texts("stream")
def complete_stream():
    assert "".join(chunk.choices[0].text for chunk in complete(stream=True)) == complete().choices[0].text


@texts("other", "list of prompts")
def complete_list():
    prompts = ["Which number", "What is written"]
    both = complete(prompts).choices
    assert [choice.index for choice in both] == [0, 1]
    assert [choice.text for choice in both] == [complete(prompt).choices[0].text for prompt in prompts]


@texts("other", "token ids")
def complete_ids():
    assert complete([5, 6, 7]).usage.prompt_tokens >= 3
    assert len(complete([[5, 6, 7], [8]]).choices) == 2


@texts("other", "echo, logprobs, max_tokens 0")
def complete_echo():
    answer = complete(echo=True, logprobs=1, max_tokens=0).choices[0]
    assert answer.text == "Which number"
    logprobs = answer.logprobs
    assert "".join(logprobs.tokens) == answer.text and logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[0] == 0


@texts("other", "echo beside what was made")
def complete_echo_equal():
    made = complete([40, 41, 42], logprobs=0, temperature=0).choices[0].logprobs
    text = complete([40, 41, 42], echo=True, max_tokens=0).choices[0].text + "".join(made.tokens)
    echoed = complete(text, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert echoed.tokens[-len(made.tokens) :] == made.tokens, (echoed.tokens, made.tokens)
    likelihoods = zip(made.token_logprobs, echoed.token_logprobs[-len(made.tokens) :], strict=True)
    assert all(abs(one - other) < 1e-3 for one, other in likelihoods), (made, echoed)


@texts("other", "best_of")
def complete_best():
    assert len(complete(n=1, best_of=3, temperature=1).choices) == 1


@texts("errors")
def complete_errors():
    message = refusal("/v1/completions", {"model": MODEL, "prompt": "Which", "temperature": 9})
    with raises(openai.BadRequestError, message):
        complete(temperature=9)


@texts("errors", "suffix")
def complete_suffix():
    with raises(openai.BadRequestError, "suffix"):
        complete(suffix="x")


if __name__ == "__main__":
    main()
