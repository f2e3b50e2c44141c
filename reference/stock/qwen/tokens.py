"""A small tokenizer of Qwen's form, and chat templates in the structure of the families' own."""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from ..tokens import byte_level_vocabulary
from .shapes import Drawn

IMAGE, VIDEO, VISION_START, VISION_END = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
END, PAD = "<|im_end|>", "<|endoftext|>"
CONTROL = [PAD, "<|im_start|>", END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE, VIDEO]
# Added, but not special: they are part of the text.
PLAIN = ["<tool_call>", "</tool_call>", "<think>", "</think>"]

QWEN3_VL_TEMPLATE = """{%- set pictures = namespace(count=0) %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].content is string %}
        {{- messages[0].content }}
    {%- else %}
        {%- for part in messages[0].content %}
            {%- if 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for part in message.content %}
                {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                    {%- set pictures.count = pictures.count + 1 %}
                    {%- if add_vision_id %}Picture {{ pictures.count }}: {% endif -%}
                    <|vision_start|><|image_pad|><|vision_end|>
                {%- elif 'text' in part %}
                    {{- part.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for part in message.content %}
                {%- if 'text' in part %}
                    {{- part.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TEMPLATES = {"qwen3_vl": QWEN3_VL_TEMPLATE}


def tokenizer(drawn: Drawn) -> PreTrainedTokenizerFast:
    """The tokenizer of a drawn checkpoint: its marks stand in a drawn order behind the merges."""
    chance = random.Random(f"tokenizer {drawn.family} {drawn.seed}")
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary, pairs = byte_level_vocabulary(splitter, chance.choice([40, 120, 200]), None)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    marks = CONTROL + PLAIN
    chance.shuffle(marks)
    for mark in marks:
        add = backend.add_tokens if mark in PLAIN else backend.add_special_tokens
        add([AddedToken(mark, normalized=False, special=mark not in PLAIN)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        eos_token=END,
        pad_token=PAD,
    )
