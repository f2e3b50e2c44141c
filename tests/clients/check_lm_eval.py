"""lm-eval over completions (with a tokenizer of its own or the server's) and over chats."""

import math
import os
import pathlib
import tempfile

import lm_eval
from common import API, MODEL, Checks, main
from lm_eval_tasks import QUESTIONS, answers, tasks

TOKENIZER = os.environ["ARRCOC_BUNDLE"]
FOLDER = tempfile.TemporaryDirectory()
GENERATION, CHOICES = tasks(pathlib.Path(FOLDER.name))
texts = Checks("lm-eval", "lm-eval", "completions")
chats = Checks("lm-eval", "lm-eval", "chat")


def evaluate(task, kind="local-completions", path="/completions", as_chat=False, **arguments):
    arguments = {"model": MODEL, "base_url": API + path, "max_retries": 1, "max_length": 1024} | arguments
    evaluated = lm_eval.simple_evaluate(
        kind,
        model_args=arguments,
        tasks=[task],
        log_samples=True,
        bootstrap_iters=0,
        apply_chat_template=as_chat,
    )
    said = answers(evaluated, task["task"])
    assert len(said) == len(QUESTIONS)
    return said, evaluated["results"][task["task"]]


def own(**arguments):
    return {"tokenizer_backend": "huggingface", "tokenizer": TOKENIZER} | arguments


def check_choices(**arguments):
    said, results = evaluate(CHOICES, **arguments)
    for document, question in zip(said, QUESTIONS, strict=True):
        assert len(document) == len(question["choices"])
        assert all(
            math.isfinite(float(likelihood)) and float(likelihood) < 0 for likelihood, _ in document
        ), document
    assert 0 <= results["acc,none"] <= 1
    return said


@texts("chat", "generation, token ids")
def generation():
    said, _ = evaluate(GENERATION, **own())
    assert all(isinstance(document[0], str) for document in said)


@texts("chat", "generation, batches of texts")
def generation_texts():
    ids, _ = evaluate(GENERATION, **own())
    said, _ = evaluate(GENERATION, **own(tokenized_requests=False, batch_size=3))
    assert said == ids, (said, ids)


@texts("other", "log-likelihood, token ids")
def likelihood():
    check_choices(**own())


@texts("other", "log-likelihood, batches, concurrent")
def likelihood_batches():
    alone, together = check_choices(**own()), check_choices(**own(batch_size=4, num_concurrent=3))
    for one, other in zip(alone, together, strict=True):
        for (first, greedy), (second, same) in zip(one, other, strict=True):
            assert math.isclose(float(first), float(second), abs_tol=1e-3) and greedy == same


@texts("other", "log-likelihood, the server's tokenizer")
def likelihood_remote():
    assert check_choices(tokenizer_backend="remote") == check_choices(**own())


@chats("chat", "generation")
def chat_generation():
    said, _ = evaluate(GENERATION, "local-chat-completions", "/chat/completions", as_chat=True)
    assert all(isinstance(document[0], str) for document in said)


if __name__ == "__main__":
    main()
