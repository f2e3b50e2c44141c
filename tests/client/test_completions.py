"""Text completions, whole: prompts in lists and as token ids, prompts that are repeated and scored, the best of several."""

import math

import openai
import pytest

MODEL = "arr-coc-ovis-tiny"


@pytest.fixture
def go_on(client: openai.OpenAI):
    def call(prompt: object = "Once upon", **options: object):
        return client.completions.create(**({"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0} | options))

    return call


@pytest.fixture
def ids(client):
    def call(text: str) -> list[int]:
        return client.post(str(client.base_url).removesuffix("v1/") + "tokenize", body={"model": MODEL, "prompt": text}, cast_to=object)["tokens"]

    return call


def test_tokens_and_texts_are_one_another(client, ids):
    root = str(client.base_url).removesuffix("v1/")
    for text in ("Once upon a time", "naïve → 日本語 😀", "a<|im_end|>b"):
        back = client.post(root + "detokenize", body={"model": MODEL, "tokens": ids(text)}, cast_to=object)["prompt"]
        assert back == text
    found = client.post(root + "tokenize", body={"model": MODEL, "prompt": "ab", "return_token_strs": True}, cast_to=object)
    assert found["count"] == len(found["tokens"]) and "".join(found["token_strs"]) == "ab" and found["max_model_len"] > 0
    messages = [{"role": "user", "content": "Once"}]
    chat = client.post(root + "tokenize", body={"model": MODEL, "messages": messages}, cast_to=object)
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    assert chat["count"] == answer.usage.prompt_tokens


def test_a_list_of_prompts_has_an_answer_for_each(go_on):
    prompts = ["Once upon", "a time", "there was", "nothing", "x", "y"]
    answers = go_on(prompts, n=2, temperature=1, seed=5)
    assert [choice.index for choice in answers.choices] == list(range(12))
    alone = [go_on(prompt, n=2, temperature=1, seed=5) for prompt in prompts]
    assert [choice.text for choice in answers.choices] == [choice.text for one in alone for choice in one.choices]
    assert answers.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    streamed = [""] * 12
    for chunk in go_on(prompts, n=2, temperature=1, seed=5, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in answers.choices]


def test_token_ids_are_a_prompt(go_on, ids):
    prompt = ids("Once upon")
    assert go_on(prompt).choices[0].text == go_on("Once upon").choices[0].text
    assert [choice.text for choice in go_on([prompt, ids("x")]).choices] == [go_on(text).choices[0].text for text in ("Once upon", "x")]


def test_a_prompt_is_repeated_and_scored(go_on, ids):
    """The log-probability of a token is the same, whether it stands in a prompt or is the answer, to which a bias leads."""
    prompt = ids("Once upon a time, naïve")
    scored = go_on(prompt, echo=True, logprobs=2, max_tokens=0).choices[0]
    assert scored.text == "Once upon a time, naïve" and scored.finish_reason == "length"
    found = scored.logprobs
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == len(prompt)
    for at in range(1, len(prompt)):
        answer = go_on(prompt[:at], max_tokens=1, logprobs=2, logit_bias={str(prompt[at]): 100}).choices[0].logprobs
        assert answer.tokens == [found.tokens[at]]
        assert math.isclose(answer.token_logprobs[0], found.token_logprobs[at], abs_tol=2e-4)
        for token, logprob in answer.top_logprobs[0].items():
            assert math.isclose(found.top_logprobs[at][token], logprob, abs_tol=2e-4)


def test_an_echo_begins_with_the_prompt(go_on):
    plain = go_on().choices[0].text
    assert go_on(echo=True).choices[0].text == "Once upon" + plain
    assert go_on(echo=True, max_tokens=0).choices[0].text == "Once upon"
    both = go_on(echo=True, logprobs=0).choices[0]
    assert len(both.logprobs.tokens) == len(both.logprobs.text_offset) and "".join(both.logprobs.tokens[:3])
    assert "".join(choice.text for chunk in go_on(echo=True, stream=True) for choice in chunk.choices) == "Once upon" + plain
    nothing = go_on(max_tokens=0)
    assert nothing.choices[0].text == "" and nothing.usage.completion_tokens == 0


def test_the_best_of_several_is_the_likeliest(go_on):
    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    options = {"temperature": 1, "seed": 3, "logprobs": 0}
    all_of_them = go_on(n=4, **options).choices
    best = go_on(n=1, best_of=4, **options)
    assert best.choices[0].text == max(all_of_them, key=mean).text and len(best.choices) == 1
    assert best.usage.completion_tokens >= sum(len(choice.logprobs.tokens) for choice in all_of_them) - 4


def test_biases_decide(go_on, client, ids):
    (one,) = ids("Q")
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=3, temperature=0, logit_bias={str(one): 100})
    assert answer.choices[0].message.content == "QQQ"
    first = go_on("Once", max_tokens=1, logprobs=0).choices[0]
    banned = ids(first.text)
    if len(banned) == 1:
        assert go_on("Once", max_tokens=1, logit_bias={str(banned[0]): -100}).choices[0].text != first.text


@pytest.mark.parametrize(("options", "param"), [
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt[0]"),
    ({"prompt": [10**7]}, "prompt"),
    ({"prompt": ["a"] * 257}, "prompt"),
    ({"suffix": "x"}, "suffix"),
    ({"n": 2, "best_of": 1}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
])
def test_what_is_wrong_is_refused_by_name(go_on, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        go_on(**options)
    assert refused.value.param == param
