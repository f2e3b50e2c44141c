"""Answers of a form, through OpenAI's client. The weights are random: a free answer means nothing, and a bound one keeps
its form all the same."""

import concurrent.futures
import json
import os
import random
import re
import subprocess
import time
import typing

import jsonschema
import openai
import pydantic
import pytest
from conftest import BUNDLE, SERVE
from schemas import expression, schema

# How many random schemas are answered.
COUNT = int(os.environ.get("ARRCOC_TEST_SCHEMAS", "300"))


@pytest.fixture
def ask(client: openai.OpenAI):
    def call(text: str = "Tell me.", **options: object):
        given = {"model": "arr-coc-ovis-tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 200, "seed": 1,
                 "temperature": 1}
        return client.chat.completions.create(**(given | options))

    return call


def choice(answer):
    return answer.choices[0].message.content, answer.choices[0].finish_reason


def form(schema: dict | bool) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


class Item(pydantic.BaseModel):
    name: typing.Literal["nail", "screw"]
    count: int = pydantic.Field(ge=1, le=99)


class Order(pydantic.BaseModel):
    items: list[Item] = pydantic.Field(max_length=3)
    paid: bool
    next: typing.Optional["Order"]


def test_parse_gives_the_model_that_was_asked_for(client):
    messages = [{"role": "user", "content": "What was ordered?"}]
    for seed in range(5):
        answer = client.chat.completions.parse(
            model="arr-coc-ovis-tiny", messages=messages, response_format=Order, max_tokens=1500, seed=seed, temperature=1)
        order = answer.choices[0].message.parsed
        assert isinstance(order, Order) and all(1 <= item.count <= 99 for item in order.items)


def test_a_stream_helper_parses_too(client):
    messages = [{"role": "user", "content": "What was ordered?"}]
    given = {"model": "arr-coc-ovis-tiny", "messages": messages, "response_format": Item, "max_tokens": 200, "seed": 3}
    with client.chat.completions.stream(**given, temperature=1) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Item) and json.loads(text) == final.choices[0].message.parsed.model_dump()


def answer(client: openai.OpenAI, seed: int) -> str:
    options = {"response_format": form(schema(seed)), "max_tokens": 1200, "seed": seed, "temperature": 1}
    messages = [{"role": "user", "content": f"Number {seed}, please."}]
    try:
        given = client.chat.completions.create(model="arr-coc-ovis-tiny", messages=messages, **options).choices[0]
    except openai.BadRequestError as error:
        # What refers to itself at random may be something that nothing fits.
        assert "is endless" in str(error) or "nothing fits" in str(error), (seed, schema(seed), error)
        return "refused"
    if given.finish_reason == "stop":
        value = json.loads(given.message.content)
        jsonschema.Draft202012Validator(schema(seed)).validate(value)
    return given.finish_reason


def test_answers_of_random_schemas_are_valid(client):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        reasons = list(threads.map(lambda seed: answer(client, seed), range(COUNT)))
    ended = reasons.count("stop")
    print(f"{COUNT} schemas: {ended} answers, {reasons.count('length')} cut, {reasons.count('refused')} refused")
    assert ended >= 0.8 * COUNT and reasons.count("refused") <= 0.03 * COUNT


def test_json_objects_choices_expressions_and_grammars(ask):
    for seed in range(8):
        text, reason = choice(ask(response_format={"type": "json_object"}, seed=seed, max_tokens=400))
        assert reason == "length" or isinstance(json.loads(text), dict)
    outputs = [
        ({"choice": ["yes", "no", "perhaps not"]}, "yes|no|perhaps not"),
        ({"regex": r"[A-Z]{2}-\d{3}"}, r"[A-Z]{2}-\d{3}"),
        ({"grammar": 'root ::= "(" [a-c]{2,3} ")"'}, r"\([a-c]{2,3}\)"),
        ({"grammar": 'start: "x" NUMBER\nNUMBER: /[0-9]{2}/\n'}, "x[0-9]{2}"),
    ]
    for given, pattern in outputs:
        text, reason = choice(ask(extra_body={"structured_outputs": given}))
        assert re.fullmatch(pattern, text) and reason == "stop", (given, text)
        (name, value), = given.items()
        assert choice(ask(extra_body={"guided_" + name: value})) == (text, reason)


def test_random_expressions_and_grammars_are_kept(ask):
    def answers(seed: int) -> None:
        pattern, grammar = expression(random.Random(seed), 1 + seed % 4)
        for given in ({"regex": pattern}, {"grammar": f"root ::= {grammar}"}):
            text, reason = choice(ask(extra_body={"structured_outputs": given}, seed=seed, max_tokens=600))
            assert reason == "stop" and re.fullmatch(pattern, text), (seed, given, text)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(answers, range(100)))


def test_hostile_forms_cost_little(server):
    chain = {str(number): {"$ref": f"#/$defs/{number + 1}"} for number in range(20_000)}
    hostile = [
        {"guided_json": {"enum": [0] * 100_000}},
        {"guided_json": {"$ref": "#/$defs/0", "$defs": chain}},
        {"guided_json": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}},
        {"guided_json": {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(200)]}},
        {"guided_json": {"$ref": "https://example.org/schema.json"}},
        {"guided_regex": "(" * 30_000 + "a"},
        {"guided_grammar": "root ::= " + "(" * 30_000},
    ]
    messages = [{"role": "user", "content": "Hi"}]
    server.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1, "guided_regex": "a"})
    for form in hostile:
        begun = time.monotonic()
        answer = server.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1} | form)
        took = time.monotonic() - begun
        # Refused within a tenth of a second where nobody else is at work.
        assert answer.status_code == 400 and took < 1.5, (answer.text, took)
        assert len(answer.text) < 2000


def test_texts_have_forms_too(client):
    given = {"model": "arr-coc-ovis-tiny", "prompt": "The number is", "max_tokens": 50, "seed": 5, "temperature": 1}
    answer = client.completions.create(**given, extra_body={"guided_regex": "[0-9]{3}"}).choices[0]
    assert re.fullmatch("[0-9]{3}", answer.text) and answer.finish_reason == "stop"


def test_streams_choices_seeds_and_probabilities_go_on_working(ask):
    bound = {"extra_body": {"guided_regex": "([a-z]{2,4} ){3}"}}
    whole = ask(**bound, n=3, logprobs=True, top_logprobs=2)
    texts = [each.message.content for each in whole.choices]
    assert len(set(texts)) > 1 and all(re.fullmatch("([a-z]{2,4} ){3}", text) for text in texts)
    for each in whole.choices:
        assert "".join(token.token for token in each.logprobs.content) == each.message.content
    assert [each.message.content for each in ask(**bound, n=3).choices] == texts
    streamed = {index: "" for index in range(3)}
    for chunk in ask(**bound, n=3, stream=True):
        for each in chunk.choices:
            streamed[each.index] += each.delta.content or ""
    assert list(streamed.values()) == texts


def test_a_cut_answer_says_so(ask):
    text, reason = choice(ask(response_format=form({"type": "array", "items": {"type": "integer"}, "minItems": 50}), max_tokens=20))
    assert reason == "length" and text.startswith("[")
    text, reason = choice(ask(extra_body={"guided_regex": "ab{20}c"}, stop="bbb"))
    assert (text, reason) == ("a", "stop")


def test_bound_and_free_answers_are_what_they_are_alone(client):
    def call(number: int) -> str:
        bound = {"extra_body": {"structured_outputs": {"regex": "[a-z ]{10,40}"}}} if number % 2 else {}
        messages = [{"role": "user", "content": f"Number {number % 6}"}]
        given = {"model": "arr-coc-ovis-tiny", "messages": messages, "seed": number % 6, "temperature": 1, "max_tokens": 40}
        return client.chat.completions.create(**given, **bound).choices[0].message.content

    alone = [call(number) for number in range(6)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = list(threads.map(call, range(48)))
    assert together == alone * 8


def test_ask_binds_its_answer(tmp_path):
    def ask(*options: str) -> str:
        command = [SERVE, "ask", "What?", "--bundle", BUNDLE, "--json", *options]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)["answer"]

    assert re.fullmatch("[A-Z]{3}", ask("--regex", "[A-Z]{3}"))
    (tmp_path / "schema.json").write_text(json.dumps({"enum": ["red", "green"]}))
    assert json.loads(ask("--json-schema", str(tmp_path / "schema.json"))) in ("red", "green")
