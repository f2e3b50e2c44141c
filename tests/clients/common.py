"""What the checks of every client share: where the server is, the page and its question, a form, a tool,
and the list of checks, each of which is written out as one line of JSON.
"""

import base64
import contextlib
import enum
import json
import os
import pathlib
import signal
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

URL = os.environ["ARRCOC_URL"]
MODEL = os.environ["ARRCOC_MODEL"]
# As OpenAI's and Anthropic's clients want them; the server has no keys.
API = URL + "/v1"
# Requires calls for clients that cannot.
RELAY = os.environ["ARRCOC_RELAY"]
KEY = "none"
PAGE = pathlib.Path(__file__).parents[1] / "fixtures/ledger/page.png"
PAGE_BASE64 = base64.b64encode(PAGE.read_bytes()).decode()
PAGE_URL = "data:image/png;base64," + PAGE_BASE64
# The page says so; text alone cannot.
QUESTION, ANSWER = "Which number belongs to DZ?", "284"
SECONDS_PER_CHECK = 60
# A form and its calls are short, but white space between the parts is the model's to choose.
ROOM = 400
LONGEST_REASON = 600

TEXT_PART = {"type": "text", "text": QUESTION}
IMAGE_PART = {"type": "image_url", "image_url": {"url": PAGE_URL}}
IMAGE_FIRST = [{"role": "user", "content": [IMAGE_PART, TEXT_PART]}]
TEXT_FIRST = [{"role": "user", "content": [TEXT_PART, IMAGE_PART]}]
PLAIN = [{"role": "user", "content": QUESTION}]


class Key(enum.Enum):
    """Keys of the page's records."""

    DZ = "DZ"
    LD = "LD"


class Entry(BaseModel):
    """An entry of the ledger. All parts are bounded: a model that was not trained to end texts ends these."""

    model_config = ConfigDict(extra="forbid")
    key: Key
    number: int = Field(ge=0, le=999)
    certain: bool


ENTRY_SCHEMA = Entry.model_json_schema()


def look_up(key: Key) -> str:
    """Looks up the number that belongs to a key of the ledger."""
    return {Key.DZ: "284", Key.LD: "122"}[Key(key)]


TOOL_PARAMETERS = {
    "type": "object",
    "properties": {"key": {"type": "string", "enum": ["DZ", "LD"], "description": "Key of the ledger"}},
    "required": ["key"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look_up", "description": look_up.__doc__, "parameters": TOOL_PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}


def run_call(name: str, arguments: str | dict) -> str:
    """The tool's result for a call that a model wrote."""
    assert name == "look_up", name
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(arguments) == {"key"}, arguments
    return look_up(arguments["key"])


def whole(entry: Any) -> None:
    """An entry, as whatever type the client has for it, keeps its form."""
    if isinstance(entry, str):
        entry = json.loads(entry)
    if isinstance(entry, BaseModel):
        entry = entry.model_dump(mode="json")
    Entry.model_validate_json(json.dumps(entry))


def refusal(path: str, body: dict, **headers: str) -> str:
    """The message with which the server refuses a body; clients must show it."""
    headers = {"content-type": "application/json"} | headers
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_PER_CHECK) as answer:
            raise AssertionError(f"{path} takes {json.dumps(body)[:200]}: {answer.status}")
    except urllib.error.HTTPError as error:
        assert error.code == 400, f"{path}: {error.code} {error.read()[:300]}"
        error = json.load(error)["error"]
        return error if isinstance(error, str) else error["message"]


@contextlib.contextmanager
def raises(kind: type[BaseException], message: str):
    """The client's own error, with the server's message in it."""
    try:
        yield
    except kind as error:
        assert message in str(error), f"expected {message!r} in {type(error).__name__}: {str(error)[:400]}"
        return
    raise AssertionError(f"expected {kind.__name__}, found no error")


class Checks:
    """The checks of one client over one of the server's interfaces.

    `client` is its name in the table, `package` its name in the registry where it is installed, `api` the
    interface.
    """

    every: list["Checks"] = []

    def __init__(self, client: str, package: str | None, api: str) -> None:
        self.client, self.version, self.api = client, version(package) if package else "imitated", api
        self.list: list[tuple[str, str, Callable[[], None]]] = []
        Checks.every.append(self)

    def __call__(self, column: str, mode: str = "") -> Callable:
        def add(check: Callable[[], None]) -> Callable[[], None]:
            self.list.append((column, mode, check))
            return check

        return add

    def write(self, column: str, mode: str, **result: object) -> None:
        head = {
            "client": self.client,
            "version": self.version,
            "api": self.api,
            "column": column,
            "mode": mode,
        }
        print("CHECK " + json.dumps(head | result), flush=True)


def reason_of(error: BaseException) -> str:
    """What went wrong, with the place of it in the check and in the client."""
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1] if frames else None
    own = [frame for frame in frames if frame.filename.startswith(str(pathlib.Path(__file__).parent))]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
    where = f"{own[-1].name}:{own[-1].lineno}" if own else "?"
    inside = (
        f"{place.filename.partition('site-packages/')[2] or place.filename}:{place.lineno}" if place else "?"
    )
    return f"{text} [{where}; {inside}]"


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"no end after {SECONDS_PER_CHECK} s")


def main() -> None:
    """Runs all checks of this process, or those whose column or mode has the word of the command line."""
    signal.signal(signal.SIGALRM, out_of_time)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    wanted = [
        (checks, *one)
        for checks in Checks.every
        for one in checks.list
        if word in f"{checks.client} {checks.api} {one[0]} {one[1]}"
    ]
    # Before the first runs: what a process that dies has not told is missing, not forgotten.
    for checks, column, mode, _ in wanted:
        checks.write(column, mode, planned=True)
    for checks, column, mode, check in wanted:
        signal.alarm(SECONDS_PER_CHECK)
        try:
            check()
            signal.alarm(0)
            checks.write(column, mode, ok=True)
        except (Exception, SystemExit) as error:
            signal.alarm(0)
            checks.write(column, mode, ok=False, reason=reason_of(error))
