"""Engines that take each other's place while clients stream: no request fails, and every answer is one that its engine gives alone."""

import hashlib
import shutil
import subprocess
import threading
import time

import pytest
from conftest import BUNDLE, MODEL, SERVE, image_part, messages

PRECISIONS = ("int8", "fp32", "int4")
CLIENTS = 8
SWAPS = 10
QUESTIONS = ("What is in the sky?", "How many windows has the house?", "Which colour is the rocket?", "Read the sign.")


@pytest.fixture
def engines(tmp_path):
    """A directory of bundles that a test may damage."""
    directory = tmp_path / "engines"
    for precision in PRECISIONS:
        shutil.copytree(BUNDLE.with_name(f"{precision}-cpu"), directory / f"{precision}-cpu")
    return directory


@pytest.fixture
def swapping(start, engines):
    def begin(**flags):
        flags = {"engines": engines, "precision": "fp32", "auth_admin_keys": "admin-key"} | flags
        return start(**flags).wait_ready()

    return begin


def swap(server, precision: str):
    return server.admin.post("/admin/engines/swap", json={"precision": precision})


def stream(client, question: str) -> tuple[str, str]:
    """The engine's fingerprint and the text, greedy."""
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=messages(question, image_part("rocket.jpg")), temperature=0, max_tokens=24, stream=True,
        extra_body={"arrcoc": {"budget": 64}},
    ))
    fingerprints = {chunk.system_fingerprint for chunk in chunks}
    assert len(fingerprints) == 1 and chunks[-1].choices[0].finish_reason in ("stop", "length")
    return fingerprints.pop(), "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def resident_bytes(server) -> int:
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def loaded(server) -> list[dict]:
    return [engine for engine in server.admin.get("/admin/engines").json()["data"] if engine["state"] != "available"]


def wait_for_one(server) -> None:
    server.eventually(lambda: len(loaded(server)) == 1, "a single engine in memory", 30)


def resident_at_rest(server) -> int:
    """After a swap and back with nobody asking: unloading gives memory back, and under load much of it is in use just then."""
    for precision in ("fp32", "int8"):
        assert swap(server, precision).status_code == 200
        wait_for_one(server)
    return resident_bytes(server)


def test_ten_swaps_under_eight_streams_lose_nothing(swapping):
    server = swapping()
    alone = {}
    with server.client() as client:
        for precision in ("fp32", "int8"):
            assert swap(server, precision).status_code == 200
            alone |= dict([((precision, question), stream(client, question)) for question in QUESTIONS])
    assert len({fingerprint for fingerprint, _ in alone.values()}) == 2
    before = resident_at_rest(server)
    answers = []

    def ten_swaps() -> None:
        for turn in range(SWAPS):
            time.sleep(0.3)
            answer = swap(server, ("fp32", "int8")[turn % 2])
            assert answer.status_code == 200 and answer.json()["changed"], answer.text

    # The first ten warm the allocator up: what matters is whether the second ten add anything.
    answers += under_load(server, ten_swaps)
    after_ten = resident_at_rest(server)
    answers += under_load(server, ten_swaps)

    expected = set((question, told) for (_, question), told in alone.items())
    assert {answer for answer in answers} <= expected
    served = {fingerprint.split("-")[1] for _, (fingerprint, _) in answers}
    assert served == {"fp32", "int8"} and len(answers) >= CLIENTS
    assert server.metric("arrcoc_swap_seconds_count") == 2 * SWAPS + 1 + 2 * 2  # The first to int8, and two at rest, twice.
    # Ten engines that were never unloaded would be ten times this.
    engine = loaded(server)[0]["memory"]
    after_twenty = resident_at_rest(server)
    print(f"{len(answers)} answers; resident MiB: {before >> 20}, {after_ten >> 20} after ten, {after_twenty >> 20} after twenty")
    assert after_twenty - after_ten < 2 * (engine["weight_bytes"] + engine["kv_bytes"])
    server.eventually(lambda: server.metric("vllm:num_requests_running") == 0, "no request is running")


def under_load(server, work) -> list[tuple[str, tuple[str, str]]]:
    """The answers that eight clients get while `work` is done; every one of them has to come."""
    stop, failures, answers = threading.Event(), [], []

    def ask(number: int) -> None:
        with server.client() as client:
            while not stop.is_set():
                question = QUESTIONS[number % len(QUESTIONS)]
                number += 1
                try:
                    answers.append((question, stream(client, question)))
                except Exception as error:  # Whatever it is, it is a lost request.
                    failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    return answers


def damage(path, offset: int, data: bytes) -> str:
    """Writes into a file; returns the SHA-256 that it had and has."""
    before = path.read_bytes()
    after = before[:offset] + data + before[offset + len(data):]
    path.write_bytes(after)
    return hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest()


def test_bundles_that_fail_change_nothing(swapping, engines):
    server = swapping()
    with server.client() as client:
        before = stream(client, QUESTIONS[0])
        # Changed on disk after the export.
        damage(engines / "int8-cpu" / "decoder.onnx.data", 5000, b"\xff" * 8)
        answer = swap(server, "int8")
        assert answer.status_code == 500 and "changed after the export" in answer.json()["error"]["message"], answer.text
        # Not changed, as far as hashes go, and yet its first run gives no numbers.
        weights, manifest = engines / "int4-cpu" / "decoder.onnx.data", engines / "int4-cpu" / "manifest.yaml"
        old, new = damage(weights, 0, b"\x00\x00\xc0\x7f" * (weights.stat().st_size // 4))
        manifest.write_text(manifest.read_text().replace(old, new))
        answer = swap(server, "int4")
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "engine_not_loaded", answer.text
        # No bundle at all.
        (engines / "fp32-cpu" / "manifest.yaml").rename(engines / "fp32-cpu" / "gone")
        states = [engine["state"] for engine in server.admin.get("/admin/engines").json()["data"]]
        assert states.count("ready") == 1
        assert stream(client, QUESTIONS[0]) == before
    assert server.metric("arrcoc_swap_failures_total") == 2


def test_what_does_not_fit_is_refused(swapping):
    server = swapping(engine_memory="1MiB")
    answer = swap(server, "int8")
    assert answer.status_code == 507 and "engine.memory" in answer.json()["error"]["message"]
    assert [engine["precision"] for engine in loaded(server)] == ["fp32"]


def test_swapping_from_the_shell(swapping):
    server = swapping(engine_loaded=2)

    def shell(*words: str):
        where = [] if "--url" in words else ["--url", server.admin_url]
        command = [SERVE, "swap", *words, *where]
        return subprocess.run(command, capture_output=True, text=True, env={"ARRCOC_ADMIN_KEY": "admin-key"})

    done = shell("int4")
    assert done.returncode == 0 and f"{MODEL} is served in int4" in done.stdout, done
    assert [(engine["precision"], engine["state"]) for engine in loaded(server)] == [("int4", "ready"), ("fp32", "kept")]
    assert "already" in shell("int4").stdout
    refused = shell("int8", "--key", "wrong-key")
    assert refused.returncode == 1 and "the key is not one" in refused.stderr
    assert shell("int5").returncode == 2
    nowhere = subprocess.run([SERVE, "swap", "int8", "--key", "k", "--url", "http://127.0.0.1:9"], capture_output=True, text=True)
    assert nowhere.returncode == 1 and "no server answers" in nowhere.stderr and "admin on" in nowhere.stderr
    # What there is, with targets; where /admin is not; and the address as the server was given it.
    unknown = shell("fp16")
    assert unknown.returncode == 1 and "int4-cpu" in unknown.stderr and "fp32-cpu" in unknown.stderr
    elsewhere = shell("int8", "--url", server.url)
    assert elsewhere.returncode == 1 and "admin_listen" in elsewhere.stderr and "admin on" in elsewhere.stderr
    environment = {"ARRCOC_ADMIN_KEY": "admin-key", "ARRCOC_ADMIN_LISTEN": server.admin_url.removeprefix("http://")}
    followed = subprocess.run([SERVE, "swap", "int4"], capture_output=True, text=True, env=environment)
    assert followed.returncode == 0 and "already" in followed.stdout, followed


def test_the_best_engine_comes_first(start, engines):
    # On CPUs that multiply bytes: int8 before int4 before fp32.
    with open("/proc/cpuinfo") as cpu:
        best = "int8" if any(flag in cpu.read() for flag in ("avx512_vnni", "avx_vnni")) else "fp32"
    server = start(engines=engines, auth_admin_keys="admin-key").wait_ready()
    assert [engine["precision"] for engine in loaded(server)] == [best]
