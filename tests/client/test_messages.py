"""Anthropic's API, through Anthropic's client. The weights are random: what must be called is bound by a grammar."""

import base64
import json
import pathlib

import anthropic
import jsonschema
import pytest

IMAGES = pathlib.Path(__file__).parent.parent / "fixtures" / "images"
SCHEMA = {
    "type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["days"],
    "additionalProperties": False,
}
TOOL = {"name": "weather", "description": "The weather", "input_schema": SCHEMA}


@pytest.fixture
def claude(client):
    base = str(client.base_url).removesuffix("/v1/")
    return anthropic.Anthropic(base_url=base, api_key="anything", max_retries=0)


@pytest.fixture
def ask(claude):
    def call(**options: object):
        given = {"model": "arr-coc-ovis-tiny", "messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 1500}
        options = options | {"extra_body": {"temperature": 0} | options.get("extra_body", {})}
        return claude.messages.create(**(given | options))

    return call


def picture() -> dict:
    file = next(file for file in sorted(IMAGES.iterdir()) if file.suffix == ".png")
    data = base64.b64encode(file.read_bytes()).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def test_the_answer_is_that_of_a_chat(ask, client):
    content = [picture(), {"type": "text", "text": "What?"}]
    answer = ask(system="Be brief.", messages=[{"role": "user", "content": content}], max_tokens=20)
    url = f"data:image/png;base64,{content[0]['source']['data']}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    chat = client.chat.completions.create(model="arr-coc-ovis-tiny", messages=messages, max_tokens=20, temperature=0)
    assert answer.content[0].text == chat.choices[0].message.content
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert answer.stop_reason == {"length": "max_tokens", "stop": "end_turn"}[chat.choices[0].finish_reason]


def test_streams_say_the_same(ask, claude):
    for options in ({"max_tokens": 20}, {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}):
        whole = ask(**options)
        given = {"model": "arr-coc-ovis-tiny", "messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 1500, "extra_body": {"temperature": 0}}
        with claude.messages.stream(**(given | options)) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        strip = lambda message: [block.model_dump(exclude={"id", "parsed_output"}) for block in message.content]
        assert strip(final) == strip(whole) and final.stop_reason == whole.stop_reason
        assert final.usage.output_tokens == whole.usage.output_tokens and final.usage.input_tokens == whole.usage.input_tokens


def test_tools_are_called_and_answered(ask):
    answer = ask(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
    (call,) = answer.content
    assert answer.stop_reason == "tool_use" and call.name == "weather"
    jsonschema.validate(call.input, SCHEMA)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "3 degrees"}]}
    turns = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": [call.model_dump(exclude={"caller"})]}]
    more = ask(messages=[*turns, {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}], tools=[TOOL], max_tokens=10)
    less = ask(messages=[*turns, {"role": "user", "content": [result]}], tools=[TOOL], max_tokens=10)
    assert more.usage.input_tokens > less.usage.input_tokens > answer.usage.input_tokens
    assert ask(tools=[TOOL], tool_choice={"type": "none"}, max_tokens=5).usage.input_tokens < answer.usage.input_tokens


def test_a_form_is_kept(ask):
    answer = ask(output_config={"format": {"type": "json_schema", "schema": SCHEMA}}, extra_body={"seed": 1, "temperature": 1})
    jsonschema.validate(json.loads(answer.content[0].text), SCHEMA)


def test_stop_sequences_end_an_answer(ask):
    text = ask(max_tokens=20).content[0].text
    stop = next(piece for piece in text.split() if len(piece) > 1)
    cut = ask(max_tokens=20, stop_sequences=[stop])
    assert "".join(block.text for block in cut.content) == text[: text.index(stop)] and cut.stop_reason == "end_turn"


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"model": "other"}, anthropic.NotFoundError, "other"),
    ({"messages": []}, anthropic.BadRequestError, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, anthropic.BadRequestError, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, anthropic.BadRequestError, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [picture() | {"source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}}]}]},
     anthropic.BadRequestError, "image"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "tool_choice"),
    ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
    ({"extra_body": {"stop": ["x"]}}, anthropic.BadRequestError, "stop_sequences"),
])
def test_errors_have_anthropics_form(ask, options, kind, words):
    with pytest.raises(kind) as refused:
        ask(**options)
    body = refused.value.body
    assert body["type"] == "error" and body["error"]["type"].endswith("_error") and words in body["error"]["message"]


def test_keys_come_in_anthropics_header_too(start):
    address = start(auth_api_keys="first-key").wait_ready().url
    options = {"model": "fp32-cpu", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    options["model"] = anthropic.Anthropic(base_url=address, api_key="first-key").models.list().data[0].id
    assert anthropic.Anthropic(base_url=address, api_key="first-key").messages.create(**options).content
    with pytest.raises(anthropic.AuthenticationError) as refused:
        anthropic.Anthropic(base_url=address, api_key="wrong-key-123").messages.create(**options)
    assert refused.value.body["error"]["type"] == "authentication_error"
