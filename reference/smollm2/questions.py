"""Twenty questions, answered greedily by transformers in fp32: 64 tokens each, past any end.

    python -m smollm2.questions --checkpoints ../target/smollm2 --out ../target/smollm2/questions.json

Each is asked twice: of `llama/` in SmolLM2's own chat form, which it was trained on, and of `smolvlm/` in
SmolVLM's. `margin` is the least distance between the two best logits of a step: where it is small, other
arithmetic may go on differently, and rightly so. Run it in `reference/`.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from stock import checkpoint, golden
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = [
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "How many days are in a week?",
    "Write one sentence about the sea.",
    "What is 7 plus 5?",
    "Explain what a computer is to a child.",
    "Who wrote Romeo and Juliet?",
    "What do bees make?",
    "Translate 'good morning' into French.",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "What is the opposite of hot?",
    "List the planets of the solar system.",
    "Write a haiku about autumn.",
    "What is photosynthesis?",
    "Tell me a short joke.",
    "How does a bicycle stay upright?",
    "What is the boiling point of water in degrees Celsius?",
    "Write a Python function that adds two numbers.",
    "Summarise the story of Cinderella in two sentences.",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    llama = AutoModelForCausalLM.from_pretrained(args.checkpoints / "llama", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoints / "llama")
    smolvlm, processor = checkpoint.load("smolvlm", args.checkpoints / "smolvlm")
    content = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        parts = golden.for_transformers(messages, args.checkpoints)
        vision = processor.apply_chat_template(
            parts, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        answers = {
            "llama": answer(llama, tokenizer, chat),
            "smolvlm": answer(smolvlm, processor.tokenizer, vision["input_ids"][0]),
        }
        content.append({"question": question} | answers)
        print(f"{question} {answers['llama']['text'].split('<|im_end|>')[0]!r}", flush=True)
    args.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@torch.no_grad()
def answer(model, tokenizer, input_ids: list[int]) -> dict:
    greedy, margin = golden.decode(model, torch.tensor([input_ids]), {})
    return {"input_ids": input_ids, "greedy": greedy, "margin": margin, "text": tokenizer.decode(greedy)}


if __name__ == "__main__":
    main()
