"""Every endpoint, by the document that the server itself serves: it is valid, complete, and tells the truth."""

import json

import jsonschema
import pytest
from conftest import MODEL, image_part, messages
from openapi_spec_validator import OpenAPIV31SpecValidator

# A request for each operation. One that the document has and this list lacks fails the test.
EXAMPLES = {
    "createChatCompletion": {
        "model": MODEL,
        "messages": messages("What is in the sky?", image_part("rocket.jpg")),
        "temperature": 0, "seed": 1, "max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["never"],
        "arrcoc": {"budget": "auto", "explain": True},
    },
    "createCompletion": {
        "model": MODEL, "prompt": "Once", "max_tokens": 4, "temperature": 0, "logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}},
    },
    "createResponse": {"model": MODEL, "input": "Once", "max_output_tokens": 4, "temperature": 0, "arrcoc": {"explain": True}},
    "createMessage": {"model": MODEL, "messages": [{"role": "user", "content": "Once"}], "max_tokens": 4, "temperature": 0},
    "countMessageTokens": {"model": MODEL, "messages": [{"role": "user", "content": "Once"}], "max_tokens": 4},
    "tokenize": {"model": MODEL, "prompt": "Once", "return_token_strs": True},
    "detokenize": {"model": MODEL, "tokens": [65, 66]},
    "tokenizerInfo": None,
    "version": None,
    "ollamaChat": {"model": MODEL, "messages": [{"role": "user", "content": "Once"}], "stream": False, "options": {"num_predict": 4}},
    "ollamaGenerate": {"model": MODEL, "prompt": "Once", "stream": False, "options": {"num_predict": 4, "temperature": 0}},
    "ollamaShow": {"model": MODEL},
    "ollamaTags": None,
    "ollamaRunning": None,
    "ollamaVersion": None,
    "listModels": None,
    "retrieveModel": None,
    "retrieveResponse": None,
    "health": None,
    "ready": None,
    "metrics": None,
    "openapi": None,
    "listEngines": None,
    "swapEngine": {"precision": "fp32"},
    "landing": None,
}
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


@pytest.fixture(scope="module")
def document(server) -> dict:
    return server.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(document) -> dict[str, tuple[str, str, dict]]:
    """(method, path, operation) by operationId."""
    return {
        operation["operationId"]: (method, path, operation)
        for path, entry in document["paths"].items() for method, operation in entry.items() if method in METHODS
    }


def validate(document: dict, schema: dict, value: object) -> None:
    """Against a schema of the document: the references in it are relative to the document."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def call(server, operations, name: str, body: dict | None, **headers: str):
    method, path, operation = operations[name]
    client = server.admin if operation.get("security") == [{"adminKey": []}] else server.http
    assert ("requestBody" in operation) == (body is not None)
    if name == "retrieveResponse":
        kept = server.http.post("/v1/responses", json=EXAMPLES["createResponse"]).json()["id"]
        return client.request(method, path.replace("{id}", kept), headers=headers)
    return client.request(method, path.replace("{id}", MODEL), json=body, headers=headers)


def test_the_document_is_openapi_3_1(document):
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_has_an_example_here(operations):
    assert set(operations) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_operation_answers_as_the_document_says(server, document, operations, name):
    operation = operations[name][2]
    if EXAMPLES[name] is not None:
        validate(document, operation["requestBody"]["content"]["application/json"]["schema"], EXAMPLES[name])
    answer = call(server, operations, name, EXAMPLES[name])
    assert answer.status_code == 200, answer.text
    content = operation["responses"]["200"]["content"]
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in content
    validate(document, content[kind]["schema"], answer.json() if kind == "application/json" else answer.text)


@pytest.mark.parametrize(("name", "chunk"), [
    ("createChatCompletion", "ChatCompletionChunk"), ("createCompletion", "Completion"),
])
def test_streams_are_made_of_the_chunks_that_the_document_names(server, document, operations, name, chunk):
    body = EXAMPLES[name] | {"stream": True, "stream_options": {"include_usage": True}}
    answer = call(server, operations, name, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    content = operations[name][2]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert chunk in content["description"]
    events = [event for event in answer.text.split("\n\n") if event]
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        validate(document, document["components"]["schemas"][chunk], json.loads(event.removeprefix("data: ")))


@pytest.mark.parametrize(("name", "body", "headers", "status"), [
    ("createChatCompletion", {"messages": []}, {}, 400),
    ("createChatCompletion", {"messages": messages("Hello"), "model": "none"}, {}, 404),
    ("createChatCompletion", {"messages": messages("Hello")}, {"content-type": "text/plain"}, 415),
    ("createChatCompletion", {"messages": messages("x" * 40_000_000)}, {}, 413),
    ("createCompletion", {"prompt": ""}, {}, 400),
    ("listEngines", None, {"authorization": "Bearer none"}, 401),
    ("swapEngine", {"precision": "int4", "model": "none"}, {}, 404),
    ("swapEngine", {"precision": "int5"}, {}, 400),
])
def test_errors_have_the_documents_form_too(server, document, operations, name, body, headers, status):
    answer = call(server, operations, name, body, **headers)
    assert answer.status_code == status, answer.text
    response = operations[name][2]["responses"][str(status)]
    validate(document, response["content"]["application/json"]["schema"], answer.json())


def test_what_is_not_in_the_document_is_not_there(server, operations):
    paths = {path for _, path, _ in operations.values()}
    for path in ("/docs", "/v1", "/v1/embeddings", "/admin", "/v1/chat/completions/"):
        assert path not in paths and server.http.get(path).status_code == 404
    for method, path, _ in operations.values():
        other = "post" if method == "get" else "get"
        answer = server.admin.request(other, path.replace("{id}", MODEL))
        assert answer.status_code == 405 and method.upper() in answer.headers["allow"]
