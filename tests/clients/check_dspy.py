"""DSPy: a raw model, signatures through its adapters, an image, and its native tools."""

import dspy
import litellm
from common import ANSWER, API, KEY, MODEL, PAGE_URL, PLAIN, QUESTION, RELAY, ROOM, Checks, Key, main, refusal
from common import look_up as ledger

# What it is not told that a model can, it does not ask for.
ABLE = {
    "litellm_provider": "openai",
    "mode": "chat",
    "supports_response_schema": True,
    "supports_function_calling": True,
}
litellm.register_model({f"openai/{MODEL}": ABLE})
OPTIONS = {"api_key": KEY, "engine": "litellm", "cache": False, "num_retries": 0, "max_tokens": ROOM}
checks = Checks("DSPy", "dspy", "chat")
responses = Checks("DSPy", "dspy", "responses")


def lm(api=API, **options):
    return dspy.LM(f"openai/{MODEL}", **OPTIONS | {"api_base": api} | options)


def text(model, *arguments, **options):
    answer = model(*arguments, **options)[0]
    return answer if isinstance(answer, str) else answer["text"]


class Asked(dspy.Signature):
    """Answer about the ledger."""

    question: str = dspy.InputField()
    key: Key = dspy.OutputField()
    certain: bool = dspy.OutputField()


class Called(dspy.Signature):
    """Call what is needed."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    outputs: dspy.ToolCalls = dspy.OutputField()


def look_up(key: Key) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return ledger(Key(key))


@checks("chat")
def plain():
    assert text(lm(), QUESTION)


@checks("text first")
def text_first():
    content = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": PAGE_URL}}]
    assert text(lm(), messages=[{"role": "user", "content": content}]) == ANSWER


@checks("structured output", "JSONAdapter")
def json_adapter():
    with dspy.context(lm=lm(), adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Asked)(question=QUESTION)
    assert isinstance(answer.key, Key) and isinstance(answer.certain, bool), answer


@checks("tools", "native function calling")
def native():
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=lm(RELAY + "/v1"), adapter=adapter):
        answer = dspy.Predict(Called)(question=QUESTION, tools=[dspy.Tool(look_up)])
    calls = answer.outputs.tool_calls
    assert calls and all(call.name == "look_up" and ledger(Key(call.args["key"])) for call in calls), answer


@checks("errors")
def errors():
    message = refusal("/v1/chat/completions", {"model": MODEL, "messages": PLAIN, "temperature": 9})
    try:
        lm(temperature=9)(QUESTION)
    except Exception as error:
        assert message in str(error) and "400" in str(error) + type(error).__name__ + "400", repr(error)
        return
    raise AssertionError("expected an error, found none")


@responses("chat")
def responses_plain():
    assert text(lm(model_type="responses"), QUESTION)


if __name__ == "__main__":
    main()
