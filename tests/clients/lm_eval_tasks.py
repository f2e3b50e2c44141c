"""Two tasks of lm-eval, over texts that stand here: one that generates, one that weighs choices."""

import json
import pathlib

QUESTIONS = [
    {"question": "Which number belongs to DZ?", "choices": ["284", "122", "07"], "answer": 0},
    {"question": "What is written in the brown diamond?", "choices": ["08", "07"], "answer": 1},
    {"question": "What is the value of LD?", "choices": ["59", "122", "284", "a number"], "answer": 1},
    {"question": "Is the sky blue?", "choices": ["no", "yes"], "answer": 1},
    {"question": "A B C D", "choices": ["E", "E F G H", "1 2 3"], "answer": 1},
]


def tasks(folder: pathlib.Path) -> list[dict]:
    """The configurations of both, their data written to a folder."""
    data = folder / "questions.json"
    data.write_text("\n".join(json.dumps(question) for question in QUESTIONS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "num_fewshot": 0,
    }
    generation = common | {
        "task": "generation",
        "output_type": "generate_until",
        "doc_to_target": " {{choices[answer]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    choices = common | {
        "task": "choices",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    return [generation, choices]


def answers(evaluated: dict, task: str) -> list:
    """What the model said to each document of a task, as lm-eval keeps it."""
    return [sample["filtered_resps"] for sample in evaluated["samples"][task]]
