"""A drawn checkpoint of a Qwen family on the disk: saved by transformers, then spelt as released ones are."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers import Qwen2_5_VLProcessor as FullQwen2_5_VLProcessor
from transformers import Qwen3VLProcessor as FullQwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from .. import layout
from ..layout import edit, write_json
from . import tokens, weights
from .shapes import Drawn


class Qwen3VLProcessor(FullQwen3VLProcessor):
    """transformers' processor without its part for videos, which needs torchvision."""

    def __init__(self, image_processor, tokenizer, chat_template: str | None = None, **kwargs):
        super().__init__(image_processor, tokenizer, None, chat_template, **kwargs)


class Qwen2_5_VLProcessor(FullQwen2_5_VLProcessor):
    """As above."""

    def __init__(self, image_processor, tokenizer, chat_template: str | None = None, **kwargs):
        super().__init__(image_processor, tokenizer, None, chat_template, **kwargs)


CLASSES = {
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
    "qwen3_5": (Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLProcessor),
}


def write(drawn: Drawn, directory: Path) -> Path:
    """Writes the checkpoint to `directory`, which must not exist; returns where its files are reached."""
    plain = layout.place(drawn, directory)
    config_class, model_class, processor_class = CLASSES[drawn.family]
    tokenizer = tokens.tokenizer(drawn)
    processor = processor_class(
        image_processor=Qwen2VLImageProcessorPil(**image_settings(drawn)),
        tokenizer=tokenizer,
        chat_template=tokens.TEMPLATES[drawn.family],
    )
    model = model_class(config_class(**config_of(drawn, tokenizer)))
    weights.fill(model, drawn.seed, drawn.tied)
    model.generation_config.update(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    shards = {"max_shard_size": "100KB"} if drawn.shards else {}
    model.to(getattr(torch, drawn.dtype)).save_pretrained(plain, **shards)
    processor.save_pretrained(plain)
    # The section that transformers writes where torchvision is installed.
    videos = video_settings(drawn)
    edit(plain / "processor_config.json", lambda config: config | {"video_processor": videos})
    edit(plain / "config.json", lambda config: respelt(config, drawn))
    if drawn.family != "qwen3_vl":
        respelt_keys(plain, drawn)
    if drawn.old_files:
        old_files(plain, drawn)
    return layout.finish(drawn, directory, plain)


def image_settings(drawn: Drawn) -> dict:
    return {
        "size": {"shortest_edge": drawn.min_pixels, "longest_edge": drawn.max_pixels},
        "patch_size": drawn.patch,
        "merge_size": drawn.merge,
        "temporal_patch_size": 2,
        "image_mean": drawn.mean,
        "image_std": drawn.std,
    }


def video_settings(drawn: Drawn) -> dict:
    settings = Qwen3VLVideoProcessor(patch_size=drawn.patch, merge_size=drawn.merge).to_dict()
    if drawn.family == "qwen2_5_vl":
        # Its class cannot be imported without torchvision; it has none of these.
        settings.pop("max_video_tokens")
        settings |= {"video_processor_type": "Qwen2VLVideoProcessor"}
    return settings


def config_of(drawn: Drawn, tokenizer) -> dict:
    """What the model's configuration is made from. `respelt` changes the file's spelling, and no meaning."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in [
            ("image", tokens.IMAGE),
            ("video", tokens.VIDEO),
            ("vision_start", tokens.VISION_START),
            ("vision_end", tokens.VISION_END),
        ]
    }
    return {
        **ids,
        "tie_word_embeddings": drawn.tied,
        "vision_config": vision_config(drawn),
        "text_config": text_config(drawn, tokenizer),
    }


def vision_config(drawn: Drawn) -> dict:
    vision = {
        "depth": drawn.vision_layers,
        "hidden_size": drawn.vision_hidden,
        "intermediate_size": drawn.vision_mlp,
        "num_heads": drawn.vision_heads,
        "hidden_act": drawn.vision_act,
        "patch_size": drawn.patch,
        "spatial_merge_size": drawn.merge,
        "temporal_patch_size": 2,
        "out_hidden_size": drawn.hidden,
    }
    if drawn.table:
        vision["num_position_embeddings"] = drawn.table**2
    if drawn.family == "qwen3_vl":
        vision["deepstack_visual_indexes"] = drawn.taps
    if drawn.family == "qwen2_5_vl":
        vision |= {"window_size": drawn.window, "fullatt_block_indexes": drawn.full_blocks}
    if drawn.vision_theta is not None:
        vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": drawn.vision_theta}
    return vision


def text_config(drawn: Drawn, tokenizer) -> dict:
    rope = {"rope_type": "default", "mrope_section": drawn.sections}
    if drawn.theta is not None:
        rope["rope_theta"] = drawn.theta
    text = {
        "vocab_size": len(tokenizer) + drawn.vocab_spare,
        "hidden_size": drawn.hidden,
        "intermediate_size": drawn.mlp,
        "num_hidden_layers": drawn.layers,
        "num_attention_heads": drawn.heads,
        "num_key_value_heads": drawn.kv_heads,
        "hidden_act": drawn.act,
        "max_position_embeddings": 8192,
        "rms_norm_eps": drawn.rms_norm_eps,
        "rope_parameters": rope,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if drawn.family == "qwen2_5_vl":
        return text | {"tie_word_embeddings": drawn.tied}
    rope["mrope_interleaved"] = True
    text |= {"head_dim": drawn.head_dim, "attention_bias": drawn.attention_bias}
    if drawn.family == "qwen3_5":
        rope["partial_rotary_factor"] = drawn.partial
        text |= {"layer_types": drawn.layer_types} | linear_sizes(drawn)
    return text


def linear_sizes(drawn: Drawn) -> dict:
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim")
    return {f"linear_{name}": size for name, size in zip(names, drawn.linear, strict=True)}


def respelt(config: dict, drawn: Drawn) -> dict:
    """config.json as a release has it: theta where it was drawn to be, or nowhere; keys of transformers 4."""
    text, vision = config["text_config"], config["vision_config"]
    text.pop("tie_word_embeddings", None)
    if drawn.text_tied is not None:
        text["tie_word_embeddings"] = drawn.text_tied
    if drawn.theta is None:
        text["rope_parameters"].pop("rope_theta")
    if not drawn.partial_named:
        text["rope_parameters"].pop("partial_rotary_factor")
        text.pop("partial_rotary_factor", None)
    if drawn.interval is not None:
        text.pop("layer_types")
        text["full_attention_interval"] = drawn.interval
    if drawn.vision_theta is None:
        vision.pop("rope_parameters", None)
    if drawn.old_config:
        old_rope(text, drawn)
        # The first files called the tower by the whole model's name.
        vision["model_type"] = drawn.family
        for part in (config, text, vision):
            part["torch_dtype"] = part.pop("dtype", drawn.dtype)
        config["transformers_version"] = "4.57.0.dev0"
    return flat(config, drawn) if drawn.flat_config else config


def old_rope(text: dict, drawn: Drawn) -> None:
    """`rope_scaling`, with theta and the rotated part beside it."""
    rope = text.pop("rope_parameters")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            text[name] = rope.pop(name)
    if drawn.rope_spelling == "scaling_type":
        rope["type"] = rope.pop("rope_type")
        if drawn.family == "qwen2_5_vl":
            rope["type"] = "mrope"
    text["rope_scaling"] = rope


def flat(config: dict, drawn: Drawn) -> dict:
    """The decoder's keys beside the whole model's, as in the first files of Qwen2.5-VL."""
    text = config.pop("text_config")
    vision = config["vision_config"] | {"in_chans": 3, "spatial_patch_size": drawn.patch}
    for name in ("layer_types", "model_type", "tie_word_embeddings"):
        text.pop(name, None)
    return text | config | {"vision_config": vision}


def respelt_keys(directory: Path, drawn: Drawn) -> None:
    """Names of the weights as a release has them, and weights that belong to nothing here."""
    for file in sorted(directory.glob("*.safetensors")):
        tensors = {spelling(name, drawn): tensor for name, tensor in load_file(file).items()}
        if drawn.mtp and "model.language_model.norm.weight" in tensors:
            norm = tensors["model.language_model.norm.weight"]
            tensors |= {
                "mtp.norm.weight": norm.clone(),
                "mtp.fc.weight": torch.outer(norm, norm).repeat(1, 2),
            }
        save_file(tensors, file, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = {
            name: file.name for file in sorted(directory.glob("*.safetensors")) for name in load_file(file)
        }
        edit(index, lambda content: content | {"weight_map": dict(sorted(files.items()))})


def spelling(name: str, drawn: Drawn) -> str:
    """transformers saves Qwen2.5-VL by its first names, and reads both."""
    if drawn.family != "qwen2_5_vl" or drawn.old_keys or name.startswith("lm_head."):
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def old_files(directory: Path, drawn: Drawn) -> None:
    """The processor's files as transformers 4 has them, the limits spelt as they were drawn to be."""
    processor = json.loads((directory / "processor_config.json").read_text())
    pictures, videos = processor["image_processor"], processor["video_processor"]
    (directory / "processor_config.json").unlink()
    fast = "" if drawn.family == "qwen2_5_vl" else "Fast"
    pictures["image_processor_type"] = f"Qwen2VLImageProcessor{fast}"
    if drawn.limits != "size":
        pictures |= {"min_pixels": drawn.min_pixels, "max_pixels": drawn.max_pixels}
        pictures["size"] = {"shortest_edge": 3 * drawn.factor**2, "longest_edge": 5 * drawn.factor**2}
    if drawn.limits == "pixels":
        pictures.pop("size")
    named = {"processor_class": processor["processor_class"]}
    write_json(directory / "preprocessor_config.json", pictures | named)
    write_json(directory / "video_preprocessor_config.json", videos | named)
    template = directory / "chat_template.jinja"
    write_json(directory / "chat_template.json", {"chat_template": template.read_text()})
    template.unlink()
    layout.old_tokenizer(directory)


def load(family: str, directory: Path) -> tuple:
    """The model, in fp32 whatever the files hold, and the processor, both read from the files."""
    _, model_class, processor_class = CLASSES[family]
    processor = processor_class.from_pretrained(directory)
    if not isinstance(processor.image_processor, Qwen2VLImageProcessorPil):
        found = type(processor.image_processor).__name__
        raise TypeError(f"expected the PIL image processor, found {found}: is torchvision installed?")
    model, found = model_class.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if found["missing_keys"] or found["unexpected_keys"] or found["mismatched_keys"]:
        raise ValueError(f"expected every weight to find its place, found {found}")
    return model.eval(), processor
