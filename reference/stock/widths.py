"""Checkpoints as wide as the released ones: every size of a layer is theirs, the layers are few.

What a seed draws beside that (texts, spelling of the files, tokenizer) stays drawn, so the vocabulary is small.
"""

from dataclasses import replace

from . import families, qwen, shapes

# A picture of 512 x 512, and small ones in several turns.
CONVERSATIONS = ["large", "turns"]
# Texts are tried until an answer wanders; an answer of this size takes seconds.
TRIES = 8
# Files as transformers 5 writes them: one, where it belongs.
PLAIN = {"shards": False, "hub_layout": False, "dtype": "bfloat16"}
# Released towers of Qwen3-VL and Qwen3.5.
TOWER = {"patch": 16, "merge": 2, "table": 48, "vision_layers": 4, "vision_act": "gelu_pytorch_tanh"}
CENTRED = {"mean": [0.5] * 3, "std": [0.5] * 3}
TEXT = {"act": "silu", "rms_norm_eps": 1e-6, "attention_bias": False, "tied": True, "text_tied": True}
QWEN = {
    # Qwen3-VL-2B, with taps of three blocks for three layers.
    "qwen3_vl": TOWER
    | CENTRED
    | TEXT
    | {
        "vision_heads": 16,
        "vision_head_dim": 64,
        "vision_mlp": 4096,
        "taps": [0, 1, 2],
        "hidden": 2048,
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "layers": 4,
        "mlp": 6144,
        "theta": 5e6,
        "sections": [24, 20, 20],
        "min_pixels": 65536,
        "max_pixels": 16777216,
    },
    # Qwen2.5-VL-3B: of four blocks two see all.
    "qwen2_5_vl": TOWER
    | TEXT
    | {
        "patch": 14,
        "table": 0,
        "vision_heads": 16,
        "vision_head_dim": 80,
        "vision_mlp": 3420,
        "vision_act": "silu",
        "window": 112,
        "full_blocks": [1, 3],
        "hidden": 2048,
        "heads": 16,
        "kv_heads": 2,
        "head_dim": 128,
        "layers": 3,
        "mlp": 11008,
        "theta": 1e6,
        "sections": [16, 24, 24],
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
    # Qwen3.5-0.8B: every fourth layer has attention.
    "qwen3_5": TOWER
    | CENTRED
    | TEXT
    | {
        "vision_heads": 12,
        "vision_head_dim": 64,
        "vision_mlp": 3072,
        "hidden": 1024,
        "heads": 8,
        "kv_heads": 2,
        "head_dim": 256,
        "partial": 0.25,
        "partial_named": True,
        "layers": 8,
        "interval": 4,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
        "linear": [16, 16, 128, 128, 4],
        "mlp": 3584,
        "theta": 1e7,
        "sections": [11, 11, 10],
        "min_pixels": 65536,
        "max_pixels": 16777216,
    },
}
# Pictures become four tiles and the view of the whole at most.
TILES = {
    "smolvlm": {"layers": 6, "vision_layers": 4, "longest_edge": 1024},
    # Idefics3-8B.
    "idefics3": {
        "patch": 14,
        "scale": 2,
        "grid": 26,
        "table": 26,
        "vision_heads": 16,
        "vision_head_dim": 72,
        "vision_layers": 2,
        "vision_mlp": 4304,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "hidden": 4096,
        "layers": 1,
        "mlp": 14336,
        "rope": {"rope_theta": 500000.0, "rope_type": "default"},
        "tokenizer": "llama3",
        "longest_edge": 728,
    },
}


def draw(family: str, seed: int) -> families.Drawn:
    """The widths of a family's released checkpoint; what has no width is drawn."""
    if family in QWEN:
        return replace(qwen.shapes.draw(family, seed), **QWEN[family] | PLAIN)
    return replace(shapes.real_256m(family, seed, PLAIN["dtype"]), **TILES[family])
