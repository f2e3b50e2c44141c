"""Chat completions of text: what OpenAI's client sends and gets back."""

import asyncio

import openai
import pytest
from conftest import MODEL, image_part, messages


def content(chunks: list) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def passage(text: str, length: int) -> tuple[str, int]:
    """Some characters out of an answer that are not in it before, and where they are. The random model says bytes that
    are no characters too: those become U+FFFD, which no stop string can match."""
    for at in range(4, len(text) - length):
        found = text[at : at + length]
        if "\ufffd" not in found and text.index(found) == at and len(set(found)) == min(length, 2):
            return found, at
    raise AssertionError(f"no passage of {length} characters in {text!r}")


def test_an_answer_has_openais_form(ask):
    answer = ask(max_tokens=8)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "length")
    assert choice.message.content and choice.logprobs is None
    usage = answer.usage
    assert usage.completion_tokens == 8 and usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.visual_tokens == usage.prompt_tokens_details.image_tokens == 0


def test_a_stream_has_a_chunk_for_each_token(ask):
    # The random model says bytes that are half a character, too: a token without text is a token.
    for options in ({}, {"stop": "x" * 50}, {"temperature": 1, "seed": 3}):
        chunks = list(ask(stream=True, max_tokens=20, extra_body={"ignore_eos": True}, **options))
        tokens = [chunk for chunk in chunks if chunk.choices[0].delta.content is not None][1:]
        assert len(tokens) >= 20


def test_an_answer_is_as_long_as_it_is_asked_to_be(ask):
    for options in ({"ignore_eos": True}, {"min_tokens": 40}):
        for seed in range(3):
            answer = ask(temperature=2, seed=seed, max_tokens=40, extra_body=options)
            assert answer.usage.completion_tokens == 40 and answer.choices[0].finish_reason == "length"


def test_min_p_of_one_is_greedy(ask):
    greedy = ask().choices[0].message.content
    assert ask(temperature=2, seed=1, extra_body={"min_p": 1}).choices[0].message.content == greedy


def test_what_is_greedy_by_its_checkpoint_is_greedy_unasked(client):
    """The checkpoint's generation_config.json says `do_sample: false`."""
    def answer(**options: object) -> str:
        options = {"model": MODEL, "messages": messages("What is in the sky?"), "max_tokens": 16} | options
        return client.chat.completions.create(**options).choices[0].message.content

    assert {answer() for _ in range(3)} == {answer(temperature=0)}
    assert len({answer(temperature=1.5, seed=seed) for seed in range(3)}) > 1
    defaults = client.models.retrieve(MODEL).arrcoc["defaults"]
    assert defaults["temperature"] == 0 and defaults["top_p"] == 1


def test_an_assistant_that_said_nothing_is_replayed(client):
    def tokens(content: str | None) -> int:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content},
                 {"role": "user", "content": "b"}]
        return client.chat.completions.create(model=MODEL, messages=turns, max_tokens=1).usage.prompt_tokens

    assert tokens(None) == tokens("")


@pytest.mark.parametrize("options", [{}, {"temperature": 1, "seed": 2}, {"max_tokens": 1}])
def test_a_stream_says_what_the_whole_answer_says(ask, options):
    options = {"max_tokens": 48} | options
    (whole,) = ask(**options).choices
    chunks = list(ask(stream=True, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1
    assert content(chunks) == whole.message.content
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == [whole.finish_reason]
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_counts_its_tokens_when_asked_to(ask):
    whole = ask()
    *chunks, last = ask(stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and all(chunk.usage is None for chunk in chunks)
    assert last.usage == whole.usage


def test_developer_system_and_assistant_messages_are_part_of_the_prompt(client):
    question = {"role": "user", "content": "And now?"}
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
    ]
    lengths = [
        client.chat.completions.create(model=MODEL, messages=conversation, max_tokens=1).usage.prompt_tokens
        for conversation in ([question], [*before, question], [{"role": "developer", "content": "Be brief."}, question])
    ]
    assert lengths[0] < lengths[2] < lengths[1]


def test_max_completion_tokens_outranks_max_tokens(ask):
    assert ask(max_tokens=9, max_completion_tokens=3).usage.completion_tokens == 3


def test_greedy_answers_repeat(ask):
    assert len({ask(max_tokens=32).choices[0].message.content for _ in range(3)}) == 1


def test_a_seed_decides_a_sampled_answer(ask):
    def sampled(seed: int) -> str:
        return ask(temperature=1, top_p=0.95, seed=seed, max_tokens=24).choices[0].message.content

    answers = [sampled(seed) for seed in range(4)]
    assert [sampled(seed) for seed in range(4)] == answers
    assert len(set(answers)) == 4


def test_n_answers_differ_from_each_other_and_repeat_as_a_whole(ask):
    def sampled():
        answer = ask(temperature=1, n=3, seed=5, max_tokens=16)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices], answer.usage

    (texts, usage), again = sampled(), sampled()
    assert len(set(texts)) == 3 and usage.completion_tokens <= 48
    assert again == (texts, usage)


def test_streamed_choices_are_the_whole_ones(ask):
    options = {"temperature": 1, "n": 3, "seed": 5, "max_tokens": 16}
    whole = [choice.message.content for choice in ask(**options).choices]
    streamed = ["", "", ""]
    for chunk in ask(stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole


def test_logprobs_are_sorted_probabilities_of_the_tokens_that_came(ask):
    answer = ask(logprobs=True, top_logprobs=5, max_tokens=12)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens == 12
    for token in tokens:
        top = [alternative.logprob for alternative in token.top_logprobs]
        assert len(top) == 5 and top == sorted(top, reverse=True) and top[0] <= 0
        # Greedy: the chosen token is the likeliest.
        assert token.logprob == top[0] and token.bytes == token.top_logprobs[0].bytes
    spoken = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
    assert spoken.startswith(answer.choices[0].message.content.rstrip("�"))


def test_streamed_logprobs_are_the_whole_ones(ask):
    options = {"logprobs": True, "top_logprobs": 2, "max_tokens": 12}
    whole = ask(**options).choices[0].logprobs.content
    chunks = ask(stream=True, **options)
    streamed = [
        token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ]
    assert streamed == whole


def test_logprobs_without_alternatives(ask):
    tokens = ask(logprobs=True, max_tokens=4).choices[0].logprobs.content
    assert len(tokens) == 4 and all(token.top_logprobs == [] for token in tokens)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stop_string_ends_the_answer_before_itself(ask, length):
    """A token of the tiny model is a byte: a stop string of several characters lies across tokens."""
    whole = ask(max_tokens=48).choices[0].message.content
    stop, at = passage(whole, length)
    for stops in (stop, ["never said", stop, "x" * 50]):
        (choice,) = ask(max_tokens=48, stop=stops).choices
        assert (choice.message.content, choice.finish_reason) == (whole[:at], "stop")
        chunks = list(ask(max_tokens=48, stop=stops, stream=True))
        assert content(chunks) == whole[:at] and chunks[-1].choices[0].finish_reason == "stop"


def test_a_stop_string_that_only_begins_holds_nothing_back_for_good(ask):
    whole = ask(max_tokens=24).choices[0].message.content
    stop = whole[-3:] + " and then something else"
    assert ask(max_tokens=24, stop=stop).choices[0].message.content == whole
    assert content(list(ask(max_tokens=24, stop=stop, stream=True))) == whole


def test_penalties_change_what_is_said(ask):
    plain = ask(max_tokens=32).choices[0].message.content
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 5}}):
        assert ask(max_tokens=32, **penalty).choices[0].message.content != plain


def test_top_k_of_one_is_greedy(ask):
    greedy = ask().choices[0].message.content
    assert ask(temperature=2, seed=1, extra_body={"top_k": 1}).choices[0].message.content == greedy


def test_completions_go_on_from_a_text(client):
    options = {"model": MODEL, "prompt": "Once upon a", "temperature": 0, "max_tokens": 12}
    answer = client.completions.create(**options, logprobs=3)
    (choice,) = answer.choices
    assert answer.object == "text_completion" and choice.finish_reason == "length"
    assert len(choice.logprobs.tokens) == 12 and choice.logprobs.text_offset[0] == 0
    assert all(max(top.values()) == chosen for top, chosen in
               zip(choice.logprobs.top_logprobs, choice.logprobs.token_logprobs, strict=True))
    assert answer.usage.prompt_tokens == len("Once upon a")
    *chunks, last = client.completions.create(**options, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    assert last.choices == [] and last.usage == answer.usage


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == MODEL and model.object == "model" and model.owned_by == "arrcoc"
    assert client.models.retrieve(MODEL) == model
    assert model.arrcoc["token_budgets"] == [64, 100, 160, 256, 400]


def test_the_model_may_be_left_out(server):
    """Not in OpenAI's client, but in curl."""
    answer = server.http.post("/v1/chat/completions", json={"messages": messages("Hello"), "max_tokens": 1})
    assert answer.status_code == 200 and answer.json()["model"] == MODEL


def test_answers_given_side_by_side_are_those_given_alone(server, ask):
    questions = [(text,) for text in ("Hello", "Is it red or is it blue? " * 8, "a", "Who?", "Tell me more.")]
    questions += [("What is in the sky?", image_part("rocket.jpg")), ("What is this?", image_part("rgb.png"))]
    alone = [ask(*question, max_tokens=24).choices[0].message.content for question in questions]

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            calls = [
                client.chat.completions.create(model=MODEL, messages=messages(*question), temperature=0, max_tokens=24)
                for question in questions
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert len(set(alone)) == len(alone)
    assert asyncio.run(together()) == alone
