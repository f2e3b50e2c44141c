"""instructor, in all modes that it has for OpenAI's interface."""

import contextlib
import itertools
from collections.abc import Iterable

import instructor
import openai
from common import (
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
    Entry,
    main,
    raises,
    refusal,
)
from instructor import Mode
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel

checks = Checks("instructor", "instructor", "chat")
responses = Checks("instructor", "instructor", "responses")
raw = openai.OpenAI(base_url=API, api_key=KEY, max_retries=0)


def create(mode, messages=PLAIN, model=Entry, **options):
    client = instructor.from_openai(raw, mode=mode)
    options = {"max_retries": 1, "max_tokens": ROOM} | options
    return client.create(model=MODEL, messages=list(messages), response_model=model, **options)


for mode in (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.FUNCTIONS):

    @checks("structured output", mode.value)
    def structured(mode=mode):
        assert isinstance(create(mode), Entry)


class Anything(BaseModel, extra="allow"):
    """Some object: json_mode binds no more than that."""


@checks("structured output", Mode.JSON.value)
def json_mode():
    for _ in range(24):
        # What has no end is no object, and instructor says so.
        with contextlib.suppress(InstructorRetryException, IncompleteOutputException):
            assert isinstance(create(Mode.JSON, model=Anything, temperature=1.5), Anything)
            return
    raise AssertionError("no answer ended")


@checks("structured output", f"{Mode.MD_JSON.value}, bound by structured_outputs")
def md_json():
    # The mode only asks in words, which this model does not follow.
    form = {"structured_outputs": {"json": ENTRY_SCHEMA}}
    assert isinstance(create(Mode.MD_JSON, extra_body=form), Entry)


@checks("structured output", "create_iterable")
def iterable():
    client = instructor.from_openai(raw, mode=Mode.TOOLS)
    options = {
        "model": MODEL,
        "messages": PLAIN,
        "response_model": Entry,
        "max_tokens": ROOM,
        "temperature": 1.5,
    }
    for seed in range(24):
        # The list has no bounds: it may be empty, or have no end.
        if entries := list(itertools.islice(client.create_iterable(seed=seed, **options), 2)):
            assert all(isinstance(entry, Entry) for entry in entries), entries
            return
    raise AssertionError("no list has an entry")


@checks("tools", "PARALLEL_TOOLS")
def parallel_tools():
    relayed = instructor.from_openai(
        openai.OpenAI(base_url=RELAY + "/v1", api_key=KEY), mode=Mode.PARALLEL_TOOLS
    )
    entries = list(
        relayed.create(
            model=MODEL,
            messages=PLAIN,
            response_model=Iterable[Entry],
            max_tokens=2 * ROOM,
            max_retries=1,
        )
    )
    assert entries and all(isinstance(entry, Entry) for entry in entries), entries


def partial_of(**options):
    client = instructor.from_openai(raw, mode=Mode.TOOLS)
    pieces = list(
        client.create_partial(
            model=MODEL, messages=PLAIN, response_model=Entry, max_tokens=ROOM, max_retries=1, **options
        )
    )
    assert len(pieces) > 1
    Entry.model_validate(pieces[-1].model_dump())


@checks("structured output", "create_partial")
def partial():
    partial_of(strict=False)


@checks("structured output", "create_partial, strict")
def partial_strict():
    partial_of()


@checks("image first")
def image_first():
    assert isinstance(create(Mode.JSON_SCHEMA, IMAGE_FIRST), Entry)


@checks("text first")
def text_first():
    assert isinstance(create(Mode.TOOLS, TEXT_FIRST), Entry)


@checks("errors")
def errors():
    message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
    with raises((openai.BadRequestError, InstructorRetryException), message):
        create(Mode.TOOLS, temperature=9)


for mode in (Mode.RESPONSES_TOOLS, Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS):

    @responses("structured output", mode.value)
    def responses_tools(mode=mode):
        assert isinstance(create(mode), Entry)


if __name__ == "__main__":
    main()
