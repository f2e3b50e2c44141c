"""Ollama's API, through Ollama's client."""

import base64
import json
import pathlib

import jsonschema
import ollama
import pytest

IMAGES = pathlib.Path(__file__).parent.parent / "fixtures" / "images"
MODEL = "arr-coc-ovis-tiny"
SCHEMA = {
    "type": "object", "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA}}
GREEDY = {"temperature": 0, "num_predict": 20, "num_ctx": 2048}


@pytest.fixture
def local(client):
    return ollama.Client(host=str(client.base_url).removesuffix("/v1/"))


def picture() -> bytes:
    return next(file for file in sorted(IMAGES.iterdir()) if file.suffix == ".png").read_bytes()


def test_the_answer_is_that_of_a_chat(local, client):
    file = picture()
    answer = local.chat(MODEL, [{"role": "user", "content": "What?", "images": [file]}], options=GREEDY)
    url = "data:image/png;base64," + base64.b64encode(file).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=20, temperature=0)
    assert answer.message.content == chat.choices[0].message.content and answer.done
    assert (answer.prompt_eval_count, answer.eval_count) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert answer.done_reason == chat.choices[0].finish_reason and answer.total_duration > 0
    text = local.generate(MODEL, "What?", images=[file], options=GREEDY)
    assert text.response == answer.message.content and text.eval_count == answer.eval_count


def test_streams_say_the_same(local):
    messages = [{"role": "user", "content": "Tell me."}]
    whole = local.chat(MODEL, messages, options=GREEDY)
    lines = list(local.chat(MODEL + ":latest", messages, options=GREEDY, stream=True))
    assert "".join(line.message.content for line in lines) == whole.message.content
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1].eval_count == whole.eval_count
    lines = list(local.generate(MODEL, "Tell me.", options=GREEDY, stream=True))
    assert "".join(line.response for line in lines) == whole.message.content


def test_a_form_is_kept(local):
    options = {"temperature": 1, "seed": 1, "num_predict": 1500}
    for answer in (
        local.chat(MODEL, [{"role": "user", "content": "How many?"}], format=SCHEMA, options=options).message.content,
        local.generate(MODEL, "How many?", format=SCHEMA, options=options).response,
    ):
        jsonschema.validate(json.loads(answer), SCHEMA)


def test_tools_are_called_and_answered(local, client):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Weather?"}], "tools": [TOOL], "tool_choice": "required",
            "parallel_tool_calls": False, "stream": False, "options": {"temperature": 0, "num_predict": 1500}}
    url = str(client.base_url).removesuffix("/v1/") + "/api/chat"
    whole = ollama.ChatResponse(**client.post(url, body=body, cast_to=object))
    (call,) = whole.message.tool_calls
    jsonschema.validate(dict(call.function.arguments), SCHEMA)
    lines = client.post(url, body=body | {"stream": True}, cast_to=str).splitlines()
    calls = [call for line in lines for call in ollama.ChatResponse(**json.loads(line)).message.tool_calls or []]
    assert [one.function.arguments for one in calls] == [call.function.arguments]
    turns = [*body["messages"], whole.message, {"role": "tool", "tool_name": "weather", "content": "3 degrees"}]
    more = local.chat(MODEL, turns, tools=[TOOL], options=GREEDY)
    assert more.prompt_eval_count > whole.prompt_eval_count


def test_clients_find_the_model(local):
    (model,) = local.list().models
    assert model.model == MODEL and model.size > 0 and model.modified_at
    assert local.ps().models[0].model == MODEL
    shown = local.show(MODEL)
    assert {"vision", "completion", "tools"} <= set(shown.capabilities)
    assert any(name.endswith(".context_length") for name in shown.modelinfo)
    assert local.chat(MODEL, []).done_reason == "load" and local.generate(MODEL, "").done_reason == "load"


@pytest.mark.parametrize(("call", "status", "words"), [
    (lambda local: local.chat("other", [{"role": "user", "content": "x"}]), 404, "other"),
    (lambda local: local.show("other"), 404, "other"),
    (lambda local: local.chat(MODEL, [{"role": "user", "content": "x", "images": [base64.b64encode(b"nothing")]}]), 400, "image"),
    (lambda local: local.chat(MODEL, [{"role": "user", "content": "x"}], options={"temperature": 9}), 400, "options.temperature"),
    (lambda local: local.generate(MODEL, "x", raw=True), 400, "raw"),
    (lambda local: local.generate(MODEL, "x", suffix="y"), 400, "suffix"),
    (lambda local: local.generate(MODEL, "x", options={"mirostat": 2}), 400, "mirostat"),
])
def test_errors_have_ollamas_form(local, call, status, words):
    with pytest.raises(ollama.ResponseError) as refused:
        call(local)
    assert refused.value.status_code == status and words in refused.value.error
