"""What is drawn for a seed of a Qwen family: networks, positions, the processor's limits, the spelling."""

import random
from dataclasses import asdict, dataclass, field

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "qwen3_5")


@dataclass
class Drawn:
    """Everything a checkpoint is made of, but its weights and texts."""

    family: str
    seed: int
    # The tower: patches of `patch` pixels a side, of which `merge` x `merge` become one row.
    patch: int
    merge: int
    # Side of the table of positions, which is stretched or shrunk to a picture's grid. 0: there is none.
    table: int
    # Blocks whose output is added behind the decoder's first layers, of Qwen3-VL.
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
    # "parameters" (transformers 5), "scaling" (4) or "scaling_type" (4, with the older key `type`). No file
    # leaves out the sections: the families' defaults are too many for a small head.
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
    # preprocessor_config.json, chat_template.json instead of processor_config.json, chat_template.jinja.
    old_files: bool
    # Keys of transformers 4 in config.json.
    old_config: bool
    shards: bool
    hub_layout: bool
    # Qwen2.5-VL. Side of a window in pixels, of which those of whole rows count, and blocks that see all.
    window: int = 0
    full_blocks: list[int] = field(default_factory=list)
    # As first released: weights `visual.*` and `model.*`; in config.json the decoder's keys on top.
    old_keys: bool = False
    flat_config: bool = False
    # Qwen3.5. `interval` None: the file lists the layers' types.
    layer_types: list[str] = field(default_factory=list)
    interval: int | None = None
    # Part of a head that is rotated; whether the file says so.
    partial: float = 1.0
    partial_named: bool = True
    # key heads, value heads, key width, value width, taps of the convolution
    linear: list[int] = field(default_factory=list)
    # A head for several tokens at once, which nobody here reads.
    mtp: bool = False

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
    drawn, chance = common(family, seed), random.Random(f"{family} {seed} itself")
    if family == "qwen2_5_vl":
        of_qwen2_5_vl(drawn, chance)
    elif family == "qwen3_5":
        of_qwen3_5(drawn, chance)
    return drawn


def common(family: str, seed: int) -> Drawn:
    """What the families have in common, and all of Qwen3-VL."""
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


def of_qwen2_5_vl(drawn: Drawn, chance: random.Random) -> None:
    drawn.table, drawn.taps, drawn.vision_act = 0, [], "silu"
    drawn.hidden = drawn.heads * drawn.head_dim
    frequencies = drawn.head_dim // 2
    time = chance.randint(1, frequencies - 2)
    height = chance.randint(1, frequencies - time - 1)
    drawn.sections = [time, height, frequencies - time - height]
    rows = chance.choice([1, 2, 3, 4, 4])
    drawn.window = rows * drawn.factor + chance.choice([0, 0, 0, drawn.merge])
    blocks = range(drawn.vision_layers)
    drawn.full_blocks = sorted(chance.sample(blocks, min(chance.choice([0, 1, 1, 2]), drawn.vision_layers)))
    # Said in text_config alone it counts too: a file that ties nothing must not say so there.
    drawn.text_tied = chance.choice([None, drawn.tied])
    drawn.attention_bias = False
    drawn.flat_config = drawn.old_config and chance.random() < 0.7
    drawn.old_keys = chance.random() < 0.5


def of_qwen3_5(drawn: Drawn, chance: random.Random) -> None:
    drawn.taps = []
    drawn.head_dim, drawn.partial = chance.choice(
        [(16, 0.5), (24, 0.5), (32, 0.25), (32, 0.25), (32, 0.5), (64, 0.25), (16, 1.0)]
    )
    drawn.partial_named = drawn.partial != 0.25 or chance.random() < 0.5
    drawn.sections = interleaved_sections(chance, int(drawn.head_dim * drawn.partial) // 2)
    drawn.layers = chance.choice([2, 3, 4, 4, 5])
    kinds = ["linear_attention", "full_attention"]
    if chance.random() < 0.5:
        drawn.interval = chance.randint(2, min(drawn.layers, 4))
        drawn.layer_types = [kinds[(layer + 1) % drawn.interval == 0] for layer in range(drawn.layers)]
    else:
        drawn.layer_types = kinds + [chance.choice(kinds) for _ in range(drawn.layers - 2)]
        chance.shuffle(drawn.layer_types)
    key_heads = chance.choice([1, 2, 2, 4])
    widths = [chance.choice([8, 16, 24]), chance.choice([8, 16, 24])]
    drawn.linear = [key_heads, key_heads * chance.choice([1, 2, 3]), *widths, chance.choice([4] * 6 + [2, 3])]
    drawn.mtp = chance.random() < 0.4
