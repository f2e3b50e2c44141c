"""Small tokenizers in the forms that the families' real ones have, and their chat templates."""

import random
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from .shapes import Drawn

CORPUS = (
    "What is in this picture? Describe the image in detail, "
    "please. How many people are there? Which colour has the\n"
    "car on the left? The text on the sign says that the shop is "
    "open until nine. There are three dogs and one cat in the garden. Read\n"
    "the number in the table: which value belongs to the second "
    "row? You are a helpful assistant that answers in short sentences. User:\n"
    "Assistant: Compare the two pictures and say what has changed between "
    "them. The chart shows the sales of the last year, and the\n"
    "largest bar is the one in March. I cannot see any animals here; "
    "the street is empty and it is raining. Can you tell me where the\n"
    "photograph was taken? It was probably taken in a large "
    "city, in the evening, since all the lights are on."
)

# The pattern of Llama 3 (and of GPT-4): contractions, words, up to three digits, punctuation, white space.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAKE, IMAGE, GLOBAL, END = "<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"
ROWS_AND_COLUMNS = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]

# Idefics3's own template; SmolVLM's ships with transformers.
IDEFICS3_TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def merges_of(words: Counter, count: int) -> list[tuple[str, str]]:
    """Byte-pair merges of words, which are tuples of symbols. Of equal pairs the first in order is taken."""
    merges = []
    for _ in range(count):
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        joined = Counter()
        for word, times in words.items():
            joined[tuple(join(word, best))] += times
        words = joined
    return merges


def join(word: tuple[str, ...], pair: tuple[str, str]) -> list[str]:
    out, at = [], 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append(pair[0] + pair[1])
            at += 2
        else:
            out.append(word[at])
            at += 1
    return out


def tokenizer(drawn: Drawn, fill_to: int | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a drawn checkpoint. `fill_to`: length to fill the vocabulary to."""
    chance = random.Random(f"tokenizer {drawn.family} {drawn.seed}")
    merges = chance.choice([40, 120, 200])
    make = {"gpt2": gpt2, "llama3": llama3, "sentencepiece": sentencepiece}[drawn.tokenizer]
    backend, names = make(merges, fill_to)
    structure = [GLOBAL, *ROWS_AND_COLUMNS]
    chance.shuffle(structure)
    marks = [FAKE, IMAGE, END]
    chance.shuffle(marks)
    added = structure + marks if chance.random() < 0.5 else marks + structure
    control = [name for name in names.values() if backend.token_to_id(name) is None]
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control])
    add = backend.add_special_tokens if drawn.special_structure else backend.add_tokens
    add([AddedToken(name, normalized=False, special=drawn.special_structure) for name in added])
    if drawn.tokenizer == "sentencepiece":
        backend.add_special_tokens(
            [AddedToken(name, normalized=False, special=True) for name in names.values()]
        )
    if drawn.tokenizer != "gpt2":
        bos = names["bos_token"]
        template = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
        byte_level = [processors.ByteLevel(trim_offsets=True)] if drawn.tokenizer == "llama3" else []
        backend.post_processor = processors.Sequence([*byte_level, template]) if byte_level else template
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        padding_side="left",
        **names,
    )


def byte_level_vocabulary(
    splitter, merges: int, fill_to: int | None
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    words = Counter(tuple(piece) for piece, _ in splitter.pre_tokenize_str(CORPUS))
    pairs = merges_of(words, merges)
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs)]
    # Structure, the marks around it and the three control tokens come behind.
    for filler in range(len(vocabulary), (fill_to or 0) - len(ROWS_AND_COLUMNS) - 7):
        vocabulary.append(f"Ġfiller{filler}")
    return {piece: position for position, piece in enumerate(vocabulary)}, pairs


def gpt2(merges: int, fill_to: int | None) -> tuple[Tokenizer, dict[str, str]]:
    """SmolLM2's form."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    vocabulary, pairs = byte_level_vocabulary(splitter, merges, fill_to)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    names = {
        "bos_token": "<|im_start|>",
        "eos_token": END,
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
    }
    return backend, names


def llama3(merges: int, fill_to: int | None) -> tuple[Tokenizer, dict[str, str]]:
    """Llama 3's form."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary, pairs = byte_level_vocabulary(splitter, merges, fill_to)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=True))
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    names = {"bos_token": "<|begin_of_text|>", "eos_token": END, "pad_token": "<|end_of_text|>"}
    return backend, names


def sentencepiece(merges: int, _fill_to: int | None) -> tuple[Tokenizer, dict[str, str]]:
    """Llama 2's form: the first stretch of a text gets a space in front, unknown letters become bytes."""
    splitter = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    text = "▁" + CORPUS.replace("\n", " ").replace(" ", "▁")
    words = Counter(tuple("▁" + word) for word in text.split("▁") if word)
    pairs = merges_of(words, merges)
    letters = sorted(set(text))
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        *(a + b for a, b in pairs),
    ]
    vocabulary = {piece: position for position, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend, {"bos_token": "<s>", "eos_token": END, "pad_token": "</s>", "unk_token": "<unk>"}


def chat_template(drawn: Drawn, bos: str) -> str:
    """The family's own template, which begins with the tokenizer's BOS or leaves that to the tokenizer."""
    body = (
        DEFAULT_CHAT_TEMPLATE.removeprefix("<|im_start|>") if drawn.family == "smolvlm" else IDEFICS3_TEMPLATE
    )
    # Nothing else writes SmolVLM's: its tokenizer adds none.
    written = drawn.template_writes_bos or drawn.tokenizer == "gpt2"
    return (bos if written else "") + body
