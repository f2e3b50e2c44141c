"""Writes a random arr_coc_ovis checkpoint from PyTorch.

Independent of `arrcoc-export init`: where each can read what the other wrote, both understand the format alike.

    python write_checkpoint.py --out DIR [--seed N] [--dtype bfloat16] [--set text_config.hidden_size=128 ...]
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from arrcoc_reference import ArrCocOvis

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
SCORERS = ("propositional", "perspectival", "participatory")
IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# The preset arr-coc-ovis-tiny.
TINY = {
    "architectures": ["ArrCocOvisForConditionalGeneration"],
    "model_type": "arr_coc_ovis",
    "dtype": "float32",
    "image_token_id": 261,
    "token_budgets": [64, 100, 160, 256, 400],
    "image_sizes": [512, 640, 800, 1024, 1280],
    "vision_config": {
        "model_type": "sam_vision_model",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_dim": 256,
        "image_size": 512,
        "patch_size": 16,
        "num_channels": 3,
        "window_size": 7,
        "global_attn_indexes": [1, 3],
        "output_channels": 64,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_abs_pos": True,
        "use_rel_pos": True,
    },
    "allocator_config": {"hidden_size": 32, "num_attention_heads": 2},
    "compressor_config": {"hidden_size": 64, "gist_grid": 4},
    "clip_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "image_size": 224,
        "patch_size": 14,
        "num_channels": 3,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "adapter_config": {"hidden_size": 96, "target_mean": 0.0, "target_std": 0.02, "target_sparsity": 0.0},
    "text_config": {
        "model_type": "qwen3",
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "vocab_size": 320,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
    },
}

# Qwen-VL's form. The image goes where the message has it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or part.type == 'image_url' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def byte_tokens() -> list[str]:
    """GPT-2's 256 printable stand-ins for bytes, in the order of its vocabulary (`bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def tokenizer() -> Tokenizer:
    """Byte-level BPE without merges: one token per byte, ids 0 to 255, then the special tokens."""
    tok = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(byte_tokens())}, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tok


def write_assets(directory: Path, image_size: int, tok: Tokenizer) -> None:
    """Everything of a checkpoint besides config.json and the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tok.save(str(directory / "tokenizer.json"))
    end, eos = tok.token_to_id("<|endoftext|>"), tok.token_to_id("<|im_end|>")
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
        },
        "generation_config.json": {"eos_token_id": [eos, end], "pad_token_id": end, "do_sample": False},
        "preprocessor_config.json": {
            "image_processor_type": "SamImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_pad": True,
            "image_mean": IMAGE_MEAN,
            "image_std": IMAGE_STD,
            "rescale_factor": 1 / 255,
            "resample": 2,
            "size": {"longest_edge": image_size},
            "pad_size": {"height": image_size, "width": image_size},
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)


@torch.no_grad()
def randomize(model: ArrCocOvis, seed: int) -> None:
    """Values at which every path of the network shows in its output; a freshly built model has zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.checkpoint_names().items():
        noise = torch.randn(parameter.shape, generator=generator)
        leaf, module = name.rsplit(".", 1)[-1], name.rsplit(".", 2)[-2]
        if "norm" in module and leaf == "weight":
            value = 1 + 0.1 * noise
        elif leaf in ("scale", "prior_sharpness"):
            value = 1 + 0.1 * noise
        elif leaf == "threshold":
            value = 0.1 * noise.abs()
        elif leaf in ("bias", "shift") or leaf.endswith("_gain"):
            value = 0.1 * noise
        elif leaf in ("pos_embed", "class_embedding") or "rel_pos" in leaf or "position_embedding" in module:
            value = 0.1 * noise
        elif module in ("embed_tokens", "relevance_embed", "kind_embed"):
            value = (0.02 if module == "embed_tokens" else 0.1) * noise
        else:
            # [E, out, in] of experts, or [out, in, ...] of linears and convolutions.
            stacked = noise.dim() == 3 and not name.endswith("context.weight")
            fan_in = noise.shape[-1] if stacked else noise[0].numel()
            value = noise / fan_in**0.5
            # Relevances spread over more of 0..1: make_goldens.py refuses those that lie too close together.
            if module == "fc2" and any(scorer in name for scorer in SCORERS):
                value = 3 * value
        parameter.copy_(value)


def override(config: dict, setting: str) -> None:
    path, value = setting.split("=", 1)
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    if key not in config:
        raise SystemExit(f"--set {setting}: expected one of {', '.join(config)}, found {key}")
    config[key] = json.loads(value)


def write_checkpoint(directory: Path, config: dict, seed: int, dtype: torch.dtype = torch.float32) -> None:
    model = ArrCocOvis(config)
    randomize(model, seed)
    model.save_pretrained(directory, dtype)
    write_assets(directory, config["vision_config"]["image_size"], tokenizer())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=JSON", help="change the tiny preset")
    args = parser.parse_args()
    config = json.loads(json.dumps(TINY))
    for setting in args.set:
        override(config, setting)
    write_checkpoint(args.out, config, args.seed, getattr(torch, args.dtype))


if __name__ == "__main__":
    main()
