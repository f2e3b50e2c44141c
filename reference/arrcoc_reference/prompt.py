"""A question into token ids, by transformers' tokenizer and the checkpoint's own chat template."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast


class Prompter:
    def __init__(self, checkpoint: str | Path, image_token_id: int):
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(checkpoint))
        self.image_token_id = image_token_id

    def query_ids(self, question: str) -> Tensor:
        """The allocator's question: the text alone, without template or special tokens: [1, Q]."""
        return torch.tensor([self.tokenizer.encode(question, add_special_tokens=False)])

    def prompt_ids(self, question: str) -> Tensor:
        """One image and the question in the chat template, the image still one token: [1, S]."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)])

    def expand(self, prompt_ids: Tensor, tokens: int) -> Tensor:
        """Each image token repeated once per visual token: [1, S] -> [1, S - images + images * T]."""
        repeats = torch.where(prompt_ids[0] == self.image_token_id, tokens, 1)  # [S]
        return prompt_ids[0].repeat_interleave(repeats)[None]
