"""What is drawn for a seed: shapes of the networks, the processor's settings, the files' spelling."""

import random
from dataclasses import asdict, dataclass

FAMILIES = ("smolvlm", "idefics3")


@dataclass
class Drawn:
    """Everything a checkpoint is made of, but its weights and texts."""

    family: str
    seed: int
    # The tower: `grid` patches of `patch` pixels a side, of which `scale` x `scale` become one row. The last
    # `rest` pixels of a tile are not seen.
    patch: int
    scale: int
    grid: int
    rest: int
    # Side of the table of positions in patches: the grid's, unless the tower was trained at another size.
    table: int
    vision_heads: int
    vision_head_dim: int
    vision_layers: int
    vision_mlp: int
    vision_act: str
    layer_norm_eps: float
    # The decoder. `head_dim` None: not stated in the file.
    heads: int
    kv_heads: int
    head_dim: int | None
    hidden: int
    layers: int
    mlp: int
    act: str
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    # What text_config says of tied weights, which nobody reads.
    text_tied: bool
    rope: dict
    vocab_spare: int
    # The processor.
    longest_edge: int
    splitting: bool
    resample: int
    mean: list[float]
    std: list[float]
    # The tokenizer: "gpt2", "llama3" or "sentencepiece".
    tokenizer: str
    template_writes_bos: bool
    special_structure: bool
    # The files.
    dtype: str
    old_spelling: bool
    shards: bool
    hub_layout: bool

    @property
    def tile(self) -> int:
        """Side of a tile in pixels."""
        return self.patch * self.grid + self.rest

    @property
    def rows(self) -> int:
        """Rows of one tile after the connector."""
        return (self.grid // self.scale) ** 2

    @property
    def vision_hidden(self) -> int:
        return self.vision_heads * self.vision_head_dim

    def facts(self) -> dict:
        return asdict(self)


def draw(family: str, seed: int) -> Drawn:
    """The shapes of a seed."""
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {', '.join(FAMILIES)}, found {family}")
    chance = random.Random(f"{family} {seed}")
    yes = lambda probability: chance.random() < probability  # noqa: E731
    scale = chance.choice([2, 2, 3, 4])
    grid = scale * chance.choice([1, 2, 2, 3] if scale < 4 else [1, 2])
    patch = chance.choice([8, 8, 10, 14, 16])
    rest = chance.choice([0, 0, 0, 2, patch - 2])
    tile = patch * grid + rest
    heads, kv_heads = chance.choice([(4, 4), (4, 2), (4, 1), (3, 1), (6, 2), (2, 2)])
    head_dim = chance.choice([8, 12, 16])
    # A third of the files state a head_dim that is not hidden / heads, a third the one that is, some none.
    stated = chance.choice(["none", "same", "other"])
    hidden = heads * head_dim
    if stated == "other":
        head_dim = chance.choice([size for size in (8, 12, 16, 20) if size != head_dim])
    split = yes(0.75)
    edge = int(tile * chance.choice([1, 1.5, 2, 2, 3, 4]))
    if split and yes(0.08):
        # More tiles than the tokenizer has names for.
        edge = tile * 7
    return Drawn(
        family=family,
        seed=seed,
        patch=patch,
        scale=scale,
        grid=grid,
        rest=rest,
        table=grid if yes(0.85) else grid + chance.choice([1, 2, 5]),
        vision_heads=chance.choice([2, 3, 4]),
        vision_head_dim=chance.choice([8, 12, 16]),
        vision_layers=chance.choice([1, 2, 3]),
        vision_mlp=chance.choice([48, 72, 100]),
        vision_act=chance.choice(["gelu_pytorch_tanh"] * 4 + ["gelu", "quick_gelu"]),
        layer_norm_eps=chance.choice([1e-6, 1e-6, 1e-5]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=None if stated == "none" else head_dim,
        hidden=hidden,
        layers=chance.choice([1, 2, 2, 3]),
        mlp=chance.choice([48, 80, 96, 132]),
        act=chance.choice(["silu"] * 6 + ["gelu_pytorch_tanh", "gelu"]),
        rms_norm_eps=chance.choice([1e-5, 1e-5, 1e-6]),
        attention_bias=yes(0.2),
        mlp_bias=yes(0.15),
        tied=yes(0.4),
        text_tied=yes(0.3),
        rope=rope(chance),
        vocab_spare=chance.choice([0, 0, 7, 64]),
        longest_edge=edge,
        splitting=split,
        resample=chance.choice([1] * 6 + [2, 3]),
        mean=chance.choice([[0.5] * 3] * 3 + [[0.48145466, 0.4578275, 0.40821073]]),
        std=chance.choice([[0.5] * 3] * 3 + [[0.26862954, 0.26130258, 0.27577711]]),
        tokenizer="sentencepiece" if yes(0.2) else ("gpt2" if family == "smolvlm" else "llama3"),
        template_writes_bos=yes(0.6),
        special_structure=yes(0.6),
        dtype=chance.choice(["float32", "bfloat16", "bfloat16"]),
        old_spelling=yes(0.4),
        shards=yes(0.2),
        hub_layout=yes(0.25),
    )


def rope(chance: random.Random) -> dict:
    """`rope_parameters` as transformers 5 has them."""
    parameters = {
        "rope_theta": chance.choice([10000.0, 100000.0, 273768.0, 500000.0]),
        "rope_type": "default",
    }
    kind = chance.random()
    if kind < 0.08:
        parameters |= {"rope_type": "linear", "factor": 4.0}
    elif kind < 0.16:
        parameters |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    return parameters


def real_256m(family: str, seed: int, dtype: str) -> Drawn:
    """SmolVLM-256M's shape."""
    return Drawn(
        family=family,
        seed=seed,
        patch=16,
        scale=4,
        grid=32,
        rest=0,
        table=32,
        vision_heads=12,
        vision_head_dim=64,
        vision_layers=12,
        vision_mlp=3072,
        vision_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        heads=9,
        kv_heads=3,
        head_dim=64,
        hidden=576,
        layers=30,
        mlp=1536,
        act="silu",
        rms_norm_eps=1e-5,
        attention_bias=False,
        mlp_bias=False,
        tied=False,
        text_tied=False,
        rope={"rope_theta": 100000.0, "rope_type": "default"},
        vocab_spare=0,
        longest_edge=2048,
        splitting=True,
        resample=1,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        tokenizer="gpt2",
        template_writes_bos=True,
        special_structure=True,
        dtype=dtype,
        old_spelling=False,
        shards=False,
        hub_layout=False,
    )
