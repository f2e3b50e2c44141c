"""What is drawn for a seed of a Qwen family: networks, positions, limits of the processor, spelling of the files."""

import random
from dataclasses import asdict, dataclass, field

FAMILIES = ("qwen3_vl",)
# What a file's decoder rotates by where it names no theta.
DEFAULT_THETA = {"qwen3_vl": 500000.0}


@dataclass
class Drawn:
    """Everything a checkpoint is made of, but its weights and texts."""

    family: str
    seed: int
    # The tower: patches of `patch` pixels a side, of which `merge` x `merge` become one row.
    patch: int
    merge: int
    # Side of the table of positions, which is stretched or shrunk to a picture's grid.
    table: int
    # Blocks whose output is added behind the decoder's first layers.
    taps: list[int]
    vision_heads: int
    vision_head_dim: int
    vision_layers: int
    vision_mlp: int
    vision_act: str
    vision_theta: float | None
    # The decoder.
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    layers: int
    mlp: int
    act: str
    rms_norm_eps: float
    attention_bias: bool
    tied: bool
    # What text_config says of tied weights, beside the file's own word. None: nothing.
    text_tied: bool | None
    # `theta` None: the file names none. `sections`: frequencies of time, height and width.
    theta: float | None
    sections: list[int]
    # "parameters" (transformers 5), "scaling" (4) or "scaling_type" (4, with the older key `type`).
    rope_spelling: str
    vocab_spare: int
    # The processor. `limits`: "size", "pixels", or "both", whose `size` then is not what counts.
    min_pixels: int
    max_pixels: int
    limits: str
    mean: list[float]
    std: list[float]
    # The files.
    dtype: str
    # preprocessor_config.json and chat_template.json instead of processor_config.json and chat_template.jinja.
    old_files: bool
    # Keys of transformers 4 in config.json.
    old_config: bool
    shards: bool
    hub_layout: bool
    # What only one of the families has.
    extra: dict = field(default_factory=dict)

    @property
    def vision_hidden(self) -> int:
        return self.vision_heads * self.vision_head_dim

    @property
    def factor(self) -> int:
        """Side of one visual row in pixels."""
        return self.patch * self.merge

    def facts(self) -> dict:
        return asdict(self)


def draw(family: str, seed: int) -> Drawn:
    """The shapes of a seed."""
    chance = random.Random(f"{family} {seed}")

    def yes(probability: float) -> bool:
        return chance.random() < probability

    patch = chance.choice([4, 6, 8, 8, 14, 16])
    merge = chance.choice([2, 2, 2, 2, 1, 3])
    heads, kv_heads = chance.choice([(4, 4), (4, 2), (4, 1), (3, 1), (6, 2), (2, 2)])
    head_dim = chance.choice([8, 16, 16, 24, 32])
    layers = chance.choice([2, 3, 3, 4])
    vision_layers = chance.choice([1, 2, 3, 4])
    least, most = chance.choice([(1, 6), (1, 20), (4, 30), (4, 64), (9, 100), (16, 200)])
    spelling = chance.choice(["parameters", "parameters", "scaling", "scaling_type"])
    tied = yes(0.45)
    drawn = Drawn(
        family=family,
        seed=seed,
        patch=patch,
        merge=merge,
        table=chance.choice([3, 5, 8, 12, 20]),
        taps=sorted(chance.sample(range(vision_layers), min(chance.choice([0, 1, 2, 3, 3]), vision_layers))),
        vision_heads=chance.choice([2, 3, 4]),
        vision_head_dim=chance.choice([4, 8, 12, 16]),
        vision_layers=vision_layers,
        vision_mlp=chance.choice([48, 72, 100]),
        vision_act=chance.choice(["gelu_pytorch_tanh"] * 5 + ["gelu"]),
        vision_theta=chance.choice([None, None, None, 10000.0, 5000.0]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=chance.choice([heads * head_dim, heads * head_dim, 40, 56, 64, 72]),
        layers=layers,
        mlp=chance.choice([48, 80, 96, 132]),
        act="silu",
        rms_norm_eps=chance.choice([1e-6, 1e-6, 1e-5]),
        attention_bias=yes(0.2),
        tied=tied,
        text_tied=chance.choice([None, tied, not tied]),
        theta=chance.choice([None, 10000.0, 100000.0, 1000000.0, 5000000.0]),
        sections=interleaved_sections(chance, head_dim // 2),
        rope_spelling=spelling,
        vocab_spare=chance.choice([0, 0, 7, 64]),
        min_pixels=least * (patch * merge) ** 2,
        max_pixels=most * (patch * merge) ** 2 + chance.choice([0, 0, 17, 1000]),
        limits=chance.choice(["size", "size", "pixels", "both"]),
        mean=chance.choice([[0.5] * 3] * 3 + [[0.48145466, 0.4578275, 0.40821073]]),
        std=chance.choice([[0.5] * 3] * 3 + [[0.26862954, 0.26130258, 0.27577711]]),
        dtype=chance.choice(["float32", "bfloat16", "bfloat16"]),
        old_files=yes(0.5),
        old_config=spelling != "parameters",
        shards=yes(0.2),
        hub_layout=yes(0.25),
    )
    # A tap beyond the decoder's layers is not added anywhere.
    drawn.taps = drawn.taps[:layers]
    if drawn.limits == "size" or drawn.old_files:
        return drawn
    # Pixels are named in preprocessor_config.json alone.
    drawn.limits = "size"
    return drawn


def interleaved_sections(chance: random.Random, frequencies: int) -> list[int]:
    """Height at 1, 4, 7.. and width at 2, 5, 8..: no more of them than there are such places."""
    height = max(1, (frequencies + 1) // 3 - chance.choice([0, 0, 1]))
    width = max(1, frequencies // 3 - chance.choice([0, 0, 1]))
    return [frequencies - height - width, height, width]
