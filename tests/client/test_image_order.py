"""The trained model, which was trained on messages whose image comes first: it gets them so, in whatever order they are sent."""

import pathlib
import subprocess

import pytest
from conftest import ROOT, SERVE, image_part

CHECKPOINT = ROOT / "reference/checkpoints/arr-coc-ledger"
PAGE = ROOT / "tests/fixtures/ledger/page.png"
EXPORT = pathlib.Path(SERVE).with_name("arrcoc-export")
# Question and answer; the page's own text has them.
QUESTIONS = {"Which number belongs to DZ?": "284", "What is written in the brown diamond?": "07"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("ledger")
    subprocess.run([EXPORT, "build", CHECKPOINT, "--out", out], check=True, capture_output=True, timeout=300)
    return out / "arr-coc-ledger/fp32-cpu"


def test_both_orders_of_parts_are_answered_right(start, bundle):
    server = start(bundle=bundle).wait_ready()
    image = image_part(PAGE.read_bytes(), "png")
    with server.client() as client:
        for question, expected in QUESTIONS.items():
            text = {"type": "text", "text": question}
            for content in ([image, text], [text, image]):
                # Without a temperature: the checkpoint says `do_sample: false`.
                answer = client.chat.completions.create(
                    model="arr-coc-ledger", messages=[{"role": "user", "content": content}], max_tokens=8,
                    extra_body={"arrcoc": {"budget": 64}},
                )
                assert answer.choices[0].message.content == expected, (question, content[0]["type"])
                details = answer.usage.prompt_tokens_details
                assert details.image_tokens == details.visual_tokens == 64
