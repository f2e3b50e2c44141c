"""OpenAI's own client for Python, its newer interface."""

import openai
from common import (
    ANSWER,
    API,
    ENTRY_SCHEMA,
    KEY,
    MODEL,
    PAGE_URL,
    QUESTION,
    ROOM,
    TOOL_PARAMETERS,
    Checks,
    Entry,
    look_up,
    main,
    raises,
    refusal,
    run_call,
    whole,
)

client = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0)
checks = Checks("openai-python", "openai", "responses")
TEXT = {"type": "input_text", "text": QUESTION}
IMAGE = {"type": "input_image", "image_url": PAGE_URL, "detail": "auto"}
TOOL = {
    "type": "function",
    "name": "look_up",
    "description": look_up.__doc__,
    "parameters": TOOL_PARAMETERS,
    "strict": True,
}


def create(input=QUESTION, **options):
    return client.responses.create(model=MODEL, input=input, **{"max_output_tokens": ROOM} | options)


@checks("chat")
def plain():
    answer = create(instructions="Answer with a number.")
    assert answer.status == "completed" and answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


@checks("chat", "previous_response_id")
def previous():
    first = create()
    second = create("And LD?", previous_response_id=first.id)
    assert second.output_text and second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text


@checks("stream")
def stream():
    text, kinds, final, last = "", [], None, -1
    for event in create(stream=True):
        kinds.append(event.type)
        assert event.sequence_number == last + 1, kinds
        last = event.sequence_number
        text += event.delta if event.type == "response.output_text.delta" else ""
        final = event.response if event.type == "response.completed" else final
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed", (
        kinds
    )
    assert text == final.output_text == create().output_text


@checks("stream", "helper")
def stream_helper():
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=ROOM) as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text == create().output_text


@checks("image first")
def image_first():
    assert create([{"role": "user", "content": [IMAGE, TEXT]}]).output_text == ANSWER


@checks("text first")
def text_first():
    assert create([{"role": "user", "content": [TEXT, IMAGE]}]).output_text == ANSWER


@checks("structured output", "json_schema")
def json_schema():
    form = {"type": "json_schema", "name": "entry", "strict": True, "schema": ENTRY_SCHEMA}
    whole(create(text={"format": form}).output_text)


@checks("structured output", "parse")
def parse():
    answer = client.responses.parse(model=MODEL, input=QUESTION, text_format=Entry, max_output_tokens=ROOM)
    assert isinstance(answer.output_parsed, Entry)


@checks("structured output", "parse, stream")
def parse_stream():
    options = {"model": MODEL, "input": QUESTION, "text_format": Entry, "max_output_tokens": ROOM}
    with client.responses.stream(**options) as events:
        for _ in events:
            pass
        assert isinstance(events.get_final_response().output_parsed, Entry)


def called(response):
    return [item for item in response.output if item.type == "function_call"]


def results(calls):
    return [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": run_call(call.name, call.arguments),
        }
        for call in calls
    ]


@checks("tools", "required")
def tools_required():
    first = create(tools=[TOOL], tool_choice="required")
    assert called(first)
    items = [{"role": "user", "content": QUESTION}, *first.output, *results(called(first))]
    assert create(items, tools=[TOOL]).output_text


@checks("tools", "named, previous_response_id")
def tools_named():
    first = create(tools=[TOOL], tool_choice={"type": "function", "name": "look_up"})
    assert called(first)
    assert create(results(called(first)), previous_response_id=first.id, tools=[TOOL]).output_text


@checks("tools", "stream")
def tools_stream():
    arguments, done, final = "", None, None
    for event in create(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True):
        arguments += event.delta if event.type == "response.function_call_arguments.delta" else ""
        done = event.arguments if event.type == "response.function_call_arguments.done" else done
        final = event.response if event.type == "response.completed" else final
    assert arguments == done == called(final)[0].arguments and run_call("look_up", arguments)


@checks("errors")
def errors():
    message = refusal("/v1/responses", {"model": MODEL, "input": QUESTION, "temperature": 9})
    with raises(openai.BadRequestError, message):
        create(temperature=9)


@checks("errors", "not found")
def errors_not_found():
    with raises(openai.NotFoundError, "resp_none"):
        client.responses.retrieve("resp_none")


if __name__ == "__main__":
    main()
