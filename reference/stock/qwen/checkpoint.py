"""A drawn checkpoint of a Qwen family on the disk: saved by transformers, then spelt as released ones are."""

import json
from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
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


CLASSES = {
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor),
}


def write(drawn: Drawn, directory: Path) -> Path:
    """Writes the checkpoint to `directory`, which must not exist; returns where its files are reached."""
    plain = layout.place(drawn, directory)
    config_class, model_class, processor_class, video_class = CLASSES[drawn.family]
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
    videos = video_class(patch_size=drawn.patch, merge_size=drawn.merge).to_dict()
    edit(plain / "processor_config.json", lambda config: config | {"video_processor": videos})
    edit(plain / "config.json", lambda config: respelt(config, drawn))
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
        "num_position_embeddings": drawn.table**2,
        "deepstack_visual_indexes": drawn.taps,
    }
    if drawn.vision_theta is not None:
        vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": drawn.vision_theta}
    return vision


def text_config(drawn: Drawn, tokenizer) -> dict:
    rope = {"rope_type": "default", "mrope_section": drawn.sections, "mrope_interleaved": True}
    if drawn.theta is not None:
        rope["rope_theta"] = drawn.theta
    return {
        "vocab_size": len(tokenizer) + drawn.vocab_spare,
        "hidden_size": drawn.hidden,
        "intermediate_size": drawn.mlp,
        "num_hidden_layers": drawn.layers,
        "num_attention_heads": drawn.heads,
        "num_key_value_heads": drawn.kv_heads,
        "head_dim": drawn.head_dim,
        "hidden_act": drawn.act,
        "max_position_embeddings": 8192,
        "rms_norm_eps": drawn.rms_norm_eps,
        "attention_bias": drawn.attention_bias,
        "rope_parameters": rope,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def respelt(config: dict, drawn: Drawn) -> dict:
    """config.json as a release has it: theta where it was drawn to be, or nowhere; keys of transformers 4."""
    text, vision = config["text_config"], config["vision_config"]
    text.pop("tie_word_embeddings", None)
    if drawn.text_tied is not None:
        text["tie_word_embeddings"] = drawn.text_tied
    rope = text["rope_parameters"]
    if drawn.theta is None:
        rope.pop("rope_theta")
    if drawn.vision_theta is None:
        vision.pop("rope_parameters", None)
    if drawn.old_config:
        text.pop("rope_parameters")
        theta = rope.pop("rope_theta", None)
        if drawn.rope_spelling == "scaling_type":
            rope["type"] = rope.pop("rope_type")
        text["rope_scaling"] = rope
        if theta is not None:
            text["rope_theta"] = theta
        # The first files called the tower by the whole model's name.
        vision["model_type"] = drawn.family
        for part in (config, text, vision):
            part["torch_dtype"] = part.pop("dtype", drawn.dtype)
        config["transformers_version"] = "4.57.0.dev0"
    return config


def old_files(directory: Path, drawn: Drawn) -> None:
    """The processor's files as transformers 4 has them, the limits spelt as they were drawn to be."""
    processor = json.loads((directory / "processor_config.json").read_text())
    pictures, videos = processor["image_processor"], processor["video_processor"]
    (directory / "processor_config.json").unlink()
    pictures["image_processor_type"] = "Qwen2VLImageProcessorFast"
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
    _, model_class, processor_class, _ = CLASSES[family]
    processor = processor_class.from_pretrained(directory)
    if not isinstance(processor.image_processor, Qwen2VLImageProcessorPil):
        found = type(processor.image_processor).__name__
        raise TypeError(f"expected the PIL image processor, found {found}: is torchvision installed?")
    model = model_class.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), processor
