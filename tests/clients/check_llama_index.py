"""LlamaIndex's OpenAILike: chat, structured LLM, tools and its agent."""

import asyncio

import openai
from common import (
    ANSWER,
    API,
    KEY,
    MODEL,
    PAGE,
    PLAIN,
    QUESTION,
    RELAY,
    ROOM,
    Checks,
    Entry,
    Key,
    main,
    raises,
    refusal,
)
from common import look_up as ledger
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

OPTIONS = {
    "model": MODEL,
    "api_base": API,
    "api_key": KEY,
    "is_chat_model": True,
    "max_retries": 0,
    "max_tokens": ROOM,
    "temperature": 0,
}
llm = OpenAILike(**OPTIONS, is_function_calling_model=True)
checks = Checks("LlamaIndex OpenAILike", "llama-index-llms-openai-like", "chat")
texts = Checks("LlamaIndex OpenAILike", "llama-index-llms-openai-like", "completions")
IMAGE, TEXT = ImageBlock(image=PAGE.read_bytes(), image_mimetype="image/png"), TextBlock(text=QUESTION)


def look_up(key: Key) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return ledger(key)


tool = FunctionTool.from_defaults(look_up)


def content(*blocks):
    return llm.chat([ChatMessage(role="user", blocks=list(blocks))]).message.content


@checks("chat")
def plain():
    assert content(TEXT)


@checks("chat", "complete")
def complete():
    assert llm.complete(QUESTION).text == content(TEXT)


@checks("stream")
def stream():
    pieces = llm.stream_chat([ChatMessage(role="user", content=QUESTION)])
    assert "".join(piece.delta or "" for piece in pieces) == content(TEXT)


@checks("image first")
def image_first():
    assert content(IMAGE, TEXT) == ANSWER


@checks("text first")
def text_first():
    assert content(TEXT, IMAGE) == ANSWER


@checks("structured output", "as_structured_llm, tools")
def structured_tools():
    answer = llm.as_structured_llm(Entry).chat([ChatMessage(role="user", content=QUESTION)])
    assert isinstance(answer.raw, Entry)


@checks("structured output", "as_structured_llm, json_schema")
def structured_schema():
    schema_llm = OpenAILike(**OPTIONS, should_use_structured_outputs=True)
    assert isinstance(schema_llm.as_structured_llm(Entry).complete(QUESTION).raw, Entry)


@checks("structured output", "structured_predict")
def structured_predict():
    assert isinstance(llm.structured_predict(Entry, PromptTemplate("{question}"), question=QUESTION), Entry)


@checks("structured output", "stream")
def structured_stream():
    # Unlike the whole answer, a streamed one is not asked to be a call.
    relayed = OpenAILike(**OPTIONS | {"api_base": RELAY + "/v1"}, is_function_calling_model=True)
    *_, last = relayed.as_structured_llm(Entry).stream_chat([ChatMessage(role="user", content=QUESTION)])
    Entry.model_validate(last.raw.model_dump())


@checks("tools", "predict_and_call")
def predict_and_call():
    answer = llm.predict_and_call([tool], QUESTION, tool_required=True)
    assert answer.response in ("284", "122"), answer


@checks("tools", "two steps")
def two_steps():
    asked = ChatMessage(role="user", content=QUESTION)
    first = llm.chat_with_tools([tool], chat_history=[asked], tool_required=True)
    calls = llm.get_tool_calls_from_response(first)
    results = [
        ChatMessage(
            role="tool",
            content=str(tool(**call.tool_kwargs)),
            additional_kwargs={"tool_call_id": call.tool_id},
        )
        for call in calls
    ]
    assert llm.chat([asked, first.message, *results]).message.content


@checks("tools", "agent")
def agent():
    async def run():
        agent = FunctionAgent(tools=[tool], llm=llm, initial_tool_choice="look_up")
        return await agent.run(QUESTION)

    answer = asyncio.run(run())
    assert answer.tool_calls and answer.response.content, answer


@checks("errors")
def errors():
    message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
    with raises(openai.BadRequestError, message):
        llm.chat([ChatMessage(role="user", content=QUESTION)], temperature=9)


text_llm = OpenAILike(**OPTIONS | {"is_chat_model": False, "max_tokens": 8})


@texts("chat")
def text_complete():
    assert text_llm.complete("Which number").raw.usage.completion_tokens


@texts("stream")
def text_stream():
    pieces = text_llm.stream_complete("Which number")
    assert "".join(piece.delta for piece in pieces) == text_llm.complete("Which number").text


if __name__ == "__main__":
    main()
