"""Ollama's own client for Python."""

import ollama
from common import (
    ANSWER,
    ENTRY_SCHEMA,
    MODEL,
    PAGE,
    PAGE_BASE64,
    PLAIN,
    QUESTION,
    RELAY,
    ROOM,
    TOOL,
    URL,
    Checks,
    Entry,
    Key,
    main,
    raises,
    refusal,
    run_call,
    whole,
)
from common import look_up as ledger

client = ollama.Client(host=URL)
checks = Checks("ollama-python", "ollama", "api")
OPTIONS = {"num_predict": ROOM, "temperature": 0}


def look_up(key: Key) -> str:
    """Looks up the number that belongs to a key of the ledger.

    Args:
        key: Key of the ledger
    """
    return ledger(Key(key))


def chat(messages=PLAIN, by=client, **options):
    return by.chat(model=MODEL, messages=messages, options=OPTIONS, **options)


def generate(prompt=QUESTION, **options):
    return client.generate(model=MODEL, prompt=prompt, options=OPTIONS, **options)


@checks("chat")
def plain():
    answer = chat()
    assert answer.message.content and answer.done and answer.done_reason == "stop"
    assert answer.eval_count and answer.prompt_eval_count and answer.total_duration


@checks("chat", "generate")
def generated():
    assert generate(system="Answer with a number.").response


@checks("stream")
def stream():
    pieces = list(chat(stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == chat().message.content
    assert pieces[-1].done and pieces[-1].eval_count and not pieces[0].done


@checks("stream", "generate")
def stream_generate():
    assert "".join(piece.response for piece in generate(stream=True)) == generate().response


# Its messages have a text and images apart, so that there is no order.
@checks("image first", "chat")
def image_chat():
    for image in (PAGE, PAGE.read_bytes(), PAGE_BASE64):
        assert chat([{"role": "user", "content": QUESTION, "images": [image]}]).message.content == ANSWER


@checks("image first", "generate")
def image_generate():
    assert generate(images=[PAGE.read_bytes()]).response == ANSWER


@checks("structured output", "format: schema")
def schema():
    whole(chat(format=ENTRY_SCHEMA).message.content)
    whole(generate(format=Entry.model_json_schema()).response)


@checks("structured output", "format: json")
def json_format():
    options = OPTIONS | {"temperature": 1.5}
    tries = (
        client.chat(model=MODEL, messages=PLAIN, format="json", options=options | {"seed": seed})
        for seed in range(16)
    )
    ended = next(one for one in tries if one.done_reason == "stop")
    assert ended.message.content.lstrip().startswith("{"), ended


@checks("tools", "two steps")
def tools():
    first = chat(by=ollama.Client(host=RELAY), tools=[TOOL])
    assert first.message.tool_calls, first
    results = [
        {
            "role": "tool",
            "tool_name": call.function.name,
            "content": run_call(call.function.name, dict(call.function.arguments)),
        }
        for call in first.message.tool_calls
    ]
    assert chat([*PLAIN, first.message, *results], tools=[TOOL]).message.content


@checks("tools", "Python function")
def tools_function():
    assert chat(tools=[look_up]).message.content


@checks("tools", "cut short")
def tools_cut():
    options = OPTIONS | {"num_predict": 60}
    answer = ollama.Client(host=RELAY).chat(model=MODEL, messages=PLAIN, tools=[look_up], options=options)
    # Arguments are an object in this interface, even where they have no end.
    assert answer.done_reason == "length", answer


@checks("tools", "stream")
def tools_stream():
    calls = [
        call
        for piece in chat(by=ollama.Client(host=RELAY), tools=[TOOL], stream=True)
        for call in piece.message.tool_calls or []
    ]
    assert calls and all(run_call(call.function.name, dict(call.function.arguments)) for call in calls)


@checks("other", "list, show")
def models():
    assert MODEL in [model.model.removesuffix(":latest") for model in client.list().models]
    shown = client.show(MODEL)
    assert "vision" in shown.capabilities and "completion" in shown.capabilities, shown


@checks("other", "ps")
def loaded():
    assert client.ps().models


@checks("errors")
def errors():
    message = refusal("/api/chat", {"model": MODEL, "messages": PLAIN, "options": {"temperature": 9}})
    with raises(ollama.ResponseError, message):
        client.chat(model=MODEL, messages=PLAIN, options={"temperature": 9})


@checks("errors", "not found")
def errors_not_found():
    with raises(ollama.ResponseError, MODEL):
        client.chat(model="other", messages=PLAIN)


if __name__ == "__main__":
    main()
