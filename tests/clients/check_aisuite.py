"""aisuite, by its provider for OpenAI."""

import aisuite
from aisuite.provider import LLMError
from common import (
    ANSWER,
    API,
    ENTRY_SCHEMA,
    IMAGE_FIRST,
    KEY,
    MODEL,
    PLAIN,
    RELAY,
    ROOM,
    TEXT_FIRST,
    Checks,
    Key,
    main,
    raises,
    refusal,
    whole,
)
from common import look_up as ledger

checks = Checks("aisuite", "aisuite", "chat")


def client(api=API):
    return aisuite.Client({"openai": {"api_key": KEY, "base_url": api, "max_retries": 0}})


def create(messages=PLAIN, api=API, **options):
    options = {"max_tokens": ROOM} | options
    return client(api).chat.completions.create(model=f"openai:{MODEL}", messages=list(messages), **options)


def text(messages=PLAIN, **options):
    return create(messages, **options).choices[0].message.content


def look_up(key: Key) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return ledger(Key(key))


@checks("chat")
def plain():
    assert text()


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
    form = {"type": "json_schema", "json_schema": {"name": "entry", "strict": True, "schema": ENTRY_SCHEMA}}
    whole(text(response_format=form))


@checks("tools", "max_turns")
def tools():
    answer = create(api=RELAY + "/v1", tools=[look_up], max_turns=3)
    roles = [
        message["role"] if isinstance(message, dict) else message.role
        for message in answer.choices[0].intermediate_messages
    ]
    assert roles[0] == "assistant" and "tool" in roles and roles[-1] == "assistant", roles
    assert answer.choices[0].message.content


@checks("errors")
def errors():
    message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
    with raises(LLMError, message):
        create(temperature=9)


if __name__ == "__main__":
    main()
