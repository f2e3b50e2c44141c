"""A drawn checkpoint on the disk: saved by transformers, then spelt and laid out as released ones are."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers import SmolVLMProcessor as FullSmolVLMProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from . import layout, tokens, weights
from .layout import edit, write_json
from .shapes import Drawn


class SmolVLMProcessor(FullSmolVLMProcessor):
    """transformers' processor without its part for videos, which needs torchvision."""

    def __init__(
        self, image_processor, tokenizer, image_seq_len: int = 169, chat_template: str | None = None, **kwargs
    ):
        super().__init__(image_processor, tokenizer, None, image_seq_len, chat_template, **kwargs)
        self.video_processor = SimpleNamespace(num_frames=None, fps=None)


CLASSES = {
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor, SmolVLMImageProcessorPil),
    "idefics3": (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        Idefics3ImageProcessorPil,
    ),
}


def write(drawn: Drawn, directory: Path, vocabulary: int | None = None) -> Path:
    """Writes the checkpoint to `directory`, which must not exist; returns where its files are reached.

    `vocabulary`: rows of the embedding, instead of the tokenizer's length and some to spare.
    """
    plain = layout.place(drawn, directory)
    config_class, model_class, processor_class, image_class = CLASSES[drawn.family]
    # What the tokenizer lacks on disk, the processor may add: it is made first.
    tokenizer = tokens.tokenizer(drawn, vocabulary)
    processor = processor_class(
        image_class(**image_settings(drawn)),
        tokenizer,
        image_seq_len=drawn.rows,
        chat_template=tokens.chat_template(drawn, tokenizer.bos_token),
    )
    config = config_class(**config_of(drawn, tokenizer, vocabulary or len(tokenizer) + drawn.vocab_spare))
    model = model_class(config)
    weights.fill(model, drawn.seed, drawn.tied)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    shards = {"max_shard_size": "100KB"} if drawn.shards else {}
    model.to(getattr(torch, drawn.dtype)).save_pretrained(plain, **shards)
    processor.save_pretrained(plain)
    if drawn.family == "smolvlm":
        add_video_settings(plain, drawn)
    if drawn.old_spelling:
        spell_old(plain, drawn)
    return layout.finish(drawn, directory, plain)


def image_settings(drawn: Drawn) -> dict:
    return {
        "size": {"longest_edge": drawn.longest_edge},
        "max_image_size": {"longest_edge": drawn.tile},
        "do_image_splitting": drawn.splitting,
        "resample": drawn.resample,
        "image_mean": drawn.mean,
        "image_std": drawn.std,
    }


def config_of(drawn: Drawn, tokenizer, vocabulary: int) -> dict:
    text = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": drawn.hidden,
        "intermediate_size": drawn.mlp,
        "num_hidden_layers": drawn.layers,
        "num_attention_heads": drawn.heads,
        "num_key_value_heads": drawn.kv_heads,
        "hidden_act": drawn.act,
        "max_position_embeddings": 8192,
        "rms_norm_eps": drawn.rms_norm_eps,
        "attention_bias": drawn.attention_bias,
        "mlp_bias": drawn.mlp_bias,
        "rope_parameters": drawn.rope,
        "tie_word_embeddings": drawn.text_tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if drawn.head_dim is not None:
        text["head_dim"] = drawn.head_dim
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids(tokens.IMAGE),
        "tie_word_embeddings": drawn.tied,
        "scale_factor": drawn.scale,
        "pad_token_id": tokenizer.pad_token_id,
        "vision_config": {
            "hidden_size": drawn.vision_hidden,
            "intermediate_size": drawn.vision_mlp,
            "num_hidden_layers": drawn.vision_layers,
            "num_attention_heads": drawn.vision_heads,
            "image_size": drawn.patch * drawn.table + drawn.rest,
            "patch_size": drawn.patch,
            "hidden_act": drawn.vision_act,
            "layer_norm_eps": drawn.layer_norm_eps,
        },
        "text_config": text,
    }


def add_video_settings(directory: Path, drawn: Drawn) -> None:
    """The section that transformers writes where torchvision is installed. Nothing reads it here."""
    edit(
        directory / "processor_config.json",
        lambda config: (
            config
            | {
                "video_processor": {
                    "video_processor_type": "SmolVLMVideoProcessor",
                    "do_sample_frames": False,
                    "fps": 1,
                    "num_frames": 64,
                    "max_image_size": {"longest_edge": drawn.tile},
                    "resample": 1,
                    "size": {"longest_edge": drawn.tile},
                }
            }
        ),
    )


def spell_old(directory: Path, drawn: Drawn) -> None:
    """Files as transformers 4 and the released checkpoints have them, with keys that nobody reads."""
    edit(directory / "config.json", lambda config: old_config(config, drawn))
    processor = json.loads((directory / "processor_config.json").read_text())
    pictures = processor.pop("image_processor")
    processor.pop("video_processor", None)
    write_json(directory / "processor_config.json", processor)
    write_json(
        directory / "preprocessor_config.json", pictures | {"processor_class": processor["processor_class"]}
    )
    template = directory / "chat_template.jinja"
    write_json(directory / "chat_template.json", {"chat_template": template.read_text()})
    template.unlink()
    layout.old_tokenizer(directory)


def old_config(config: dict, drawn: Drawn) -> dict:
    text, vision = config["text_config"], config["vision_config"]
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if drawn.head_dim is None:
        # transformers 5 always writes it.
        text.pop("head_dim", None)
    for part in (config, text, vision):
        part["torch_dtype"] = part.pop("dtype", drawn.dtype)
    text |= {
        "neftune_noise_alpha": 0.0,
        "pixel_shuffle_factor": drawn.scale,
        "qk_layer_norms": False,
        "use_resampler": False,
    }
    vision |= {
        "size": {"longest_edge": drawn.longest_edge},
        "tie_word_embeddings": False,
        "use_base_siglip": False,
    }
    return config | {"vocab_size": text["vocab_size"], "transformers_version": "4.47.1"}


def load(family: str, directory: Path) -> tuple:
    """The model, in fp32 whatever the files hold, and the processor, both read from the files."""
    _, model_class, processor_class, image_class = CLASSES[family]
    processor = processor_class.from_pretrained(directory)
    if not isinstance(processor.image_processor, image_class):
        found = type(processor.image_processor).__name__
        raise TypeError(f"expected the PIL image processor, found {found}: is torchvision installed?")
    model = model_class.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), processor
