"""The page at `/`, as a person with a browser has it. Skipped where there is no Chromium."""

import browser as browsers
import pytest
from conftest import BUNDLE, IMAGES, ROOT

# The one checkpoint whose answers mean something.
LEDGER = BUNDLE.parents[1] / "arr-coc-ledger" / "fp32-cpu"
PICTURE = ROOT / "tests/fixtures/ledger/page.png"
QUESTION, ANSWER = "Which number belongs to DZ?", "284"
# A phone, a tablet, a desk.
WIDTHS = (360, 800, 1280)
KEY = "a-key-for-the-page"

# A white picture as large as cameras make them, into the page the way that people paste one.
PASTE_LARGE = """new Promise((done) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [4000, 2400];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, 4000, 2400);
  canvas.toBlob((blob) => {
    const data = new DataTransfer();
    data.items.add(new File([blob], "large.png", { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    done();
  }, "image/png");
})"""

# How wide the widest outline is that crosses the middle of the picture, in pixels of the screen.
OUTLINE = """(() => {
  const canvas = document.getElementById("picture"), { width } = canvas;
  const row = canvas.getContext("2d").getImageData(0, Math.round(canvas.height / 2) + 9, width, 1).data;
  let longest = 0, run = 0;
  for (let x = 0; x < width; x++) {
    const near = [79, 176, 255].every((value, channel) => Math.abs(row[4 * x + channel] - value) < 24);
    run = near ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  return longest * canvas.clientWidth / width;
})()"""


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = browsers.find()
    if program is None:
        pytest.skip("no browser: install Chromium (Debian's package `chromium`), or name one in ARRCOC_TEST_BROWSER")
    browser = browsers.Browser(program, tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def page(browser, start):
    """Opens the page of a server with these flags."""

    def open_page(**flags):
        server = start(bundle=LEDGER, **flags).wait_ready()
        page = browser.open(server.url + "/")
        page.until("document.getElementById('budget').length > 1", "the budgets are listed")
        return server, page

    return open_page


def ask(page, question: str = QUESTION) -> None:
    page.run(f"document.getElementById('question').value = {question!r}")
    page.run("document.getElementById('ask').click()")


def answered(page) -> str:
    page.until("document.getElementById('ask').innerText === 'Ask'", "the answer is complete")
    return page.text("#answer")


def overflow(page) -> int:
    """Pixels that stick out to the right."""
    return page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_question_is_answered_and_shown(page):
    _, page = page()
    page.choose("#image", PICTURE)
    ask(page)
    assert answered(page) == ANSWER
    assert page.text("#status").startswith("Done in")
    assert "visual tokens" in page.text("#note") and "fits the question" in page.text("#note")
    # What the colours mean is said, and the canvas is a picture to a screen reader too.
    assert "orange" in page.text("#legend") and "outlined" in page.text("#legend")
    canvas = "document.getElementById('picture')"
    assert page.run(f"{canvas}.getAttribute('role')") == "img"
    assert "looked closely" in page.run(f"{canvas}.getAttribute('aria-label')")
    # The original again: no tint, no legend.
    heat = page.run(f"{canvas}.toDataURL()")
    page.run("document.getElementById('heat').click()")
    assert page.run(f"{canvas}.toDataURL()") != heat and page.text("#legend") == ""
    assert page.run(f"{canvas}.getAttribute('aria-label')") == "The picture"
    assert page.errors == []


def test_a_model_from_outside_says_how_many_of_its_tokens_it_saw(browser, start, stock_bundle):
    server = start(bundle=stock_bundle).wait_ready()
    page = browser.open(server.url + "/")
    page.until("document.getElementById('budget').length > 1", "the budgets are listed")
    options = "[...document.getElementById('budget').options].map((option) => option.value)"
    assert page.run(options) == ["full", "auto", "400", "256", "100", "64"]
    assert page.run("document.getElementById('budget').value") == "full"
    page.choose("#image", IMAGES / "astronaut.jpg")
    ask(page, "What is on the badge?")
    answered(page)
    assert "all that it has" in page.text("#note")
    whole = page.run("document.getElementById('picture').toDataURL()")
    page.run("const budget = document.getElementById('budget'); budget.value = '64'; budget.dispatchEvent(new Event('change'))")
    ask(page, "What is on the badge?")
    answered(page)
    assert "64 of its" in page.text("#note") and "as asked" in page.text("#note"), page.text("#note")
    assert page.run("document.getElementById('picture').toDataURL()") != whole
    assert page.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_any_width(page, scheme):
    _, page = page()
    for width in WIDTHS:
        page.resize(width, scheme=scheme)
        assert overflow(page) == 0, width
    page.choose("#image", PICTURE)
    ask(page)
    assert answered(page) == ANSWER
    for width in WIDTHS:
        page.resize(width, scheme=scheme)
        assert overflow(page) == 0, width
    # A long word has to break, as an answer's does.
    page.run("document.getElementById('answer').textContent = 'x'.repeat(500)")
    page.resize(360, scheme=scheme)
    assert overflow(page) == 0


def test_outlines_are_seen_on_a_large_picture(page):
    _, page = page()
    page.resize(1280)
    page.run(PASTE_LARGE)
    page.until("document.getElementById('image').files.length === 1", "the picture is pasted")
    page.run("document.getElementById('budget').value = '64'")
    ask(page)
    answered(page)
    page.until("!document.getElementById('legend').hidden && !document.getElementById('shown').hidden", "the places are shown")
    assert page.run(OUTLINE) >= 1
    page.resize(360)
    page.until(f"{OUTLINE} >= 1", "the outlines are drawn again for the small screen")
    assert page.errors == []


def test_another_picture_clears_what_was_said_of_the_first(page):
    _, page = page()
    page.choose("#image", PICTURE)
    ask(page)
    assert answered(page) == ANSWER
    first = page.run("document.getElementById('picture').toDataURL()")
    page.choose("#image", IMAGES / "rocket.jpg")
    page.until("!document.getElementById('figure').hidden", "the new picture is shown")
    assert page.text("#answer") == "" and page.text("#note") == "" and page.text("#status") == ""
    assert page.text("#legend") == "" and page.run("document.getElementById('picture').toDataURL()") != first


def test_a_server_that_is_gone_is_called_so(page):
    server, page = page()
    server.end()
    ask(page)
    said = answered(page)
    assert said.startswith("The server does not answer.") and "fetch" not in said
    assert page.run("document.getElementById('answer').className") == "error"


def test_a_key_is_asked_for_and_the_rest_of_the_page_stays(page):
    _, page = page(auth_api_keys=KEY)
    # The budgets are no secret.
    assert page.run("[...document.getElementById('budget').options].map((option) => option.value)")[0] == "auto"
    page.choose("#image", PICTURE)
    for key, expected in [("", "wants an API key"), ("another-key", "does not know this API key"), (KEY, ANSWER)]:
        page.run(f"document.getElementById('key').value = {key!r}")
        ask(page)
        assert expected in answered(page)
        assert page.run("document.getElementById('budget').length") > 1


def test_the_page_waits_for_a_server_that_loads(browser, start):
    server = start(bundle=LEDGER)
    # Whether it is ready by now or not, the page knows its model in the end.
    page = browser.open(server.url + "/")
    page.until("document.getElementById('model').innerText.startsWith('arr-coc-ledger')", "the model is named")
    assert page.run("document.getElementById('budget').length") > 1 and page.errors == []
