"""What transformers makes of a conversation: ids, pixels, visual rows, logits and 64 greedy tokens."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import qwen
from .conversations import Conversation

STEPS = 64
# The two best logits of every greedy step differ by more than rounding could move them.
MIN_MARGIN = 2e-3


@dataclass
class Golden:
    """One conversation. `tensors` has no prefix yet."""

    conversation: Conversation
    sizes: dict
    input_ids: list[int]
    greedy: list[int]
    margin: float
    tensors: dict[str, Tensor]

    def entry(self) -> dict:
        template = self.conversation.template
        return {
            "name": self.conversation.name,
            "messages": self.conversation.messages,
            **({"chat_template_kwargs": template} if template else {}),
            **({"mm_processor_kwargs": self.sizes} if self.sizes else {}),
            "input_ids": self.input_ids,
            "greedy": self.greedy,
            "margin": round(self.margin, 5),
            "tensors": {kind: f"{self.conversation.name}.{kind}" for kind in self.tensors},
        }


@torch.no_grad()
def answer(model, processor, conversation: Conversation, directory: Path) -> Golden | None:
    """Runs the conversation, whose pictures lie in `directory`. None: the answer holds an image token, or
    rounding could change it."""
    sizes = conversation.sizes(processor)
    encoded = processor.apply_chat_template(
        for_transformers(conversation.messages, directory),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images_kwargs": sizes},
        **conversation.template,
    )
    is_qwen = model.config.model_type in qwen.shapes.FAMILIES
    tensors, rows = qwen.inputs.see(model, encoded) if is_qwen else tiles(model, encoded)
    input_ids = encoded["input_ids"]  # [1, S]
    greedy, margin = decode(model, input_ids, rows)
    if model.config.image_token_id in greedy or margin < MIN_MARGIN:
        # With image tokens it cannot be read again in one piece: they would ask for pictures.
        return None
    # Once more in one piece, teacher-forced: no cache, so what the steps above did is checked too.
    whole = torch.cat([input_ids, torch.tensor([greedy])], dim=1)  # [1, S + 64]
    rows = qwen.inputs.longer(rows, STEPS)
    logits = model(input_ids=whole, **rows, use_cache=False).logits[0, input_ids.shape[1] - 1 :]  # [65, V]
    if logits[:-1].argmax(-1).tolist() != greedy:
        raise ArithmeticError(f"{conversation.name}: greedy tokens with and without a cache differ")
    tensors |= {"logits": logits[0], "step_logits": logits[1:]}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return Golden(conversation, sizes, input_ids[0].tolist(), greedy, margin, contiguous)


def tiles(model, encoded) -> tuple[dict[str, Tensor], dict]:
    """Of a family whose pictures are tiles: the tensors to keep of a prompt, and the model's inputs."""
    if "pixel_values" not in encoded:
        return {}, {}
    tensors = {"pixel_values": encoded["pixel_values"][0]}  # [tiles, 3, side, side]
    pictures = {name: encoded[name] for name in ("pixel_values", "pixel_attention_mask")}
    mask = encoded["pixel_attention_mask"][0]  # [tiles, side, side]
    if not bool(mask.all()):
        tensors["pixel_attention_mask"] = mask.to(torch.uint8)
    features = model.get_image_features(**pictures, return_dict=True)
    tensors["image_features"] = torch.cat(features.pooler_output)  # [rows, H]
    # The tower runs once: this is what the model makes of pixels by itself.
    return tensors, {"mm_encoder_outputs": {"image": features}}


def decode(model, input_ids: Tensor, rows: dict) -> tuple[list[int], float]:
    """64 greedy tokens, past any end of the answer, and the least distance between two best logits."""
    greedy, margin, cache, inputs = [], float("inf"), None, rows
    for _ in range(STEPS):
        output = model(input_ids=input_ids, past_key_values=cache, use_cache=True, **inputs)
        best = output.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        greedy.append(best.indices[0].item())
        input_ids, cache, inputs = best.indices[:1][None], output.past_key_values, {}
    return greedy, margin


def for_transformers(messages: list[dict], directory: Path) -> list[dict]:
    """The same messages with absolute paths. A lone text becomes a list of one part: the families' templates
    read lists, and would render a string as nothing."""
    messages = copy.deepcopy(messages)
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
        for part in message["content"]:
            if part["type"] == "image_url":
                part["image_url"]["url"] = str(directory / part["image_url"]["url"])
    return messages


def wanders(greedy: list[int]) -> bool:
    """Whether an answer is more than a few tokens over and over."""
    repeats = sum(one == other for one, other in zip(greedy, greedy[1:]))
    return len(set(greedy)) >= 12 and repeats <= len(greedy) // 2
