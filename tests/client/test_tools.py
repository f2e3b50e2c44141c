"""Tools, through OpenAI's client. The weights are random: what must be called is bound by a grammar and so always a call that
keeps its schema, and what may be called is text."""

import concurrent.futures
import json

import jsonschema
import openai
import pytest

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather of a city", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]


@pytest.fixture
def ask(client: openai.OpenAI):
    def call(text: str = "How is the weather?", **options: object):
        given = {"model": "arr-coc-ovis-tiny", "messages": [{"role": "user", "content": text}], "tools": TOOLS, "max_tokens": 1500,
                 "temperature": 1, "seed": 1}
        return client.chat.completions.create(**(given | options))

    return call


def check(call):
    arguments = json.loads(call.function.arguments)
    if call.function.name == "weather":
        jsonschema.validate(arguments, WEATHER)
    else:
        assert call.function.name == "now" and isinstance(arguments, dict)


def named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


def test_required_calls_keep_their_schema(ask):
    for seed in range(8):
        answer = ask(tool_choice="required", parallel_tool_calls=False, seed=seed).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        assert len(answer.message.tool_calls) == 1
        check(answer.message.tool_calls[0])


def test_a_named_function_is_called_once(ask):
    for seed in range(4):
        answer = ask(tool_choice=named("weather"), seed=seed).choices[0]
        assert [call.function.name for call in answer.message.tool_calls] == ["weather"]
        check(answer.message.tool_calls[0])


def test_what_may_be_called_is_text_otherwise(ask):
    answer = ask(tool_choice="auto", max_tokens=20).choices[0]
    assert answer.message.tool_calls is None and answer.message.content
    bare = ask(tool_choice="none", max_tokens=20)
    plain = ask(tools=openai.NOT_GIVEN, max_tokens=20)
    assert bare.choices[0].message.content == plain.choices[0].message.content
    assert bare.usage.prompt_tokens == plain.usage.prompt_tokens, "what may not be called is not described"


def test_streams_say_the_same(ask):
    for seed in range(4):
        options = {"tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
        whole = ask(**options).choices[0].message.tool_calls[0].function
        calls, reason = {}, None
        for chunk in ask(stream=True, **options):
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
                for piece in choice.delta.tool_calls or []:
                    call = calls.setdefault(piece.index, {"name": "", "arguments": ""})
                    call["name"] += piece.function.name or ""
                    call["arguments"] += piece.function.arguments or ""
        assert calls == {0: {"name": whole.name, "arguments": whole.arguments}} and reason == "tool_calls"


def test_a_conversation_with_results_goes_on(ask):
    question = {"role": "user", "content": "How is the weather?"}
    answer = ask(tool_choice="required").choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "3 degrees"} for call in answer.tool_calls]
    more = ask(messages=[question, answer.model_dump(exclude_none=True), *results], max_tokens=20)
    without = ask(messages=[question], max_tokens=20)
    assert more.choices[0].message.content and more.usage.prompt_tokens > without.usage.prompt_tokens


def test_functions_are_the_older_form(ask):
    functions = [{"name": "weather", "parameters": WEATHER}]
    answer = ask(tools=openai.NOT_GIVEN, functions=functions, function_call={"name": "weather"}).choices[0]
    assert answer.finish_reason == "function_call"
    jsonschema.validate(json.loads(answer.message.function_call.arguments), WEATHER)


def test_a_form_stands_beside_tools(ask):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    calls = 0
    for seed in range(8):
        answer = ask(response_format=form, parallel_tool_calls=False, seed=seed).choices[0]
        if answer.message.tool_calls:
            calls += 1
            check(answer.message.tool_calls[0])
        else:
            jsonschema.validate(json.loads(answer.message.content), schema)
    assert calls < 8, "an answer may have the form too"


def test_calls_in_a_batch_equal_their_lonely_ones(ask):
    options = [{"tool_choice": choice, "seed": seed, "max_tokens": 60} for seed in range(3) for choice in ("required", "auto", named("now"))]
    lonely = [ask(**one).choices[0].message for one in options]
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda one: ask(**one).choices[0].message, options))

    def said(message):
        return message.content, [(call.function.name, call.function.arguments) for call in message.tool_calls or []]

    assert [said(one) for one in together] == [said(one) for one in lonely]


def test_arguments_that_cannot_be_kept_are_refused_with_their_place(ask):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(tools=[TOOLS[0], tool], tool_choice="required")
    assert refused.value.param == "tools" and "the arguments of `f`" in refused.value.message
    assert "#/properties/a/not" in refused.value.message
    assert ask(tools=[TOOLS[0], tool], max_tokens=5).choices, "what need not be called binds nothing"


@pytest.mark.parametrize("count", [129, 10_000])
def test_too_many_tools_are_refused_at_once(ask, count):
    tools = [{"type": "function", "function": {"name": f"f{index}"}} for index in range(count)]
    with pytest.raises((openai.BadRequestError, openai.APIStatusError)) as refused:
        ask(tools=tools, tool_choice="required")
    assert refused.value.status_code in (400, 413)
    assert refused.value.response.elapsed.total_seconds() < 1
