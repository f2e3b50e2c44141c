"""Wrong requests, through the exception classes that OpenAI's client makes of them."""

import os
import subprocess
import threading

import openai
import pytest
from conftest import MODEL, SERVE, image_part, messages


def refused(kind: type[openai.APIStatusError], call, **options) -> openai.APIStatusError:
    with pytest.raises(kind) as caught:
        call(**options)
    # The class is exact: BadRequestError is not "any status error".
    assert type(caught.value) is kind and caught.value.body["message"]
    return caught.value


@pytest.mark.parametrize(("options", "param"), [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"extra_body": {"min_p": 7}}, "min_p"),
    ({"extra_body": {"min_tokens": 10**9}}, "min_tokens"),
    ({"extra_body": {"stop_token_ids": ["x"]}}, "stop_token_ids[0]"),
    ({"extra_body": {"guided_choice": "yes"}}, "guided_choice"),
    ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
    ({"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}}, "guided_choice"),
    ({"extra_body": {"structured_outputs": {"grammar": "root ::= other"}}}, "structured_outputs.grammar"),
    ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs"),
    ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True}}, "enable_thinking"),
    ({"extra_body": {"thinking": {"type": "sometimes"}}}, "thinking"),
    ({"extra_body": {"reasoning": {"effort": "low"}}}, "reasoning"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"extra_body": {"temprature": 0}}, "temperature"),
    ({"extra_body": {"arrcoc": {"bugdet": 64}}}, "arrcoc"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
     "response_format.json_schema.schema"),
    ({"temperature": "warm"}, "temperature"),
    ({"extra_body": {"arrcoc": {"budget": 65}}}, "arrcoc.budget"),
    ({"extra_body": {"arrcoc": {"budget": "all"}}}, "arrcoc.budget"),
    ({"extra_body": {"arrcoc": {"budget": "full"}}}, "arrcoc.budget"),
])
def test_a_wrong_parameter_is_named(ask, options, param):
    error = refused(openai.BadRequestError, ask, text="Hello", **options)
    assert error.status_code == 400 and error.param == param and error.type == "invalid_request_error"


def test_a_refusal_is_logged_once_on_one_line(start):
    server = start().wait_ready()
    answer = server.http.post("/v1/chat/completions", json={"messages": [], "temperature": "x\n\x1b[31m\u2028forged"})
    assert answer.status_code == 400
    server.eventually(lambda: "invalid_value" in server.log.read_text(), "the refusal is in the log")
    lines = [line for line in server.log.read_text().split("\n") if "invalid_value" in line]
    (line,) = lines
    assert "temperature" in line and "forged" in line and "refused" in line
    assert "x\\\\n" in line and "\u2028" not in line


def test_a_misspelt_variable_of_the_environment_ends_the_start(tmp_path):
    environment = os.environ | {"ARRCOC_BUNDEL": "engines"}
    ended = subprocess.run([SERVE, "serve"], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 2 and "ARRCOC_BUNDLE" in ended.stderr


def test_a_budget_is_checked_against_the_tiers_even_with_an_image(client):
    error = refused(
        openai.BadRequestError, client.chat.completions.create, model=MODEL,
        messages=messages("What?", image_part("rocket.jpg")), extra_body={"arrcoc": {"budget": 65}},
    )
    assert error.param == "arrcoc.budget" and "64" in error.body["message"]


@pytest.mark.parametrize(("conversation", "param"), [
    ([], "messages"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "nobody", "content": "Hello"}], "messages[0].role"),
    ([{"role": "tools", "content": "Hello", "tool_call_id": "1"}], "messages[0].role"),
    ([{"role": "user", "content": [{"type": "sound"}]}], "messages[0].content[0].type"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
])
def test_a_wrong_message_is_named(client, conversation, param):
    error = refused(openai.BadRequestError, client.chat.completions.create, model=MODEL, messages=conversation)
    assert error.param == param


def test_an_unknown_model_is_not_found(ask, client):
    error = refused(openai.NotFoundError, ask, model="gpt-9")
    assert error.code == "model_not_found" and MODEL in error.body["message"]
    refused(openai.NotFoundError, client.models.retrieve, model="gpt-9")
    refused(openai.NotFoundError, client.completions.create, model="gpt-9", prompt="Hello")


def test_an_unknown_route_is_not_found(client):
    refused(openai.NotFoundError, client.embeddings.create, model=MODEL, input="Hello", encoding_format="float")


def test_keys_are_asked_for_once_there_are_any(start):
    server = start(auth_api_keys="first-key,second-key").wait_ready()
    for key in ("first-key", "second-key"):
        assert server.client(api_key=key).models.list().data[0].id == MODEL
    stranger = server.client(api_key="third-key")
    for call, options in ((stranger.models.list, {}),
                          (stranger.chat.completions.create, {"model": MODEL, "messages": messages("Hello")})):
        error = refused(openai.AuthenticationError, call, **options)
        assert error.code == "invalid_api_key" and error.response.headers["www-authenticate"] == "Bearer"
    assert server.http.get("/v1/models").status_code == 401
    # Probes and metrics have no keys.
    assert all(server.http.get(path).status_code == 200 for path in ("/health", "/ready", "/metrics"))


def test_the_administrators_key_is_another(server, start):
    assert server.admin.get("/admin/engines").json()["data"][0]["state"] == "ready"
    for headers in ({"authorization": ""}, {"authorization": "Bearer none"}):
        assert server.admin.get("/admin/engines", headers=headers).status_code == 401
    # Where strangers come in there is no such path.
    for key in ("admin-key", "none"):
        answer = server.http.get("/admin/engines", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_route"
    closed = start().http.get("/admin/engines", headers={"authorization": "Bearer admin-key"})
    assert closed.status_code == 403 and closed.json()["error"]["code"] == "admin_disabled"


def test_a_full_queue_is_a_rate_limit(start):
    server = start(engine_slots=1, limits_queue=1).wait_ready()
    options = {"model": MODEL, "messages": messages("Hi"), "temperature": 0, "max_tokens": 3000, "n": 8, "stream": True}
    with server.client() as client:
        running = client.chat.completions.create(**options)
        next(iter(running))
        waiting = threading.Thread(target=lambda: client.chat.completions.create(**options).close())
        waiting.start()
        server.eventually(lambda: server.metric("vllm:num_requests_waiting") == 1, "one request waits")
        # Refused before its image is looked at: this one is no image at all.
        error = refused(openai.RateLimitError, client.chat.completions.create, model=MODEL,
                        messages=messages("What?", image_part(b"no image", "png")))
        assert error.code == "queue_full" and int(error.response.headers["retry-after"]) >= 1
        running.close()
        waiting.join(60)
        assert not waiting.is_alive()
        assert client.chat.completions.create(**options | {"stream": False, "n": 1, "max_tokens": 1}).choices
