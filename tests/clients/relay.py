"""Between a client and the server: requires a call where tools are offered and no result is there yet.

Some clients have no way to require a call, and the model was not trained to call of its own will. All else
passes as it is. `python relay.py URL` prints its own address.
"""

import json
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS = 120


def has_result(message: dict) -> bool:
    """Whether a message tells what a call returned: Anthropic's are parts of a user's message."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return message.get("role") in ("tool", "function") or any(
        part.get("type") == "tool_result" for part in parts
    )


def require_call(path: str, body: bytes) -> bytes:
    """The body, with `tool_choice` where it has tools and no result of a call."""
    asked = json.loads(body)
    if asked.get("tools") and not any(has_result(message) for message in asked.get("messages") or []):
        asked["tool_choice"] = {"type": "any"} if path.startswith("/v1/messages") else "required"
    return json.dumps(asked).encode()


class Relay(BaseHTTPRequestHandler):
    """One connection; an answer ends with it, so that streams need no length."""

    server_url = ""

    def relayed(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if self.command == "POST" and body:
            body = require_call(self.path, body)
        headers = {"content-type": self.headers.get("content-type", "application/json")}
        url = self.server_url + self.path
        request = urllib.request.Request(url, body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers.get("content-type", "application/json"))
            self.send_header("connection", "close")
            self.end_headers()
            while piece := answer.read1(1 << 16):
                self.wfile.write(piece)
                self.wfile.flush()

    do_GET = do_POST = do_DELETE = relayed

    def log_message(self, *_: object) -> None:
        """Nothing: the server has its own log."""


def main() -> None:
    Relay.server_url = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
