"""Bodies made of a million tiny values: refused, and never more in memory than they are long."""

import pytest

MEGABYTE = 1_000_000
BODY = 32 * 2**20
CHAT = b'{"messages":[{"role":"user","content":"Hi"}],'


def peak_bytes(server) -> int:
    try:
        status = open(f"/proc/{server.process.pid}/status").read()
    except FileNotFoundError:
        pytest.skip("not Linux")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def filled(head: bytes, item: bytes, tail: bytes) -> bytes:
    """As many items as a body may have."""
    room = BODY - len(head) - len(tail) - len(item)
    return head + (item + b",") * (room // (len(item) + 1)) + item + tail


@pytest.mark.parametrize(("body", "code"), [
    (filled(CHAT + b'"tools":[', b'{"":0}', b"]}"), "json_too_large"),
    (filled(CHAT + b'"tools":[', b"0", b"]}"), "json_too_large"),
    (filled(CHAT + b'"logit_bias":{"0":0,', b'"1":0', b"}}"), "json_too_large"),
    (filled(CHAT + b'"arrcoc":{"budget":[', b"0", b"]}}"), "json_too_large"),
    (filled(b'{"prompt":[', b"0", b"]}"), "json_too_large"),
    (filled(CHAT + b'"x":[', b"[]", b"]}"), "json_too_large"),
    (filled(b'{"messages":[', b'{"role":"user","content":""}', b"]}"), "json_too_large"),
    (filled(b'{"messages":[{"role":"user","content":[', b"{}", b"]}]}"), "json_too_large"),
    (filled(CHAT + b'"tools":[', b'"' + b"x" * 2000 + b'"', b"]}"), "invalid_value"),
    (filled(b'{"messages":[', b'{"content":"' + b"x" * 2000 + b'"}', b"]}"), "invalid_value"),
], ids=["objects", "numbers", "keys", "budget", "prompt", "unknown", "messages", "parts", "strings", "long messages"])
def test_a_body_costs_no_more_than_its_length(start, body, code):
    server = start().wait_ready()
    # The first body of this length: buffers of connections and of the allocator are there afterwards.
    server.http.post("/v1/chat/completions", content=b" " * BODY, headers={"content-type": "application/json"})
    before = peak_bytes(server)
    path = "/v1/completions" if body.startswith(b'{"prompt"') else "/v1/chat/completions"
    answer = server.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] == code, answer.text
    assert peak_bytes(server) - before < 100 * MEGABYTE


def test_a_wrong_value_of_megabytes_is_not_sent_back(server):
    for body in (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": ["A" * 8 * MEGABYTE]}]}]},
        {"messages": [{"role": "user", "content": "x"}], "model": "m" * 8 * MEGABYTE},
        {"messages": [{"role": "user", "content": "x"}], "temperature": "t" * 8 * MEGABYTE},
    ):
        answer = server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code in (400, 404) and len(answer.content) < 1000
