"""A model from outside, asked with some of its visual tokens instead of all. Its weights are random: what it says means
nothing, but which tokens it gets does."""

import concurrent.futures
import pathlib

import openai
import pytest
from conftest import image_part

PHOTOGRAPH = "astronaut.jpg"
SELECTORS = ["balanced", "mmtok", "scope", "cdpruner", "divprune", "top-k", "uniform"]


@pytest.fixture(scope="module")
def bundle(stock_bundle) -> pathlib.Path:
    return stock_bundle


@pytest.fixture(scope="module")
def model(bundle) -> str:
    return bundle.parent.name


def ask(client: openai.OpenAI, model: str, question: str = "What is on the badge?", image=PHOTOGRAPH, **arrcoc: object):
    """The answer, its tokens with their probabilities, and the receipt."""
    content = [image_part(image), {"type": "text", "text": question}]
    options = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0}
    body = {"arrcoc": arrcoc | {"explain": True}} if arrcoc else {}
    answer = client.chat.completions.create(**options, logprobs=True, extra_body=body)
    told = [(token.token, token.logprob) for token in answer.choices[0].logprobs.content]
    return answer, told, answer.arrcoc["images"][0] if arrcoc else None


def test_all_tokens_are_the_model_as_it_is(start, bundle, model):
    with start(bundle=bundle).wait_ready().client() as client:
        _, plain, _ = ask(client, model)
        for budget in ("full", 100_000, 0.999999):
            answer, told, receipt = ask(client, model, budget=budget)
            assert told == plain, budget
            assert receipt["tokens"] == answer.usage.prompt_tokens_details.visual_tokens == len(receipt["places"])
            assert "dropped" not in receipt
        [details] = [each.arrcoc for each in client.models.list()]
        assert (details["selectors"], details["depths"]) == (SELECTORS, ["all", "relevant"])
        assert (details["token_budgets"], details["defaults"]["budget"]) == ([], "full")


def test_receipts_say_which_and_why(start, bundle, model):
    with start(bundle=bundle).wait_ready().client() as client:
        of = len(ask(client, model, budget="full")[2]["places"])
        for selector in SELECTORS:
            answer, _, receipt = ask(client, model, budget=20, selector=selector)
            places, dropped, selection = receipt["places"], receipt["dropped"], receipt["selection"]
            assert receipt["tokens"] == answer.usage.prompt_tokens_details.visual_tokens == len(places) == 20
            assert (selection["selector"], selection["of"], selection["reason"]) == (selector, of, "asked")
            assert len(places) + len(dropped) == of
            assert sorted(place["rank"] for place in places) == list(range(20))
            assert [place["cell"] for place in places] == sorted(place["cell"] for place in places)
            assert sum(selection["tension_weights"].values()) == pytest.approx(1)
            width, height = receipt["image_size"]
            for place in places + dropped:
                left, top, right, bottom = place["rect"]
                assert 0 <= left < right <= width and 0 <= top < bottom <= height
                assert 0 <= place["relevance"] <= 1
            assert all(0 <= score <= 1 for place in places for score in place["knowing"])
        _, _, receipt = ask(client, model, budget=20, depth="relevant")
        layers = [place["layers"] for place in receipt["places"]]
        assert (layers.count(1), layers.count(max(layers)), max(layers) > 1) == (10, 10, True)
        reasons = {
            "What is on the badge?": "concentration",
            "How many stars are there?": "counting",
            "Transcribe the sign.": "reading",
            "Give the bounding box of the helmet.": "grounding",
        }
        for question, reason in reasons.items():
            selection = ask(client, model, question, budget="auto")[2]["selection"]
            assert selection["reason"] == reason and ("concentration" in selection) == (reason == "concentration")


def test_an_image_is_encoded_once_and_chosen_from_for_every_question(start, bundle, model):
    server = start(bundle=bundle).wait_ready()
    with server.client() as client:
        def encoded() -> float:
            return server.metric("arrcoc_stage_seconds_count", stage="vision_encoder")

        _, first, receipt = ask(client, model, budget=16)
        once, places = encoded(), receipt["places"]
        _, again, same = ask(client, model, budget=16)
        assert (again, same["places"]) == (first, places)
        others = [
            ask(client, model, "Where is the flag?", budget=16),
            ask(client, model, budget=17),
            ask(client, model, budget=16, selector="divprune"),
            ask(client, model, budget=16, tensions={"diversify": 1}),
            ask(client, model, budget=16, depth="relevant"),
        ]
        assert encoded() == once, "an image that was seen was encoded again"
        assert all(receipt["places"] != places for _, _, receipt in others)
        # Seen otherwise, it is another picture.
        other = ask(client, model, budget=16, skip_blank=True)
        assert encoded() == once + 1 and other is not None


def test_neighbours_get_what_they_would_get_alone(start, bundle, model):
    wanted = [dict(budget=budget, selector=selector) for budget in (9, 0.3) for selector in SELECTORS] + [{}, {"budget": "auto"}]
    with start(bundle=bundle, engine_slots=4).wait_ready().client() as client:
        alone = [ask(client, model, **arrcoc)[1] for arrcoc in wanted]
    with start(bundle=bundle, engine_slots=4).wait_ready().client() as client:
        with concurrent.futures.ThreadPoolExecutor(len(wanted)) as threads:
            together = list(threads.map(lambda arrcoc: ask(client, model, **arrcoc)[1], wanted))
    assert together == alone


def test_an_operator_may_set_a_budget_for_all(start, bundle, model):
    with start(bundle=bundle, engine_budget="12").wait_ready().client() as client:
        plain, _, _ = ask(client, model)
        assert plain.usage.prompt_tokens_details.visual_tokens == 12
        assert ask(client, model, budget="full")[2]["tokens"] > 12
        assert client.models.list().data[0].arrcoc["defaults"]["budget"] == 12


@pytest.mark.parametrize(("arrcoc", "param"), [
    ({"selector": "best"}, "arrcoc.selector"),
    ({"budget": 1.5}, "arrcoc.budget"),
    ({"depth": 3}, "arrcoc.depth"),
    ({"tensions": {"explore": "much"}}, "arrcoc.tensions.explore"),
])
def test_what_means_nothing_is_refused_by_name(start, bundle, model, arrcoc, param):
    with start(bundle=bundle).wait_ready().client() as client, pytest.raises(openai.BadRequestError) as refused:
        ask(client, model, **arrcoc)
    assert refused.value.param == param


def test_an_allocator_of_its_own_lets_nobody_else_choose(start):
    with start().wait_ready().client() as client:
        for arrcoc, param in [
            ({"selector": "top-k"}, "arrcoc.selector"),
            ({"depth": "relevant"}, "arrcoc.depth"),
            ({"skip_blank": True}, "arrcoc.skip_blank"),
            ({"budget": 0.5}, "arrcoc.budget"),
        ]:
            with pytest.raises(openai.BadRequestError) as refused:
                ask(client, client.models.list().data[0].id, **arrcoc)
            assert refused.value.param == param
