"""A headless Chromium, driven over its DevTools protocol: no driver program and no framework that would have to be downloaded."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import httpx2
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_SECONDS = 60
CALL_SECONDS = 60


def find() -> str | None:
    """The browser that ARRCOC_TEST_BROWSER names, or one on the PATH."""
    return os.environ.get("ARRCOC_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with a profile of its own, and as many pages as are opened."""

    def __init__(self, program: str, profile: pathlib.Path) -> None:
        flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars"]
        # Chromium's sandbox refuses to run as root, as containers have it.
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        self.pages: list[Page] = []
        self.log = profile.parent / "browser.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        port, deadline = profile / "DevToolsActivePort", time.monotonic() + START_SECONDS
        while not port.exists() or not port.read_text().strip():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{port.read_text().split()[0]}"

    def open(self, url: str) -> "Page":
        target = httpx2.put(f"{self.url}/json/new?about:blank", timeout=START_SECONDS).json()
        page = Page(target["webSocketDebuggerUrl"])
        self.pages.append(page)
        page.go(url)
        return page

    def close(self) -> None:
        for page in self.pages:
            page.ending.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Page:
    """One page."""

    def __init__(self, socket: str) -> None:
        self.ending = contextlib.ExitStack()
        self.socket = self.ending.enter_context(connect(socket, max_size=None))
        self.number = 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=CALL_SECONDS))
            self.note(message)
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def note(self, message: dict) -> None:
        """Keeps what a developer would see in red."""
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                self.errors.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})", "the page is loaded")

    def run(self, script: str) -> object:
        """The value of an expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition: str, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            shown = self.run("document.body?.innerText")
            assert time.monotonic() < deadline, f"after {seconds} s still not: {what}\n{shown}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What a person reads there: nothing where it is hidden."""
        element = f"document.querySelector({selector!r})"
        return self.run(f"{element}.checkVisibility() ? {element}.innerText.trim() : ''")

    def choose(self, selector: str, file: pathlib.Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def resize(self, width: int, height: int = 900, scheme: str = "light") -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
