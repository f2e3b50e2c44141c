"""The table of clients: one row per client and interface, with the reason of whatever does not work below."""

from faults import FAULTS, SKIPPED

COLUMNS = ("chat", "stream", "image first", "text first", "structured output", "tools", "errors", "other")
INTERFACES = {
    "chat": "`/v1/chat/completions`",
    "responses": "`/v1/responses`",
    "completions": "`/v1/completions`",
    "messages": "`/v1/messages`",
    "api": "`/api/*`",
}
ABOUT = """# Clients

What the clients that people use do with the server, each by the version that its lock in
`tests/clients/requirements` or `tests/clients/node` pins. Made by `python tests/clients/run.py` (see there);
do not edit it by hand.

Each cell tells how many checks ran; what they are named after is listed below the table. "text first" is a
message whose text stands before its image, as most clients' documentation has it; both orders must give the
page's own answer. "structured output" has every mode that the client has, "tools" is a conversation of two
steps (the model calls, the function runs, the answer comes), "errors" a wrong field whose message must arrive
in the client's own type of error.

The model is the trained ledger checkpoint. It was not trained to call, nor to end a JSON object that nothing
bounds. So calls are required: by the client's own means, or, where it has none, by `tests/clients/relay.py`,
which adds `tool_choice` on the way (aisuite, DSPy, instructor's parallel mode, LlamaIndex's streamed form,
`llm`, Ollama's clients, Anthropic's and OpenAI's tool runners). And modes that ask for any object are asked
until an answer ends. lm-eval's numbers beside those that it computes with transformers:
`tests/clients/lm_eval_reference.py`.
"""


def place(result: dict) -> tuple:
    return tuple(result[name] for name in ("client", "version", "api", "column", "mode"))


def fault(result: dict) -> tuple[str, str] | None:
    return FAULTS.get((result["client"], result["api"], result["column"], result["mode"]))


def unexpected(results: list[dict]) -> list[str]:
    """A line for every check whose outcome is not the known one."""
    lines = []
    for result in results:
        where = " | ".join(part for part in place(result) if part)
        if not result["ok"] and not fault(result):
            lines.append(f"FAILED {where}: {result['reason']}")
        if result["ok"] and fault(result):
            lines.append(f"WORKS, but is listed in faults.py: {where}")
    return lines


def cell(results: list[dict], notes: list[str]) -> str:
    if not results:
        return ""
    failed = [result for result in results if not result["ok"]]
    marks = []
    for result in failed:
        known = fault(result)
        text = f"{known[0]} (`{known[1]}`)" if known else result["reason"].replace("|", "\\|")
        named = ", ".join(part for part in (result["column"], result["mode"]) if part)
        notes.append(
            f"{result['client']} {result['version']}, {INTERFACES[result['api']]}, {named}: "
            + ("the client's own fault: " if known else "FAILS: ")
            + text
        )
        marks.append(f"[{len(notes)}]")
    works = len(results) - len(failed)
    if not failed:
        return "works" if works == 1 else f"works ({works})"
    return " ".join([f"{works} of {len(results)} work", *marks])


def modes(results: list[dict]) -> list[str]:
    """For each row, the modes of those columns that have several."""
    lines = []
    for client, version, api in rows(results):
        mine = [
            result
            for result in results
            if (result["client"], result["version"], result["api"]) == (client, version, api)
        ]
        parts = []
        for column in COLUMNS:
            names = [result["mode"] for result in mine if result["column"] == column and result["mode"]]
            if names:
                parts.append(f"{column}: {'; '.join(names)}")
        if parts:
            lines.append(f"- {client} {version}, {INTERFACES[api]}: {'. '.join(parts)}.")
    return lines


def rows(results: list[dict]) -> list[tuple]:
    return list(dict.fromkeys((result["client"], result["version"], result["api"]) for result in results))


def markdown(results: list[dict]) -> str:
    notes: list[str] = []
    lines = [ABOUT, "| client | interface | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for client, version, api in rows(results):
        mine = [
            result
            for result in results
            if (result["client"], result["version"], result["api"]) == (client, version, api)
        ]
        cells = [cell([result for result in mine if result["column"] == column], notes) for column in COLUMNS]
        lines.append(f"| {client} {version} | {INTERFACES[api]} | " + " | ".join(cells) + " |")
    if notes:
        lines += ["", "## What does not work", "", *(f"{at}. {note}" for at, note in enumerate(notes, 1))]
    lines += ["", "## Not run", "", *(f"- {name}: {reason}." for name, reason in SKIPPED.items())]
    lines += ["", "## What the checks are named after", "", *modes(results)]
    return "\n".join(lines) + "\n"
