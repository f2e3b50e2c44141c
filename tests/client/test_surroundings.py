"""What goes on around a server: who reads its log, what lies beside its bundle, and what becomes of its files."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import openai
import pytest
from conftest import BUNDLE, MODEL, messages

SHORT = {"model": MODEL, "messages": messages("Hi"), "temperature": 0, "max_tokens": 4}


def answer(server) -> str:
    with server.client() as client:
        return client.chat.completions.create(**SHORT).choices[0].message.content


@pytest.fixture(scope="module")
def expected(server) -> str:
    return answer(server)


def full() -> tuple[int, list[int]]:
    return os.open("/dev/full", os.O_WRONLY), []


def closed() -> tuple[int, list[int]]:
    reader, writer = os.pipe()
    os.close(reader)
    return writer, []


def stalled() -> tuple[int, list[int]]:
    """A pipe that is full, and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 16))
    os.set_blocking(writer, True)
    return writer, [reader]


@pytest.mark.parametrize("sink", [full, closed, stalled])
def test_a_log_that_goes_nowhere_stops_nothing(start, expected, sink):
    stderr, others = sink()
    server = start(stderr=stderr).wait_ready()
    os.close(stderr)
    assert answer(server) == expected
    assert server.http.get("/nothing-here").status_code == 404
    assert server.http.get("/health").status_code == 200
    # A line that waits for a reader is not lost yet.
    if not others:
        server.eventually(lambda: server.metric("arrcoc_log_dropped_total") > 0, "dropped lines are counted")
    assert server.end() == 0
    for descriptor in others:
        os.close(descriptor)


def test_a_log_with_a_reader_is_whole_to_the_last_line_and_plain(start, expected):
    server = start().wait_ready()
    assert answer(server) == expected
    assert server.metric("arrcoc_log_dropped_total") == 0
    assert server.end() == 0
    log = server.log.read_text()
    lines = log.splitlines()
    assert "listening" in lines[0] and "every request was finished" in lines[-1], log
    assert "\x1b" not in log


def test_nobody_needs_to_hear_where_the_server_is(start, tmp_path):
    """Neither a port file that cannot be written nor a standard output that is closed stops a server."""
    server = start(port_file=tmp_path / "none/port").wait_ready()
    server.process.stdout.close()
    assert server.http.get("/ready").status_code == 200
    assert server.end() == 0
    assert "cannot write the port" in server.log.read_text()


def hub_cache(root: pathlib.Path) -> pathlib.Path:
    """The bundle as huggingface_hub keeps it: names that are links to files called after their hashes."""
    snapshot = root / "models--org--tiny/snapshots/0123abcd"
    blobs = root / "models--org--tiny/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in BUNDLE.iterdir():
        blob = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob}")
    return snapshot


def test_a_bundle_in_the_hubs_cache_is_served(start, expected, tmp_path):
    assert answer(start(bundle=hub_cache(tmp_path)).wait_ready()) == expected


def test_links_may_lead_anywhere(start, expected, tmp_path):
    """Graphs here, weights there: an inference library by itself would look for them beside the graph only."""
    bundle, weights = tmp_path / "bundle", tmp_path / "weights"
    shutil.copytree(BUNDLE, bundle)
    weights.mkdir()
    for file in list(bundle.glob("*.data")):
        shutil.move(file, weights / file.name)
        file.symlink_to(weights / file.name)
    assert answer(start(bundle=bundle).wait_ready()) == expected


def test_files_beside_a_bundles_own_are_left_alone(start, expected, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    for name in (".gitattributes", "README.md", ".cache/huggingface/download/decoder.onnx.metadata", ".DS_Store"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("not ours")
    assert answer(start(bundle=bundle).wait_ready()) == expected


@pytest.mark.parametrize("order", ["r+b", "wb"])
def test_a_bundle_that_is_overwritten_while_it_serves_is_noticed(start, expected, tmp_path, order):
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    server = start(bundle=bundle).wait_ready()
    assert answer(server) == expected
    # The writer waits for its lease until the server has ended.
    command = f"open({str(bundle / 'decoder.onnx.data')!r}, {order!r}).write(b'other weights')"
    writer = subprocess.Popen([sys.executable, "-c", command])
    server.eventually(lambda: server.http.get("/ready").status_code == 500, "the change is noticed", seconds=60)
    with pytest.raises(openai.InternalServerError):
        answer(server)
    assert server.http.get("/health").status_code == 500
    assert server.end() == 0
    assert "`decoder.onnx.data`" in server.log.read_text()
    assert writer.wait(timeout=60) == 0
