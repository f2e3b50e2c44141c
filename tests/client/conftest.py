"""Starts `arrcoc-serve` on the tiny bundle for tests that talk to it as users do: with OpenAI's client.

`cargo xtask test` runs these. By hand, after it has run once:

    target/venv-client/bin/python -m pytest tests/client -k stop
"""

import base64
import os
import pathlib
import subprocess
import time

import httpx2
import openai
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SERVE = os.environ.get("ARRCOC_TEST_SERVE", ROOT / "target/debug/arrcoc-serve")
BUNDLE = pathlib.Path(os.environ.get("ARRCOC_TEST_BUNDLE", ROOT / "target/test-bundles/arr-coc-ovis-tiny/fp32-cpu"))
MODEL = "arr-coc-ovis-tiny"
IMAGES = ROOT / "tests/fixtures/images"
LOAD_SECONDS = 60
END_SECONDS = 60


class Server:
    """A running `arrcoc-serve`. `flags` are its command line, without the dashes in front.

    Its log goes to the file `log`, or to `stderr`, a file descriptor.
    """

    def __init__(self, log: pathlib.Path, stderr: int | None = None, **flags: object) -> None:
        engines = {} if "engines" in flags else {"bundle": BUNDLE}
        flags = engines | {name: "127.0.0.1:0" for name in ("listen", "admin_listen", "probe_listen")} | flags
        words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]
        self.log = log
        # Before the server: a client takes its time to start, and some tests want to see how the server does.
        self.http = httpx2.Client(timeout=120)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [SERVE, "serve", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file if stderr is None else stderr,
                text=True,
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), f"{line!r}\n{log.read_text()}"
        self.url = line.removeprefix("listening on ").strip()
        self.http.base_url = self.url
        self.admin_url = None
        if "auth_admin_keys" in flags:
            self.admin_url = self.process.stdout.readline().removeprefix("admin on ").strip()
            headers = {"authorization": f"Bearer {flags['auth_admin_keys']}"}
            self.admin = httpx2.Client(timeout=120, base_url=self.admin_url, headers=headers)
        self.probe_url = self.process.stdout.readline().removeprefix("probes on ").strip()

    def wait_ready(self) -> "Server":
        deadline = time.monotonic() + LOAD_SECONDS
        while self.http.get("/ready").status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not ready after {LOAD_SECONDS} s\n{self.log.read_text()}"
            time.sleep(0.02)
        return self

    def client(self, **options: object) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 120} | options
        return openai.OpenAI(base_url=self.url + "/v1", **options)

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the series of this name that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        series = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        values = [float(line.rsplit(" ", 1)[1]) for line in series if all(pair in line for pair in wanted)]
        assert values, f"no series {name}{labels}"
        return sum(values)

    def eventually(self, condition, what: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
            time.sleep(0.02)

    def end(self) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.terminate()
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        self.http.close()
        if self.admin_url:
            self.admin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def pytest_sessionstart() -> None:
    for path in (pathlib.Path(SERVE), BUNDLE / "manifest.yaml"):
        if not path.exists():
            raise pytest.UsageError(f"expected {path}, which `cargo xtask test` makes; found nothing there")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory):
    """The server that most tests share."""
    flags = {"engines": BUNDLE.parent, "precision": "fp32", "auth_admin_keys": "admin-key"}
    running = Server(tmp_path_factory.mktemp("server") / "log", **flags).wait_ready()
    yield running
    running.kill()


@pytest.fixture(scope="session")
def stock_bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model from outside, tiny and random: Qwen3-VL's network."""
    home, export = tmp_path_factory.mktemp("stock"), pathlib.Path(SERVE).with_name("arrcoc-export")
    for command in (
        ("init", "--preset", "qwen3-vl-tiny", "--out", home / "seer"),
        ("build", home / "seer", "--out", home / "engines"),
    ):
        subprocess.run([export, *command], check=True, capture_output=True, timeout=300)
    return home / "engines/seer/fp32-cpu"


@pytest.fixture
def start(tmp_path: pathlib.Path):
    """Starts servers with flags of their own."""
    running = []

    def begin(**flags: object) -> Server:
        running.append(Server(tmp_path / f"log{len(running)}", **flags))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture
def client(server: Server):
    with server.client() as client:
        yield client


def image_part(data: bytes | str, kind: str = "jpeg") -> dict:
    """An image as part of a message: a file of tests/fixtures/images, or bytes."""
    if isinstance(data, str):
        data, kind = (IMAGES / data).read_bytes(), data.rsplit(".", 1)[1].replace("jpg", "jpeg")
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def messages(text: str, *images: dict) -> list[dict]:
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


@pytest.fixture
def ask(client: openai.OpenAI):
    """Greedy, short chat completions with some of the arguments filled in."""

    def ask(text: str = "What is in the sky?", *images: dict, **options: object):
        options = {"model": MODEL, "temperature": 0, "max_tokens": 16} | options
        return client.chat.completions.create(messages=messages(text, *images), **options)

    return ask
