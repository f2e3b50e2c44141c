"""Questions about images: data URIs, several of them, budgets, explanations, and the two caches."""

import pytest
from conftest import MODEL, image_part, messages

BUDGETS = [64, 100, 160, 256, 400]
# width and height of rocket.jpg
ROCKET = [640, 427]


def explained(ask, *images, text="What is in the sky?", budget="auto", **options):
    extension = {"arrcoc": {"explain": True, "budget": budget}}
    return ask(text, *(images or [image_part("rocket.jpg")]), extra_body=extension, **options)


def test_an_image_costs_the_tokens_of_its_tier(ask):
    without = ask().usage
    answer = ask("What is in the sky?", image_part("rocket.jpg"))
    tokens = answer.usage.prompt_tokens_details.visual_tokens
    assert tokens in BUDGETS and without.prompt_tokens_details.visual_tokens == 0
    # The image is set between two markers, and its placeholder is replaced by its tokens.
    assert answer.usage.prompt_tokens == without.prompt_tokens + tokens + 2


def test_the_image_changes_the_answer(ask):
    answers = {ask("Describe it.", image_part(name), max_tokens=24).choices[0].message.content
               for name in ("rocket.jpg", "rgb.png", "cmyk.jpg")}
    assert len(answers) == 3


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_is_kept(ask, budget):
    answer = explained(ask, budget=budget)
    (image,) = answer.arrcoc["images"]
    assert answer.usage.prompt_tokens_details.visual_tokens == image["tokens"] == len(image["places"]) == budget
    assert image["tier"] == BUDGETS.index(budget)


def test_an_explanation_says_where_the_tokens_went(ask):
    (image,) = explained(ask).arrcoc["images"]
    assert image["image_size"] == ROCKET and len(image["tier_logits"]) == len(BUDGETS)
    assert sum(image["tension_weights"].values()) == pytest.approx(1, abs=1e-5)
    assert [place["gist"] for place in image["places"]].count(True) == 16
    for place in image["places"]:
        left, top, right, bottom = place["rect"]
        assert 0 <= left <= right <= ROCKET[0] and 0 <= top <= bottom <= ROCKET[1]
        assert 0 <= place["relevance"] <= 1 and len(place["knowing"]) == 3
    fine = [place for place in image["places"] if not place["gist"]]
    assert [place["relevance"] for place in fine] == sorted((place["relevance"] for place in fine), reverse=True)
    assert len({tuple(place["rect"]) for place in fine}) == len(fine)


def test_a_stream_explains_itself_once(ask):
    chunks = list(explained(ask, stream=True))
    assert [hasattr(chunk, "arrcoc") for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert chunks[0].arrcoc == explained(ask).arrcoc


def test_nothing_is_explained_unasked(ask):
    assert not hasattr(ask("What?", image_part("rocket.jpg")), "arrcoc")


def test_several_images_have_their_own_tokens_in_order(ask):
    images = [image_part("rocket.jpg"), image_part("rgb.png"), image_part("cmyk.jpg")]
    answer = explained(ask, *images, budget=64)
    receipts = answer.arrcoc["images"]
    assert len(receipts) == 3 and receipts[0]["image_size"] == ROCKET
    assert len({tuple(receipt["image_size"]) for receipt in receipts}) >= 2
    assert answer.usage.prompt_tokens_details.visual_tokens == 3 * 64


def test_the_order_of_images_matters(ask):
    first, second = image_part("rocket.jpg"), image_part("rgb.png")
    assert (ask("Compare.", first, second, max_tokens=32).choices[0].message.content
            != ask("Compare.", second, first, max_tokens=32).choices[0].message.content)


def test_images_of_earlier_messages_stay(client):
    conversation = [
        *messages("What is this?", image_part("rocket.jpg")),
        {"role": "assistant", "content": "A rocket."},
        *messages("And this?", image_part("rgb.png")),
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=conversation, max_tokens=4, extra_body={"arrcoc": {"budget": 64}}
    )
    assert answer.usage.prompt_tokens_details.visual_tokens == 128


@pytest.mark.parametrize("name", [
    "rgb.png", "palette.png", "bilevel.png", "grey.png", "grey16.png", "grey_alpha.png", "rgb16.png", "rgb.bmp",
    "baseline.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "orientation_6.jpg",
    "animated.gif", "lossy.webp", "lossless.webp", "animated.webp",
])
def test_every_kind_of_file_is_read(ask, name):
    assert ask("What?", image_part(name), max_tokens=1).usage.prompt_tokens_details.visual_tokens in BUDGETS


def test_a_stream_about_an_image_is_the_whole_answer(ask):
    image = image_part("rocket.jpg")
    whole = ask("Where?", image, max_tokens=32).choices[0].message.content
    chunks = ask("Where?", image, max_tokens=32, stream=True)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole


def answer_and_hits(server, text: str) -> tuple[dict, tuple[float, float]]:
    """An answer with all that it is made of, and how often either cache has helped up to then."""
    with server.client() as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=messages(text, image_part("rocket.jpg")), temperature=0, max_tokens=32,
            logprobs=True, top_logprobs=3, extra_body={"arrcoc": {"explain": True, "budget": 100}},
        )
    hits = [server.metric("arrcoc_cache_hits_total", cache=cache) for cache in ("image_features", "visual_tokens")]
    return {"choices": answer.choices, "usage": answer.usage, "arrcoc": answer.arrcoc}, tuple(hits)


def test_cached_features_and_tokens_are_those_made_fresh(start):
    sky, ground = "What is in the sky?", "What is on the ground?"
    plain = start(engine_feature_cache="0", engine_token_cache="0").wait_ready()
    (fresh_sky, _), (fresh_ground, _), again = (answer_and_hits(plain, text) for text in (sky, ground, sky))
    assert again == (fresh_sky, (0, 0))

    caching = start().wait_ready()
    assert answer_and_hits(caching, sky) == (fresh_sky, (0, 0))
    answer, hits = answer_and_hits(caching, sky)
    assert answer == fresh_sky and hits[1] == 1
    # Another question about the same image: its features are known, its tokens are not.
    answer, (features, tokens) = answer_and_hits(caching, ground)
    assert answer == fresh_ground and features >= 1 and tokens == 1
