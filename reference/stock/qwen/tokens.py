"""A small tokenizer of Qwen's form, and chat templates in the structure of the families' own."""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2 import tokenization_qwen2
from transformers.models.qwen3_5 import tokenization_qwen3_5

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
# The system prompt that stands where the conversation has none is the family's own.
QWEN2_5_VL_TEMPLATE = (
    "{% set pictures = namespace(count=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set pictures.count = pictures.count + 1 %}"
    "{% if add_vision_id %}Picture {{ pictures.count }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

QWEN3_5_TEMPLATE = """{%- set pictures = namespace(count=0) %}
{%- macro rendered(content, counts, is_system=false) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for part in content %}
            {%- if 'image' in part or 'image_url' in part or part.type == 'image' %}
                {%- if is_system %}
                    {{- raise_exception('A system message cannot hold images.') }}
                {%- endif %}
                {%- if counts %}
                    {%- set pictures.count = pictures.count + 1 %}
                {%- endif %}
                {%- if add_vision_id %}
                    {{- 'Picture ' ~ pictures.count ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- else %}
                {{- raise_exception('A part is neither text nor image.') }}
            {%- endif %}
        {%- endfor %}
    {%- elif content is none or content is undefined %}
        {{- '' }}
    {%- else %}
        {{- raise_exception('The content is neither text nor a list.') }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}
    {{- raise_exception('There are no messages.') }}
{%- endif %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + rendered(messages[0].content, false, true)|trim + '<|im_end|>\n' }}
{%- endif %}
{%- set last = namespace(query=messages|length - 1, sought=true) %}
{%- for message in messages[::-1] %}
    {%- if last.sought and message.role == 'user' %}
        {%- set content = rendered(message.content, false)|trim %}
        {%- if not (content.startswith('<tool_response>') and content.endswith('</tool_response>')) %}
            {%- set last.sought = false %}
            {%- set last.query = messages|length - 1 - loop.index0 %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = rendered(message.content, true)|trim %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('A system message comes first.') }}
        {%- endif %}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > last.query %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + thoughts|trim + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- raise_exception('Nobody has the role ' ~ message.role ~ '.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- else %}
        {{- '<think>\n' }}
    {%- endif %}
{%- endif %}
"""
TEMPLATES = {
    "qwen3_vl": QWEN3_VL_TEMPLATE,
    "qwen2_5_vl": QWEN2_5_VL_TEMPLATE,
    "qwen3_5": QWEN3_5_TEMPLATE,
}


def tokenizer(drawn: Drawn) -> PreTrainedTokenizerFast:
    """The tokenizer of a drawn checkpoint: its marks stand in a drawn order behind the merges."""
    chance = random.Random(f"tokenizer {drawn.family} {drawn.seed}")
    source = tokenization_qwen3_5 if drawn.family == "qwen3_5" else tokenization_qwen2
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(source.PRETOKENIZE_REGEX), behavior="isolated"),
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
