"""The Responses API, through OpenAI's client, whose types are strict where this test parses them itself."""

import base64
import json
import pathlib
import typing

import jsonschema
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

EVENT = pydantic.TypeAdapter(ResponseStreamEvent)
PNG = pathlib.Path(__file__).parent.parent / "fixtures" / "images"
FUNCTION = {
    "type": "function", "name": "weather", "description": "The weather", "strict": True,
    "parameters": {
        "type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["days"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def ask(client: openai.OpenAI):
    def call(**options: object):
        given = {"model": "arr-coc-ovis-tiny", "input": "Tell me.", "max_output_tokens": 1500, "temperature": 0}
        return client.responses.create(**(given | options))

    return call


def image() -> str:
    file = next(file for file in sorted(PNG.iterdir()) if file.suffix == ".png")
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def test_a_text_is_answered(ask):
    answer = ask(max_output_tokens=20)
    assert answer.status in ("completed", "incomplete") and answer.output[0].type == "message" and answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.object == "response" and answer.id.startswith("resp_")
    if answer.status == "incomplete":
        assert answer.incomplete_details.reason == "max_output_tokens"


def test_the_answer_is_that_of_a_chat(ask, client):
    content = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": image(), "detail": "auto"}]
    answer = ask(instructions="Be brief.", input=[{"role": "user", "content": content}], max_output_tokens=20)
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": image()}}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    chat = client.chat.completions.create(model="arr-coc-ovis-tiny", messages=messages, max_tokens=20, temperature=0)
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage.input_tokens == chat.usage.prompt_tokens


def test_every_event_is_of_its_type(ask, client):
    for options in ({}, {"tools": [FUNCTION], "tool_choice": "required"}, {"text": {"format": {"type": "json_object"}}}):
        options = options | {"max_output_tokens": 60, "temperature": 1, "top_p": 0.9}
        whole = ask(**options, extra_body={"seed": 3}, store=False)
        request = {"model": "arr-coc-ovis-tiny", "input": "Tell me.", "stream": True, "seed": 3, "store": False} | options
        lines = client.post("/responses", body=request, cast_to=str).split("\n\n")
        events = [line.split("\ndata: ", 1) for line in lines if line.startswith("event: ")]
        assert len(events) == len([line for line in lines if line]), "nothing but events"
        data = [json.loads(data) for _, data in events]
        for (name, _), one in zip(events, data):
            event = EVENT.validate_python(one)
            assert name == f"event: {one['type']}" and type(event).model_config.get("extra")
            assert not unknown(event), f"{one['type']} has fields that its type has not: {unknown(event)}"
        assert [one["sequence_number"] for one in data] == list(range(len(data)))
        last = data[-1]["response"]
        assert data[0]["type"] == "response.created" and last["status"] == whole.status
        strip = lambda items: [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in items]
        assert strip(last["output"]) == strip([item.model_dump(exclude_unset=True) for item in whole.output])


def unknown(model: object) -> list[str]:
    """Fields that strict types would refuse, at any depth; `arrcoc` is ours."""
    found = []
    if isinstance(model, pydantic.BaseModel):
        found += [name for name in model.model_extra or {} if name not in ("arrcoc", "image_tokens", "min_p")]
        for name in type(model).model_fields:
            found += unknown(getattr(model, name))
    elif isinstance(model, list):
        for item in model:
            found += unknown(item)
    return found


def test_the_whole_response_is_of_its_type(ask):
    for options in ({}, {"tools": [FUNCTION], "tool_choice": "required"}):
        answer = ask(**options)
        Response.model_validate(answer.model_dump(), strict=False)
        assert not unknown(answer)


def test_the_stream_helper_gives_the_same(client):
    # The helper knows no end by length.
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    options = {
        "model": "arr-coc-ovis-tiny", "input": "Tell me.", "max_output_tokens": 1500, "temperature": 1, "text": form, "extra_body": {"seed": 1},
    }
    with client.responses.stream(**options) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == client.responses.create(**options).output_text


def test_a_response_goes_on_from_another(ask, client):
    first = ask(instructions="One.", max_output_tokens=10)
    second = ask(previous_response_id=first.id, input="And then?", max_output_tokens=10)
    messages = [
        {"role": "user", "content": "Tell me."}, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And then?"},
    ]
    chat = client.chat.completions.create(model="arr-coc-ovis-tiny", messages=messages, max_tokens=10, temperature=0)
    assert second.output_text == chat.choices[0].message.content, "instructions are not kept"
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as unknown_one:
        ask(previous_response_id=first.id)
    assert unknown_one.value.param == "previous_response_id"
    unkept = ask(store=False, max_output_tokens=5)
    with pytest.raises(openai.NotFoundError):
        ask(previous_response_id=unkept.id)


def test_functions_are_called_and_answered(ask):
    answer = ask(tools=[FUNCTION], tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.output
    assert call.type == "function_call" and answer.status == "completed"
    jsonschema.validate(json.loads(call.arguments), FUNCTION["parameters"])
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "3 degrees"}
    kept = ask(previous_response_id=answer.id, input=[result], tools=[FUNCTION], max_output_tokens=10)
    sent = ask(input=[{"role": "user", "content": "Tell me."}, call.model_dump(exclude_none=True), result], tools=[FUNCTION], max_output_tokens=10)
    assert kept.output_text == sent.output_text and kept.usage.input_tokens == sent.usage.input_tokens
    named = ask(tools=[FUNCTION], tool_choice={"type": "function", "name": "weather"})
    assert named.output[0].name == "weather"


def test_a_form_is_kept(client):
    class Count(pydantic.BaseModel):
        unit: typing.Literal["nail", "screw"]
        count: int = pydantic.Field(ge=1, le=99)

    answer = client.responses.parse(model="arr-coc-ovis-tiny", input="How many?", text_format=Count, max_output_tokens=2000, temperature=1, extra_body={"seed": 1})
    assert isinstance(answer.output_parsed, Count)


def test_log_probabilities_come_where_they_are_asked_for(ask):
    answer = ask(include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=5)
    tokens = answer.output[0].content[0].logprobs
    assert len(tokens) == 5 and all(len(token.top_logprobs) == 2 for token in tokens)


@pytest.mark.parametrize(("options", "param"), [
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"truncation": "auto"}, "truncation"),
    ({"background": True}, "background"),
    ({"max_output_tokens": 10**7}, "max_output_tokens"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format"),
    ({"extra_body": {"max_tokens": 5}}, "max_tokens"),
    ({"extra_body": {"inputs": 5}}, "input"),
])
def test_what_is_wrong_is_refused_by_name(ask, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(**options)
    assert refused.value.param == param
