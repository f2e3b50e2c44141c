"""What operators rely on: probes, metrics, clients that hang up, and an orderly end."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx2
import openai
import pytest
from conftest import BUNDLE, MODEL, SERVE, image_part, messages

# The tiny model's greedy answer to this question does not end by itself.
LONG = {"model": MODEL, "messages": messages("Hi"), "temperature": 0, "max_tokens": 3000}
# In one slot, eight such answers come one after another: seconds of work on any machine.
VERY_LONG = LONG | {"n": 8}


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory):
    """The bundle with a quarter of a gigabyte of zeros (which takes no space on the disk) among the files that are hashed first."""
    bundle = tmp_path_factory.mktemp("slow") / "bundle"
    shutil.copytree(BUNDLE, bundle)
    with (bundle / "zeros").open("wb") as file:
        file.truncate(2**28)
    digest = hashlib.sha256()
    for _ in range(2**8):
        digest.update(bytes(2**20))
    manifest = (bundle / "manifest.yaml").read_text()
    assert manifest.count("\nfiles:\n") == 1
    (bundle / "manifest.yaml").write_text(manifest.replace("\nfiles:\n", f"\nfiles:\n  zeros: {digest.hexdigest()}\n"))
    return bundle


def test_health_is_up_while_loading_and_ready_is_not(start, slow_bundle):
    server = start(bundle=slow_bundle)
    ready = server.http.get("/ready")
    assert ready.status_code == 503 and ready.json()["error"]["code"] == "loading"
    assert int(ready.headers["retry-after"]) >= 1
    assert server.http.get("/health").json() == {"status": "ok"}
    # Scrapers find every series from the first moment on.
    assert server.http.get("/metrics").status_code == 200
    server.wait_ready()
    assert server.http.get("/health").json() == {"status": "ok"}


def test_questions_while_loading_are_put_off(start, slow_bundle):
    server = start(bundle=slow_bundle)
    with pytest.raises(openai.InternalServerError) as caught:
        server.client().chat.completions.create(**LONG)
    assert caught.value.status_code == 503 and caught.value.code == "loading"


def test_a_client_that_hangs_up_frees_its_slot(start):
    server = start(engine_slots=1).wait_ready()
    with server.client() as client:
        stream = client.chat.completions.create(**VERY_LONG, stream=True)
        next(iter(stream))
        assert server.metric("vllm:num_requests_running") == 1
        stream.close()
        server.eventually(lambda: server.metric("vllm:num_requests_running") == 0, "the slot is free", seconds=5)
        assert server.metric("vllm:request_success_total", finished_reason="abort") == 8
        # Well before all eight times 3000 tokens were made.
        assert server.metric("vllm:generation_tokens_total") < 20000
        assert client.chat.completions.create(**LONG | {"max_tokens": 2}).choices


def test_a_client_that_hangs_up_before_a_whole_answer_frees_its_slot_too(start):
    server = start(engine_slots=1).wait_ready()
    with server.client(timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**VERY_LONG)
    server.eventually(lambda: server.metric("vllm:num_requests_running") == 0, "the slot is free", seconds=5)
    server.eventually(lambda: server.metric("vllm:num_requests_waiting") == 0, "nothing waits", seconds=5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_only_ends_its_side_gets_the_whole_answer(start, stream):
    server = start().wait_ready()
    body = json.dumps(LONG | {"max_tokens": 200, "stream": stream}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    with connect(server.url) as connection:
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (b"data: [DONE]" if stream else b'"finish_reason":"length"') in answer


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


STUCK = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", STUCK],
                         ids=["silent", "half a head", "kept alive", "half a body"])
def test_256_connections_that_do_nothing_keep_no_probe_out(start, sent):
    # Their own time-outs are far away: what frees their places is the next one who comes.
    server = start(timeouts_headers="5m", timeouts_body="5m").wait_ready()
    idle = [connect(server.url) for _ in range(256)]
    for connection in idle:
        connection.sendall(sent)
    for path in ("/health", "/ready", "/metrics"):
        with httpx2.Client(timeout=10) as new:
            assert new.get(server.url + path).status_code == 200
            assert new.get(server.probe_url + path).status_code == 200
    if sent != STUCK:
        with server.client(max_retries=3) as client:
            assert client.chat.completions.create(**LONG | {"max_tokens": 2}).choices
    for connection in idle:
        connection.close()


def test_a_second_server_finds_another_port_for_its_probes(start):
    first, second = start(probe_listen=""), start(probe_listen="")
    assert first.probe_url != second.probe_url
    for server in (first, second):
        with httpx2.Client(timeout=10) as probe:
            assert probe.get(server.probe_url + "/health").json() == {"status": "ok"}
            assert probe.get(server.probe_url + "/v1/models").status_code == 404


def test_metrics_count_what_happened(start):
    server = start().wait_ready()
    with server.client() as client:
        answers = [
            client.chat.completions.create(model=MODEL, messages=messages("Hello", *images), max_tokens=5, temperature=0)
            for images in ([], [image_part("rocket.jpg")])
        ]
    prompt, generated = (sum(getattr(answer.usage, of) for answer in answers) for of in ("prompt_tokens", "completion_tokens"))
    visual = answers[1].usage.prompt_tokens_details.visual_tokens
    assert server.metric("vllm:prompt_tokens_total") == prompt
    assert server.metric("vllm:generation_tokens_total") == generated
    assert server.metric("vllm:request_success_total", finished_reason="length") == 2
    assert server.metric("vllm:e2e_request_latency_seconds_count") == 2
    assert server.metric("vllm:time_to_first_token_seconds_count") == 2
    assert server.metric("arrcoc_tier_total", tier=str(visual)) == server.metric("arrcoc_tier_total") == 1
    assert server.metric("arrcoc_visual_tokens_sum") == visual
    for stage in ("decode_image", "preprocess", "vision_encoder", "allocator", "compressor", "refiner",
                  "quality_adapter", "prefill", "decode_step"):
        assert server.metric("arrcoc_stage_seconds_count", stage=stage) >= 1, stage
    # The tiny preset's adapter is normalised to these, as every adapter is.
    assert server.metric("arrcoc_adapter_output_mean_target") == 0
    assert server.metric("arrcoc_adapter_output_std_target") == pytest.approx(0.02)


def test_busy_slots_are_not_a_full_cache(start):
    server = start(engine_slots=1).wait_ready()
    with server.client() as client:
        stream = client.chat.completions.create(**VERY_LONG, stream=True)
        next(iter(stream))
        assert server.metric("vllm:num_requests_running") == 1
        # One answer of a few tokens holds the only slot, and eight of 3000 in a context of 4096 never fill
        # it. The first token leaves before its iteration is counted.
        server.eventually(lambda: 0 < server.metric("vllm:kv_cache_usage_perc") < 1, "the cache holds a part")
        stream.close()
        server.eventually(lambda: server.metric("vllm:kv_cache_usage_perc") == 0, "nothing is held")


def test_an_image_that_a_cache_has_is_a_hit(start):
    server = start().wait_ready()
    questions = ["What is it?", "Where is it?", "What is it?", "What is it?"]
    with server.client() as client:
        for question in questions:
            client.chat.completions.create(
                model=MODEL, messages=messages(question, image_part("rocket.jpg")), max_tokens=1, temperature=0
            )
    assert server.metric("vllm:mm_cache_queries_total") == len(questions)
    assert server.metric("vllm:mm_cache_hits_total") == len(questions) - 1


def test_the_process_is_measured(start):
    server = start().wait_ready()
    resident = server.metric("process_resident_memory_bytes")
    pages = int(pathlib.Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    assert resident == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
    assert server.metric("process_open_fds") <= server.metric("process_max_fds")
    assert abs(server.metric("process_start_time_seconds") - time.time()) < 600
    assert server.metric("process_cpu_seconds_total") >= 0


def test_promtool_finds_nothing_wrong_with_the_metrics(server, ask):
    promtool = os.environ.get("ARRCOC_TEST_PROMTOOL")
    assert promtool, (
        "expected promtool, found none: put it on the PATH (https://prometheus.io/download, or the package `prometheus` "
        "of Debian and Ubuntu) and run `cargo xtask test` again"
    )
    ask("What is in the sky?", image_part("rocket.jpg"))
    with pytest.raises(openai.NotFoundError):
        ask(model="none")
    metrics = server.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.text, text=True, capture_output=True, timeout=60
    )
    # Exit code 1 is "cannot be read", 3 is "could be nicer". vLLM's own names could, and they are what
    # dashboards ask for.
    complaints = [line for line in (checked.stdout + checked.stderr).splitlines() if line.strip()]
    assert [line for line in complaints if not line.startswith("vllm:")] == []
    assert checked.returncode == (3 if complaints else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish_and_refuses_new_ones(start, number):
    server = start().wait_ready()
    with server.client() as client:
        alone = client.chat.completions.create(**LONG).choices[0]
        running = iter(client.chat.completions.create(**LONG, stream=True))
        next(running)
        server.process.send_signal(number)
        server.eventually(lambda: server.http.get("/ready").status_code == 503, "no longer ready", seconds=5)
        assert server.http.get("/health").status_code == 200
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**LONG)
        assert caught.value.status_code == 503 and caught.value.code == "draining"
        rest = list(running)
    text = "".join(choice.delta.content or "" for chunk in rest for choice in chunk.choices)
    assert text == alone.message.content and rest[-1].choices[0].finish_reason == alone.finish_reason
    assert server.process.wait(10) == 0


def test_an_idle_server_ends_at_once(start):
    assert start().wait_ready().end() == 0


def test_a_signal_while_loading_ends_it(start, slow_bundle):
    server = start(bundle=slow_bundle)
    server.process.terminate()
    assert server.process.wait(30) == 0


def test_many_clients_at_once_are_all_answered(start):
    server = start(engine_slots=4).wait_ready()
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        with server.client() as client:
            answer = client.chat.completions.create(
                model=MODEL, messages=messages(f"Question {number % 4}"), temperature=0, max_tokens=16
            )
        answers[number] = answer.choices[0].message.content

    threads = [threading.Thread(target=ask, args=[number]) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == list(range(24))
    assert all(answers[number] == answers[number % 4] for number in answers)
    # The last answer is out a moment before its slot is given back.
    server.eventually(lambda: server.metric("vllm:num_requests_running") == 0, "all slots are free", seconds=5)
    assert server.metric("vllm:num_requests_waiting") == 0


def serve(*words: object) -> subprocess.CompletedProcess:
    """A run that is not meant to last."""
    return subprocess.run([SERVE, "serve", *words], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("words", "named"), [
    (["--bundle", "nowhere"], "nowhere"),
    (["--bundle", BUNDLE, "--limits-queue", "many"], "limits.queue"),
    (["--bundle", BUNDLE, "--listen", "nonsense"], "listen"),
])
def test_a_wrong_command_line_ends_with_2_and_says_why(words, named):
    ended = serve(*words)
    assert ended.returncode == 2 and named in ended.stderr


def test_a_port_that_is_taken_is_an_error(server):
    listen = server.url.removeprefix("http://")
    ended = serve("--bundle", BUNDLE, "--listen", listen)
    assert ended.returncode == 1 and listen in ended.stderr
