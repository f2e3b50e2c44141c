"""A model of another family that thinks before it answers, and whose pictures may be seen in other sizes. Its weights are
random: what it says means nothing, but where it says it does."""

import json
import pathlib
import re
import subprocess

import openai
import pytest
from conftest import SERVE, image_part

EXPORT = pathlib.Path(SERVE).with_name("arrcoc-export")
# The prompt closes the thoughts, or begins them.
THOUGHTS = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
EARLIER = "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"


def run(*command: object) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> pathlib.Path:
    home = tmp_path_factory.mktemp("thinking")
    checkpoint = home / "thinker"
    run(EXPORT, "init", "--preset", "qwen3.5-tiny", "--out", checkpoint)
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    free = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    for place, content in enumerate(("<think>", "</think>")):
        # As Qwen's tokenizers have them: added, and not special.
        token = tokenizer["added_tokens"][0] | {"id": free + place, "content": content, "special": False}
        tokenizer["added_tokens"].append(token)
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = checkpoint / "chat_template.jinja"
    begin = "<|im_start|>{{ message['role'] }}\n"
    source = template.read_text().replace(begin, begin + EARLIER)
    source = source.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n" + THOUGHTS)
    assert source.count("<think>") == 3
    template.write_text(source)
    run(EXPORT, "build", checkpoint, "--out", home / "engines")
    return home / "engines/thinker/fp32-cpu"


@pytest.fixture
def client(start, bundle):
    with start(bundle=bundle).wait_ready().client() as client:
        yield client


def ask(client: openai.OpenAI, *images: dict, **options: object):
    content = [*images, {"type": "text", "text": "What is it?"}]
    given = {"model": "thinker", "messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**(given | options))


def test_thoughts_are_no_answer(client):
    for thinks, body in [(True, {}), (True, {"chat_template_kwargs": {"enable_thinking": True}}),
                         (False, {"enable_thinking": False}), (False, {"chat_template_kwargs": {"enable_thinking": False}})]:
        answer = ask(client, extra_body=body)
        message, details = answer.choices[0].message, answer.usage.completion_tokens_details
        stream = list(ask(client, extra_body=body, stream=True))
        deltas = [chunk.choices[0].delta for chunk in stream]
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        said = "".join(delta.content or "" for delta in deltas)
        if thinks:
            assert (message.reasoning_content, message.content) == (thought, said) == (thought, "")
            assert details.reasoning_tokens == answer.usage.completion_tokens
            without = ask(client, extra_body=body | {"include_reasoning": False}).choices[0].message
            assert without.content == "" and not hasattr(without, "reasoning_content")
        else:
            assert not hasattr(message, "reasoning_content") and (message.content, thought) == (said, "")
            assert details.reasoning_tokens == 0
    assert ask(client, reasoning_effort="none").usage.completion_tokens_details.reasoning_tokens == 0


def test_a_form_binds_the_answer_and_not_the_thoughts(client):
    form = {"guided_regex": "[a-z]{4}"}
    answer = ask(client, extra_body=form | {"enable_thinking": False}).choices[0]
    assert re.fullmatch("[a-z]{4}", answer.message.content) and answer.finish_reason == "stop"
    free, bound = (ask(client, extra_body=body).choices[0].message for body in ({}, form))
    assert free.reasoning_content == bound.reasoning_content != "" and bound.content == ""


def test_earlier_thoughts_reach_the_template(client):
    def prompt(**thoughts: str) -> int:
        turns = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so", **thoughts}]
        return ask(client, messages=[*turns, {"role": "user", "content": "ok"}]).usage.prompt_tokens

    plain = prompt()
    assert prompt(reasoning_content="hm") == prompt(reasoning="hm") > plain
    # Typed markers are text: more tokens than the two that a template's own would be.
    assert prompt(reasoning_content="</think>") > prompt(reasoning_content="hm")


def test_pictures_are_seen_in_the_size_that_is_asked_for(client):
    image = image_part("rocket.jpg")
    coarse = {"type": "image_url", "image_url": image["image_url"] | {"detail": "low"}}

    def tokens(picture: dict, **arguments: object) -> int:
        answer = ask(client, picture, max_tokens=1, extra_body={"mm_processor_kwargs": arguments})
        return answer.usage.prompt_tokens_details.image_tokens

    own, smaller = tokens(image), tokens(image, max_pixels=64 * 64)
    # 16 pixels a token: 256 of its sides are the most that the checkpoint allows.
    assert smaller <= 16 < own <= 256
    assert tokens(image, size={"shortest_edge": 1, "longest_edge": 64 * 64}) == smaller
    # The checkpoint's own limit is below a coarse look's.
    assert tokens(coarse) == own
    for arguments in ({"max_pixels": 10**9}, {"do_image_splitting": True}):
        with pytest.raises(openai.BadRequestError) as refused:
            tokens(image, **arguments)
        assert refused.value.param == "mm_processor_kwargs"
