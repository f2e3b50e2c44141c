"""pydantic-ai over chat completions and over responses: its three ways to an output, and tools."""

import contextlib
from typing import Literal

from common import (
    ANSWER,
    API,
    KEY,
    MODEL,
    PAGE,
    PLAIN,
    QUESTION,
    ROOM,
    Checks,
    Entry,
    Key,
    main,
    raises,
    refusal,
)
from common import look_up as ledger
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    BinaryContent,
    ModelHTTPError,
    NativeOutput,
    PromptedOutput,
    ToolOutput,
    UnexpectedModelBehavior,
)
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=API, api_key=KEY)
chat = Checks("pydantic-ai", "pydantic-ai-slim", "chat")
responses = Checks("pydantic-ai", "pydantic-ai-slim", "responses")
IMAGE = BinaryContent(data=PAGE.read_bytes(), media_type="image/png")
SETTINGS = {"max_tokens": ROOM}


class Anything(BaseModel, extra="allow"):
    """Some object: PromptedOutput binds no more than that."""


def look_up(key: Literal["DZ", "LD"]) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return ledger(Key(key))


def first_call_is_required(context):
    """The model was not trained to call: it must at first, and must not once it has the result."""
    return SETTINGS | {"tool_choice": "none" if context.run_step > 1 else "required"}


def for_chat_and_responses(add):
    """The same checks over both interfaces."""
    add(chat, OpenAIChatModel(MODEL, provider=provider))
    add(responses, OpenAIResponsesModel(MODEL, provider=provider))


def agent(model, **options):
    return Agent(model, **{"model_settings": SETTINGS, "retries": 0} | options)


@for_chat_and_responses
def simple(checks, model):
    @checks("chat")
    def plain():
        answer = agent(model, system_prompt="Answer with a number.").run_sync(QUESTION)
        assert answer.output and answer.usage.output_tokens

    @checks("chat", "history")
    def history():
        first = agent(model).run_sync(QUESTION)
        assert agent(model).run_sync("And LD?", message_history=first.all_messages()).output

    @checks("stream")
    def stream():
        streamed = agent(model).run_stream_sync(QUESTION)
        assert "".join(streamed.stream_text(delta=True)) == agent(model).run_sync(QUESTION).output

    @checks("image first")
    def image_first():
        assert agent(model).run_sync([IMAGE, QUESTION]).output == ANSWER

    @checks("text first")
    def text_first():
        assert agent(model).run_sync([QUESTION, IMAGE]).output == ANSWER

    @checks("errors")
    def errors():
        path, body = "/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9}
        if checks is responses:
            path, body = "/v1/responses", {"model": MODEL, "input": QUESTION, "temperature": 9}
        with raises(ModelHTTPError, refusal(path, body)):
            agent(model, model_settings={"temperature": 9}).run_sync(QUESTION)


@for_chat_and_responses
def forms(checks, model):
    for output in (ToolOutput, NativeOutput):

        @checks("structured output", output.__name__)
        def structured(output=output):
            assert isinstance(agent(model, output_type=output(Entry)).run_sync(QUESTION).output, Entry)

        @checks("structured output", f"{output.__name__}, stream")
        def structured_stream(output=output):
            streamed = agent(model, output_type=output(Entry)).run_stream_sync(QUESTION)
            assert isinstance(streamed.get_output(), Entry)

    @checks("structured output", "PromptedOutput")
    def prompted():
        settings = {"max_tokens": ROOM, "temperature": 1.5}
        asking = agent(model, output_type=PromptedOutput(Anything), model_settings=settings)
        for _ in range(24):
            # What has no end is no object, and pydantic-ai says so.
            with contextlib.suppress(UnexpectedModelBehavior):
                assert isinstance(asking.run_sync(QUESTION).output, Anything)
                return
        raise AssertionError("no answer ended")


@for_chat_and_responses
def tools(checks, model):
    @checks("tools", "agent")
    def run():
        calling = agent(model, tools=[look_up], model_settings=first_call_is_required)
        answer = calling.run_sync(QUESTION)
        kinds = [part.part_kind for message in answer.all_messages() for part in message.parts]
        assert "tool-call" in kinds and "tool-return" in kinds and kinds[-1] == "text" and answer.output, (
            kinds
        )

    @checks("tools", "agent, stream")
    def run_stream():
        calling = agent(model, tools=[look_up], model_settings=first_call_is_required)
        streamed = calling.run_stream_sync(QUESTION)
        assert "".join(streamed.stream_text(delta=True))
        kinds = [part.part_kind for message in streamed.all_messages() for part in message.parts]
        assert "tool-call" in kinds and "tool-return" in kinds, kinds


if __name__ == "__main__":
    main()
