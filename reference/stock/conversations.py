"""Conversations in OpenAI's form, and the pictures that they show."""

import random
from dataclasses import dataclass, field

from . import qwen

QUESTIONS = [
    "What is in this picture?",
    "Which colour has the car?",
    "How many of them are there, 3 or 12?",
    "Read the sign.",
    "Describe the image in detail, please.",
    "Where was it taken?",
    "Was steht auf dem Schild? Größe: 42 cm",
    "这是什么？",
    "Say it with an emoji 🙂 and\ntwo lines.",
    "  Is it   raining?  ",
    "Compare the two.",
    "What's the value of QX-047?",
]
# Width, height and mode.
PICTURES = {
    "dot": (1, 1, "RGB"),
    "stick": (5, 109, "RGB"),
    "square": (64, 64, "RGBA"),
    "photograph": (300, 200, "RGB"),
    "grey": (200, 301, "L"),
    "panorama": (2000, 300, "P"),
    "tall": (333, 1024, "RGB"),
    "line": (640, 2, "RGB"),
    "odd": (77, 51, "RGB"),
}
# Qwen's processor refuses what is longer than 200 times its width.
QWEN_PICTURES = {name: PICTURES[name] for name in PICTURES if name != "line"} | {"strip": (640, 4, "RGB")}

# Shown in `large` alone.
LARGE = {"large": (512, 512, "RGB")}


@dataclass
class Conversation:
    name: str
    messages: list[dict]
    # What the template is told beside the messages.
    template: dict = field(default_factory=dict)
    # Whether its pictures are to be seen in another size than the checkpoint's own; see `sizes`.
    resized: bool = False

    def sizes(self, processor) -> dict:
        """Arguments for the image processor."""
        return SIZES[self.name](processor.image_processor.size) if self.resized else {}


def image(name: str) -> dict:
    return {"type": "image_url", "image_url": {"url": f"images/{name}.png"}}


def text(what: str) -> dict:
    return {"type": "text", "text": what}


def conversation(name: str, family: str, chance: random.Random) -> Conversation:
    """One of the family's conversations, its texts drawn anew at every call."""
    ask = lambda: chance.choice(QUESTIONS)  # noqa: E731
    messages = (makers(family) | LARGE_MAKERS)[name](ask)
    return Conversation(name, messages, TEMPLATE_ARGUMENTS.get(name, {}), name in SIZES)


def makers(family: str) -> dict:
    if family not in qwen.shapes.FAMILIES:
        return MAKERS | TILE_MAKERS
    more = {name: maker for name, maker in QWEN_MAKERS.items() if family in ONLY.get(name, (family,))}
    return MAKERS | more


def pictures(family: str) -> dict[str, tuple[int, int, str]]:
    return QWEN_PICTURES if family in qwen.shapes.FAMILIES else PICTURES


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


MAKERS = {
    "text": lambda ask: [{"role": "user", "content": ask()}],
    "system": lambda ask: [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": ask()},
    ],
    "dot": lambda ask: [user(image("dot"), text(ask()))],
    "stick": lambda ask: [user(image("stick"), text(ask()))],
    "transparent": lambda ask: [user(text(ask()), image("square"))],
    "photograph": lambda ask: [user(image("photograph"), text(ask()))],
    "panorama": lambda ask: [
        {"role": "system", "content": [text("Be exact.")]},
        user(image("panorama"), text(ask())),
    ],
    "two": lambda ask: [user(text("First: "), image("tall"), text("\nSecond: "), image("grey"), text(ask()))],
    "three": lambda ask: [user(image("odd"), image("line"), image("odd"), text(ask()))],
    "turns": lambda ask: [
        user(image("photograph"), text(ask())),
        {"role": "assistant", "content": [text("A street, in the evening.")]},
        user(text(ask()), image("odd")),
        {"role": "assistant", "content": [text("It is a sign.")]},
        user(text(ask())),
    ],
    "long": lambda ask: [user(image("square"), text(" ".join(ask() for _ in range(12))))],
}
TILE_MAKERS = {
    "less": lambda ask: [user(image("tall"), text(ask()))],
    "uncut": lambda ask: [user(image("photograph"), text(ask()), image("odd"))],
}
QWEN_MAKERS = {
    "smaller": lambda ask: [user(image("panorama"), text(ask()), image("odd"))],
    "larger": lambda ask: [user(text(ask()), image("odd"), text(ask()))],
    "three": lambda ask: [user(image("odd"), image("strip"), image("odd"), text(ask()))],
    "unthinking": lambda ask: [user(image("odd"), text(ask()))],
    "thoughts": lambda ask: [
        user(image("odd"), text(ask())),
        {"role": "assistant", "content": "<think>\nRed and white.\n</think>\n\nIt is a sign."},
        user(text(ask())),
    ],
}
# Asked only where it is named.
LARGE_MAKERS = {"large": lambda ask: [user(image("large"), text(ask()))]}
TEMPLATE_ARGUMENTS = {"unthinking": {"enable_thinking": False}}
# Sizes of other pictures than the checkpoint's own, made from those. No picture gets larger than those allow.
SIZES = {
    "less": lambda own: {"size": {"longest_edge": own["longest_edge"] // 2}},
    "uncut": lambda own: {"do_image_splitting": False},
    "smaller": lambda own: {"size": {"shortest_edge": 1, "longest_edge": own["longest_edge"] // 2}},
    "larger": lambda own: {"min_pixels": (own["shortest_edge"] + own["longest_edge"]) // 2},
}
# Conversations of some families only.
ONLY = {"unthinking": ("qwen3_5",), "thoughts": ("qwen3_5",)}
# Those of the committed fixtures, whose files must be small.
FEW = ["system", "transparent", "turns"]
