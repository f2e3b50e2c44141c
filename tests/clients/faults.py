"""Checks that fail by the client's own fault: whose, what, and the line of the client that does it."""

# (client, interface, column, mode): (reason, line in the client's package)
FAULTS = {
    ("instructor", "chat", "structured output", "create_partial, strict"): (
        "a streamed form is validated strictly as Python, where an enum does not take its own text",
        "instructor/v2/dsl/partial.py:135",
    ),
    ("aiperf", "responses", "stream", ""): (
        "it takes token counts from `response.completed` alone, and an answer that its limit ends is told by"
        " `response.incomplete`",
        "aiperf/endpoints/openai_responses.py:464",
    ),
}
# Clients of the list that are not run, and why.
SKIPPED = {
    "guidellm 0.8.1": "its package asks for PyTorch with CUDA",
    "vLLM's own request functions": "they come with vLLM, which asks for PyTorch with CUDA",
    "Open WebUI": "a whole application; its requests are made without it",
}
