"""Points the clients that people use at a server, and writes down what works: a row per client and interface.

    python tests/clients/run.py --serve target/debug/arrcoc-serve \
        --bundle target/test-bundles/arr-coc-ledger/fp32-cpu --out docs/clients.md

The bundle must be one of the trained ledger checkpoint, which answers questions about a page right. The
clients are installed below target/clients, each group by its lock, once. Exit status 1 where a check fails
that is not known as the client's own fault (faults.py), or a known one works by now.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import installed
import table

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# The environment of each file of Python checks; node's checks have one together.
PYTHON = {
    "check_openai.py": ["newest", "older"],
    "check_openai_responses.py": ["newest", "older"],
    "check_langchain.py": ["newest"],
    "check_llama_index.py": ["llama_index"],
    "check_litellm.py": ["newest"],
    "check_litellm_proxy.py": ["litellm_proxy"],
    "check_instructor.py": ["instructor"],
    "check_pydantic_ai.py": ["newest"],
    "check_aisuite.py": ["older"],
    "check_dspy.py": ["newest"],
    "check_llm.py": ["newest"],
    "check_anthropic.py": ["newest"],
    "check_ollama.py": ["newest"],
    "check_open_webui.py": ["newest"],
    "check_lm_eval.py": ["lm_eval"],
    "check_load.py": ["load"],
}
NODE = ["openai.mjs", "responses.mjs", "ai_sdk.mjs", "anthropic.mjs", "ollama.mjs"]
READY_SECONDS = 60
MODEL = "arr-coc-ledger"
PAGE = ROOT / "tests/fixtures/ledger/page.png"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=pathlib.Path, required=True, help="the server's executable")
    parser.add_argument(
        "--bundle", type=pathlib.Path, required=True, help="a bundle of the ledger checkpoint"
    )
    parser.add_argument("--out", type=pathlib.Path, help="where to write the table, Markdown")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the single results, JSON")
    parser.add_argument("--only", default="", help="run the files whose name has this word; writes no table")
    parser.add_argument("--home", type=pathlib.Path, default=ROOT / "target/clients", help="where clients go")
    parser.add_argument("--seconds", type=float, default=600, help="time limit of each client's process")
    return parser.parse_args()


@contextlib.contextmanager
def started(command: list[object], prefix: str, log: pathlib.Path):
    """A process that runs meanwhile; gives what stands behind `prefix` in the first line that it prints."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        line = process.stdout.readline()
        if not line.startswith(prefix):
            raise SystemExit(f"expected {command[0]} to print its address, found {line!r}; its log is {log}")
        yield line.removeprefix(prefix).strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def servers(serve: pathlib.Path, bundle: pathlib.Path, home: pathlib.Path):
    """The server and the relay before it: their addresses, as variables of the checks' environment."""
    any_port = [
        word for name in ("listen", "admin-listen", "probe-listen") for word in ("--" + name, "127.0.0.1:0")
    ]
    command = [serve, "serve", "--bundle", bundle, "--model-name", MODEL, *any_port]
    with (
        started(command, "listening on ", home / "server.log") as url,
        started([sys.executable, HERE / "relay.py", url], "", home / "relay.log") as relay,
    ):
        ready = f"import urllib.request as r; r.urlopen({url + '/ready'!r})"
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run([sys.executable, "-c", ready], capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"not ready after {READY_SECONDS} s; the server's log is {home / 'server.log'}"
                )
            time.sleep(0.2)
        yield {
            "ARRCOC_URL": url,
            "ARRCOC_RELAY": relay,
            "ARRCOC_MODEL": MODEL,
            "ARRCOC_PAGE": str(PAGE),
            "ARRCOC_BUNDLE": str(bundle),
            "HF_HOME": str(home / "huggingface"),
        }


def results_of(lines: list[str], ended: str) -> list[dict]:
    """The checks that a process told about; those that it only planned have failed with it."""
    told = [json.loads(line.removeprefix("CHECK ")) for line in lines if line.startswith("CHECK ")]
    done = {table.place(one): one for one in told if "ok" in one}
    lost = {"ok": False, "reason": f"no result: the process {ended}"}
    return [done.get(table.place(one)) or one | lost for one in told if one.get("planned")]


def run_checks(
    file: str, command: list[object], variables: dict, seconds: float, home: pathlib.Path
) -> list[dict]:
    """All checks of one file, in a process of its own."""
    log = home / f"{file}.log"
    # No client asks anything outside this machine while it is checked.
    quiet = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUTF8": "1",
    }
    environment = os.environ | quiet | variables
    ended = "printed none"
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                [str(word) for word in command],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=environment,
                text=True,
                timeout=seconds,
            )
            output, ended = done.stdout, f"ended with status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            output, ended = (error.stdout or b"").decode(), f"did not end within {seconds:.0f} s"
    results = results_of(output.splitlines(), f"{ended}; {log}")
    if not results:
        raise SystemExit(f"{file} has no results: the process {ended}; its log is {log}")
    return results


def main() -> int:
    options = arguments()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    wanted = [
        (file, [installed.python(home, name), HERE / file])
        for file, names in PYTHON.items()
        if options.only in file
        for name in names
    ]
    if any(options.only in file for file in NODE):
        node_home = installed.node(home)
        wanted += [(file, ["node", node_home / file]) for file in NODE if options.only in file]
    results = []
    with servers(options.serve.resolve(), options.bundle.resolve(), home) as variables:
        for file, command in wanted:
            found = run_checks(file, command, variables, options.seconds, home)
            failed = sum(not one["ok"] for one in found)
            print(f"{file}: {len(found) - failed} passed, {failed} failed", flush=True)
            results += found
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.out and not options.only:
        options.out.write_text(table.markdown(results))
    wrong = table.unexpected(results)
    for line in wrong:
        print(line)
    print(f"{len(results) - len(wrong)} as expected, {len(wrong)} not")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
