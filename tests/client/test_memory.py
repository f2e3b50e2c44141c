"""What does not fit, and bundles that mean harm: refused with numbers, in time, and the engine in service never notices."""

import hashlib
import pathlib
import shutil
import subprocess
import threading
import time

import pytest
from conftest import BUNDLE, SERVE

# A swap to a bundle that never ends may take this long; loading a good one takes less, on a busy machine too.
LOAD_SECONDS = 30


@pytest.fixture
def engines(tmp_path):
    """fp32, which serves, and int8, which a test makes hostile."""
    for precision in ("fp32", "int8"):
        shutil.copytree(BUNDLE.with_name(f"{precision}-cpu"), tmp_path / "engines" / f"{precision}-cpu")
    return tmp_path / "engines"


@pytest.fixture
def server(start, engines):
    return start(engines=engines, precision="fp32", auth_admin_keys="admin-key", timeouts_load=f"{LOAD_SECONDS}s").wait_ready()


def swap(server) -> tuple[int, str]:
    """Status and text of a swap to int8. While it lasts, the engine in service answers."""
    stop, late = threading.Event(), []

    def ask() -> None:
        while not stop.wait(0.1):
            answer = server.http.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 4})
            if answer.status_code != 200:
                late.append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        answer = server.admin.post("/admin/engines/swap", json={"precision": "int8"})
    finally:
        stop.set()
        asking.join()
    assert not late and server.process.poll() is None, late
    return answer.status_code, answer.text


def in_service(server) -> list[str]:
    return [engine["precision"] for engine in server.admin.get("/admin/engines").json()["data"] if engine["state"] == "ready"]


def replace(bundle: pathlib.Path, name: str, data: bytes) -> None:
    """Replaces a file, and its digest in the manifest: the bundle is whole, and not what it was."""
    file, manifest = bundle / name, bundle / "manifest.yaml"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(data)
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256(data).hexdigest()))


def rewrite(bundle: pathlib.Path, old: str, new: str) -> None:
    manifest = bundle / "manifest.yaml"
    lines = manifest.read_text().splitlines()
    found = [number for number, line in enumerate(lines) if line.strip().startswith(old)]
    assert found, old
    indent = lines[found[0]][: len(lines[found[0]]) - len(lines[found[0]].lstrip())]
    lines[found[0]] = indent + new
    manifest.write_text("\n".join(lines) + "\n")


def field(number: int, data: bytes | int) -> bytes:
    """A field of a protobuf message."""
    def varint(value: int) -> bytes:
        head, rest = value & 127, value >> 7
        return bytes([head]) if not rest else bytes([head | 128]) + varint(rest)

    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    return varint(number << 3 | 2) + varint(len(data)) + data


def value(name: str, element: int, *shape: str | int) -> bytes:
    dims = [field(1, field(1, size) if isinstance(size, int) else field(2, size.encode())) for size in shape]
    return field(1, name.encode()) + field(2, field(1, field(1, element) + field(2, b"".join(dims))))


def node(operator: str, inputs: list[str], outputs: list[str], *attributes: bytes) -> bytes:
    names = b"".join(field(1, name.encode()) for name in inputs) + b"".join(field(2, name.encode()) for name in outputs)
    return names + field(4, operator.encode()) + b"".join(field(5, attribute) for attribute in attributes)


def endless_refiner() -> bytes:
    """The refiner's inputs and outputs around a loop whose condition stays true."""
    FLOAT, INT64, BOOL, GRAPH = 1, 7, 9, 5
    tensor = ("batch", "tokens", "width")
    body = b"".join([
        field(1, node("Identity", ["going"], ["goes_on"])),
        field(1, node("Identity", ["held"], ["holds"])),
        field(2, b"body"),
        field(11, value("turn", INT64)), field(11, value("going", BOOL)), field(11, value("held", FLOAT, *tensor)),
        field(12, value("goes_on", BOOL)), field(12, value("holds", FLOAT, *tensor)),
    ])
    yes = field(2, BOOL) + field(8, b"yes") + field(9, b"\x01")
    graph = b"".join([
        field(1, node("Shape", ["token_positions"], ["unused"])),
        field(1, node("Loop", ["", "yes", "visual_tokens"], ["refined_tokens"], field(1, b"body") + field(20, GRAPH) + field(6, body))),
        field(2, b"refiner"),
        field(5, yes),
        field(11, value("visual_tokens", FLOAT, *tensor)), field(11, value("token_positions", FLOAT, "batch", "tokens", 2)),
        field(12, value("refined_tokens", FLOAT, *tensor)),
    ])
    return field(1, 8) + field(7, graph) + field(8, field(2, 18))


def test_a_graph_that_never_ends_fails_its_trial(server, engines):
    replace(engines / "int8-cpu", "refiner.onnx", endless_refiner())
    started = time.monotonic()
    status, text = swap(server)
    assert status == 500 and "timeouts.load" in text, text
    assert LOAD_SECONDS - 1 < time.monotonic() - started < 4 * LOAD_SECONDS
    assert in_service(server) == ["fp32"]
    # The next one is not refused because of it, and no process is left behind.
    shutil.rmtree(engines / "int8-cpu")
    shutil.copytree(BUNDLE.with_name("int8-cpu"), engines / "int8-cpu")
    assert swap(server)[0] == 200 and in_service(server) == ["int8"]
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task").glob("*/children")
    children = [children for task in tasks if (children := task.read_text().strip())]
    assert not children


def test_a_graph_that_never_ends_ends_a_server_that_begins_with_it(start, engines):
    replace(engines / "fp32-cpu", "refiner.onnx", endless_refiner())
    server = start(bundle=engines / "fp32-cpu", timeouts_load="5s")
    assert server.process.wait(60) == 1
    assert "timeouts.load" in server.log.read_text()


@pytest.mark.parametrize("old, new, said", [
    ("layers:", "layers: 2147483648", "decoder.layers"),
    ("image_token_id:", "image_token_id: 4294967295", "vision.image_token_id"),
    ("head_dim:", "head_dim: 18446744073709551615", "decoder.head_dim"),
    ("patch_size:", "patch_size: " + "[" * 40_000, "opening brackets"),
])
def test_manifests_beyond_reason_are_listed_with_the_reason(server, engines, old, new, said):
    rewrite(engines / "int8-cpu", old, new)
    status, text = swap(server)
    assert status == 404, text
    reasons = [engine.get("reason", "") for engine in server.admin.get("/admin/engines").json()["data"]]
    assert any(said in reason for reason in reasons), reasons


def test_a_cache_beyond_all_memory_is_refused_before_anything_runs(server, engines):
    for old, new in (("layers:", "layers: 4096"), ("kv_heads:", "kv_heads: 4096"), ("head_dim:", "head_dim: 16384")):
        rewrite(engines / "int8-cpu", old, new)
    status, text = swap(server)
    assert status == 507 and "KV cache" in text and "engine.slots" in text, text
    assert in_service(server) == ["fp32"]


def test_an_engine_that_crashes_in_its_trial_is_no_harm(server, engines):
    # A decoder that claims a layout which its graph has not.
    rewrite(engines / "int8-cpu", "layers:", "layers: 1")
    status, text = swap(server)
    assert status == 500 and "did not load" in text, text
    assert in_service(server) == ["fp32"]


def test_a_bundle_that_hides_behind_a_bad_one_is_served(start, engines):
    (engines / "int8-cpu" / "manifest.yaml").write_text("format: " + "[" * 400_000)
    server = start(engines=engines, auth_admin_keys="admin-key")
    server.wait_ready()
    assert in_service(server) == ["fp32"]


@pytest.mark.parametrize("mebibytes", [600, 1000])
def test_address_space_that_does_not_suffice_is_refused_at_start(mebibytes):
    command = f'ulimit -v {mebibytes * 1024}; exec "$0" serve --bundle "$1" --listen 127.0.0.1:0'
    ended = subprocess.run(["bash", "-c", command, SERVE, BUNDLE], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended
    for part in ("ulimit -v", "KV cache", "MiB are free", "lower "):
        assert part in ended.stderr, ended.stderr
    assert "panicked" not in ended.stderr and "backtrace" not in ended.stderr
