"""LangChain's ChatOpenAI over chats and over responses, its OpenAI over completions, and its agent."""

import contextlib
from typing import Literal

import openai
from common import (
    ANSWER,
    API,
    IMAGE_FIRST,
    KEY,
    MODEL,
    PAGE_BASE64,
    PLAIN,
    QUESTION,
    ROOM,
    TEXT_FIRST,
    Checks,
    Entry,
    Key,
    look_up,
    main,
    raises,
    refusal,
    whole,
)
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

OPTIONS = {"base_url": API, "api_key": KEY, "model": MODEL, "max_retries": 0, "max_tokens": ROOM}
chat = Checks("LangChain", "langchain-openai", "chat")
responses = Checks("LangChain", "langchain-openai", "responses")
texts = Checks("LangChain", "langchain-openai", "completions")


class Anything(BaseModel, extra="allow"):
    """Some object: json_mode binds no more than that."""


@tool
def look_up_tool(key: Literal["DZ", "LD"]) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return look_up(Key(key))


@wrap_model_call
def first_call_is_required(request, handler):
    """The model was not trained to call: it must at first, and must not once it has the result."""
    seen = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tool_choice="none" if seen else "required"))


def for_chat_and_responses(add):
    """The same checks over both interfaces."""
    for checks, model in (
        (chat, ChatOpenAI(**OPTIONS)),
        (responses, ChatOpenAI(use_responses_api=True, **OPTIONS)),
    ):
        add(checks, model)


@for_chat_and_responses
def simple(checks, model):
    @checks("chat", "invoke")
    def invoke():
        answer = model.invoke(QUESTION)
        assert answer.text and answer.usage_metadata["output_tokens"]

    @checks("chat", "batch")
    def batch():
        assert [answer.text for answer in model.batch([QUESTION, QUESTION])] == [
            model.invoke(QUESTION).text
        ] * 2

    @checks("stream")
    def stream():
        assert "".join(chunk.text for chunk in model.stream(QUESTION)) == model.invoke(QUESTION).text

    @checks("image first")
    def image_first():
        assert model.invoke(IMAGE_FIRST).text == ANSWER

    @checks("text first")
    def text_first():
        assert model.invoke(TEXT_FIRST).text == ANSWER

    @checks("text first", "image block")
    def image_block():
        block = {"type": "image", "base64": PAGE_BASE64, "mime_type": "image/png"}
        assert (
            model.invoke([HumanMessage(content=[{"type": "text", "text": QUESTION}, block])]).text == ANSWER
        )

    @checks("errors")
    def errors():
        body = {"model": MODEL, "messages": PLAIN, "temperature": 9}
        path = "/v1/chat/completions"
        if checks is responses:
            body, path = {"model": MODEL, "input": QUESTION, "temperature": 9}, "/v1/responses"
        with raises(openai.BadRequestError, refusal(path, body)):
            model.bind(temperature=9).invoke(QUESTION)


@for_chat_and_responses
def forms(checks, model):
    for method in ("json_schema", "function_calling"):

        @checks("structured output", method)
        def structured(method=method):
            assert isinstance(model.with_structured_output(Entry, method=method).invoke(QUESTION), Entry)

        @checks("structured output", f"{method}, strict, with raw")
        def structured_raw(method=method):
            bound = model.with_structured_output(Entry, method=method, strict=True, include_raw=True)
            answer = bound.invoke(QUESTION)
            assert isinstance(answer["parsed"], Entry) and answer["parsing_error"] is None

        @checks("structured output", f"{method}, stream")
        def structured_stream(method=method):
            pieces = list(
                model.with_structured_output(Entry.model_json_schema(), method=method).stream(QUESTION)
            )
            whole(pieces[-1])

    @checks("structured output", "json_mode")
    def json_mode():
        warm = ChatOpenAI(use_responses_api=checks is responses, **OPTIONS | {"temperature": 1.5})
        asking = warm.with_structured_output(Anything, method="json_mode")
        for _ in range(24):
            # What has no end is no object, and LangChain says so.
            with contextlib.suppress(openai.LengthFinishReasonError, ValueError):
                if isinstance(asking.invoke(QUESTION), Anything):
                    return
        raise AssertionError("no answer ended")

    @checks("structured output", "agent, ToolStrategy")
    def agent_tool_strategy():
        agent = create_agent(model, [], response_format=ToolStrategy(Entry))
        assert isinstance(agent.invoke({"messages": PLAIN})["structured_response"], Entry)

    @checks("structured output", "agent, ProviderStrategy")
    def agent_provider_strategy():
        agent = create_agent(model, [], response_format=ProviderStrategy(Entry))
        assert isinstance(agent.invoke({"messages": PLAIN})["structured_response"], Entry)


@for_chat_and_responses
def tools(checks, model):
    @checks("tools", "bind_tools")
    def bind_tools():
        first = model.bind_tools([look_up_tool], tool_choice="any").invoke(QUESTION)
        assert first.tool_calls and not first.invalid_tool_calls, first
        results = [look_up_tool.invoke(call) for call in first.tool_calls]
        second = model.bind_tools([look_up_tool]).invoke([HumanMessage(QUESTION), first, *results])
        assert second.text, second

    @checks("tools", "bind_tools, named, strict")
    def bind_named():
        bound = model.bind_tools([look_up_tool], tool_choice="look_up_tool", strict=True)
        assert bound.invoke(QUESTION).tool_calls[0]["args"]["key"] in ("DZ", "LD")

    @checks("tools", "stream")
    def bind_stream():
        whole = None
        for chunk in model.bind_tools([look_up_tool], tool_choice="any").stream(QUESTION):
            whole = chunk if whole is None else whole + chunk
        assert whole.tool_calls and not whole.invalid_tool_calls, whole

    @checks("tools", "agent")
    def agent():
        agent = create_agent(model, [look_up_tool], middleware=[first_call_is_required])
        messages = agent.invoke({"messages": PLAIN})["messages"]
        kinds = [message.type for message in messages]
        assert kinds[:2] == ["human", "ai"] and "tool" in kinds and kinds[-1] == "ai" and messages[-1].text, (
            kinds
        )

    @checks("tools", "agent, stream")
    def agent_stream():
        agent = create_agent(model, [look_up_tool], middleware=[first_call_is_required])
        seen = [
            type(token).__name__ for token, _ in agent.stream({"messages": PLAIN}, stream_mode="messages")
        ]
        assert "ToolMessage" in seen and seen[-1] == "AIMessageChunk", seen


@texts("chat", "invoke")
def text_invoke():
    assert OpenAI(**OPTIONS).invoke("Which number") is not None


@texts("chat", "batch")
def text_batch():
    assert len(OpenAI(**OPTIONS).batch(["Which number", "What is written"])) == 2


@texts("stream")
def text_stream():
    model = OpenAI(**OPTIONS | {"temperature": 0})
    assert "".join(model.stream("Which number")) == model.invoke("Which number")


if __name__ == "__main__":
    main()
