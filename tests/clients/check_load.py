"""Tools that make load: aiperf, whose answers have the length that it asks for, and locust."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from common import ANSWER, MODEL, SECONDS_PER_CHECK, TEXT_FIRST, URL, Checks, main

REQUESTS, LENGTH = 8, 32
aiperf = {api: Checks("aiperf", "aiperf", api) for api in ("chat", "completions", "responses")}
locust = Checks("locust", "locust", "chat")
USER = """
from locust import HttpUser, task

class Reader(HttpUser):
    @task
    def ask(self):
        body = {body!r}
        with self.client.post("/v1/chat/completions", json=body, catch_response=True) as answer:
            if answer.json()["choices"][0]["message"]["content"] != {expected!r}:
                answer.failure(answer.text)
"""


def run(name, *words):
    command = [pathlib.Path(sys.executable).with_name(name), *words]
    # aiperf takes a folder for a tokenizer only where it may look at a hub, too.
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_CHECK - 5,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-300:]} {done.stderr[-300:]}"


def profile(api, *words):
    """aiperf's own summary of a few requests, whose answers must be of one length."""
    with tempfile.TemporaryDirectory() as folder:
        run(
            "aiperf",
            "profile",
            "-m",
            MODEL,
            "--url",
            URL,
            "--endpoint-type",
            api,
            "--ui",
            "none",
            "--request-count",
            str(REQUESTS),
            "--concurrency",
            "2",
            "--tokenizer",
            os.environ["ARRCOC_BUNDLE"],
            "--synthetic-input-tokens-mean",
            "40",
            "--output-tokens-mean",
            str(LENGTH),
            "--output-tokens-stddev",
            "0",
            "--extra-inputs",
            "ignore_eos:true",
            # Its own count is of the text, which the end tokens that are passed have no part in.
            "--use-server-token-count",
            "--output-artifact-dir",
            folder,
            *words,
        )
        found = json.loads(pathlib.Path(folder, "profile_export_aiperf.json").read_text())
    assert found["request_count"]["avg"] == REQUESTS and not found.get("error_request_count"), found
    lengths = found["output_sequence_length"]
    assert lengths["min"] == lengths["max"] == LENGTH, lengths
    return found


for api, checks in aiperf.items():

    @checks("chat")
    def whole(api=api):
        profile(api)

    @checks("stream")
    def stream(api=api):
        assert profile(api, "--streaming")["time_to_first_token"]["avg"] > 0


@locust("text first")
def users():
    body = {"model": MODEL, "messages": TEXT_FIRST, "max_tokens": 8}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "locustfile.py")
        file.write_text(USER.format(body=body, expected=ANSWER))
        run(
            "locust",
            "-f",
            file,
            "--headless",
            "-u",
            "4",
            "-r",
            "4",
            "-t",
            "5s",
            "--host",
            URL,
            "--csv",
            f"{folder}/run",
        )
        total = pathlib.Path(folder, "run_stats.csv").read_text().splitlines()[-1].split(",")
    requests, failures = int(total[2]), int(total[3])
    assert requests >= 4 and failures == 0, total


if __name__ == "__main__":
    main()
