"""A page of records, a table, a bar chart, coloured shapes with numbers in them, and texture that says nothing."""

import random
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

import numpy as np
from fonts.ttf import Caladea, Roboto, RobotoBold, SourceSerifPro
from PIL import Image, ImageDraw, ImageFont

SIZE = 320  # pixels, both ways
CELL = 4  # pixels: the grain of the maps that say what is where
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which are digits to some fonts
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = {
    "red": (205, 45, 45), "green": (35, 140, 60), "blue": (45, 80, 200), "orange": (230, 130, 20),
    "purple": (130, 50, 160), "brown": (115, 75, 45),
}  # fmt: skip
FONTS = (Roboto, RobotoBold, SourceSerifPro, Caladea)


class Kind(IntEnum):
    RECORD = 1
    LINK = 2  # a record whose value is the key of another
    CELL = 3
    BAR = 4
    SHAPE = 5


@dataclass(frozen=True)
class Item:
    """Something that can be asked for: `key` names it, `value` is the answer."""

    kind: Kind
    key: tuple[str, ...]  # two letters; row and column; colour and shape
    value: str
    number: int  # its number in `Page.item_map`
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels, after the tilt


@dataclass(frozen=True)
class PageSpec:
    """How much is on a page, and how hard it is to read."""

    records: int = 20
    links: int = 0
    table: bool = False
    chart: bool = False
    shapes: int = 0
    textures: int = 0
    font_size: tuple[int, int] = (13, 17)  # pixels, smallest and largest
    tilt: float = 2.0  # degrees, at most
    noise: float = 10.0  # standard deviation in grey levels, at most
    contrast: float = 0.6  # the least, 1 being black on white
    fonts: int = len(FONTS)  # the first so many


@dataclass
class Page:
    """The picture and the maps are absent from a page that was only imagined."""

    image: Image.Image | None  # RGB, SIZE x SIZE
    items: list[Item]
    item_map: np.ndarray | None  # [SIZE/CELL, SIZE/CELL] of item numbers, 0 where there is none
    glyph_map: np.ndarray | None  # [SIZE/CELL, SIZE/CELL] of 1 + index into GLYPHS, 0 where there is none
    characters: int  # on the page, blanks not counted


GLYPHS = "0123456789" + LETTERS


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, size, layout_engine=ImageFont.Layout.BASIC)


@dataclass
class Canvas:
    """What has been drawn so far: the picture, the two maps, and where there is still room."""

    rng: random.Random
    image: Image.Image
    ink: tuple[int, int, int]
    face: str
    font_size: tuple[int, int]
    draw: ImageDraw.ImageDraw = field(init=False)
    items: list[tuple[Kind, tuple[str, ...], str]] = field(default_factory=list)
    characters: int = 0

    def __post_init__(self):
        self.draw = ImageDraw.Draw(self.image)
        n = SIZE // CELL
        self.item_map = np.zeros((n, n), np.int16)
        self.glyph_map = np.zeros((n, n), np.int16)
        self.taken = np.zeros((n, n), bool)

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        return font(self.face, size)

    def mark(self, grid: np.ndarray, box: tuple[float, float, float, float], value: int) -> None:
        left, top, right, bottom = (round(v / CELL) for v in box)
        grid[top : max(bottom, top + 1), left : max(right, left + 1)] = value

    def room(self, width: float, height: float, tries: int) -> tuple[int, int] | None:
        """The left upper corner of a free place, with a little air round it, which is then taken."""
        for _ in range(tries):
            left = self.rng.randrange(2, max(3, int(SIZE - width - 2)))
            top = self.rng.randrange(2, max(3, int(SIZE - height - 2)))
            if self.claim(left, top, width, height):
                return left, top
        return None

    def claim(self, left: float, top: float, width: float, height: float) -> bool:
        if left + width > SIZE - 1 or top + height > SIZE - 1:
            return False
        rows = slice(int(top) // CELL, int(top + height) // CELL + 1)
        columns = slice(max(0, int(left) // CELL), int(left + width) // CELL + 1)
        if self.taken[rows, columns].any():
            return False
        self.taken[rows, columns] = True
        return True

    def add(self, kind: Kind, key: tuple[str, ...], value: str, box: tuple[float, float, float, float]) -> None:
        self.items.append((kind, key, value))
        self.mark(self.item_map, box, len(self.items))

    def text(self, left: float, top: float, text: str, size: int, fill=None) -> tuple[float, float]:
        """Draws it and notes its glyphs; its width and height."""
        typeface = self.font(size)
        self.draw.text((left, top), text, font=typeface, fill=fill or self.ink)
        ascent = size * 0.25
        x = left
        for glyph in text:
            advance = typeface.getlength(glyph)
            if glyph in GLYPHS:
                self.mark(self.glyph_map, (x, top + ascent, x + advance, top + size), 1 + GLYPHS.index(glyph))
                self.characters += 1
            elif glyph != " ":
                self.characters += 1
            x += advance
        return x - left, size * 1.1


def unused_keys(rng: random.Random, count: int) -> list[tuple[str, str]]:
    pairs = rng.sample(range(len(LETTERS) ** 2), count)
    return [(LETTERS[p // len(LETTERS)], LETTERS[p % len(LETTERS)]) for p in pairs]


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def draw_texture(canvas: Canvas) -> None:
    rng = canvas.rng
    width, height = rng.randint(40, 90), rng.randint(30, 70)
    place = canvas.room(width, height, 20)
    if place is None:
        return
    step, slant = rng.choice((3, 4, 5)), rng.choice((-1, 0, 1))
    # On paper of its own, so that slanted lines end where the texture does.
    tile = Image.new("RGB", (width, height), canvas.image.getpixel((0, 0)))
    draw = ImageDraw.Draw(tile)
    for k in range(-height, width + height, step):
        draw.line([(k, 0), (k + slant * height, height)], fill=canvas.ink, width=rng.choice((1, 1, 2)))
    canvas.image.paste(tile, place)


def draw_table(canvas: Canvas, keys: list[str]) -> None:
    """Rows and columns named by one letter each, cells of two digits."""
    rng = canvas.rng
    rows, columns = rng.randint(3, 4), rng.randint(3, 4)
    size = rng.randint(max(13, canvas.font_size[0]), max(14, canvas.font_size[1]))
    width, height = size * 1.9, size * 1.35
    place = canvas.room(width * (columns + 1), height * (rows + 1), 30)
    if place is None:
        return
    left, top = place
    names = rng.sample(keys, rows + columns)
    for row in range(rows + 1):
        for column in range(columns + 1):
            x, y = left + column * width, top + row * height
            canvas.draw.rectangle([x, y, x + width, y + height], outline=canvas.ink)
            if row == column == 0:
                continue
            if row == 0 or column == 0:
                canvas.text(x + width * 0.35, y + height * 0.1, names[rows + column - 1] if row == 0 else names[row - 1], size)
            else:
                value = digits(rng, 2)
                canvas.text(x + width * 0.2, y + height * 0.1, value, size)
                key = (names[row - 1], names[rows + column - 1])
                canvas.add(Kind.CELL, key, value, (x, y, x + width, y + height))


def draw_chart(canvas: Canvas, keys: list[tuple[str, str]]) -> None:
    """Bars with their number above and their name below."""
    rng = canvas.rng
    size = rng.randint(max(12, canvas.font_size[0]), max(13, canvas.font_size[1]))
    width, height = size * 1.9, rng.randint(60, 80)
    place = canvas.room(width * len(keys), height, 30)
    if place is None:
        return
    left, top = place
    base = top + height - size * 1.2
    fill = rng.choice(list(COLOURS.values()))
    canvas.draw.line([left, base, left + width * len(keys), base], fill=canvas.ink)
    for i, key in enumerate(keys):
        share = rng.uniform(0.15, 1.0)
        x = left + i * width
        bar_top = base - share * (height - size * 2.5)
        canvas.draw.rectangle([x + width * 0.25, bar_top, x + width * 0.75, base], fill=fill)
        value = f"{round(share * 99):02}"
        canvas.text(x + width * 0.2, bar_top - size * 1.15, value, size)
        canvas.text(x + width * 0.15, base + 1, "".join(key), size)
        canvas.add(Kind.BAR, key, value, (x, bar_top - size * 1.1, x + width, base + size * 1.2))


def draw_shapes(canvas: Canvas, count: int) -> None:
    """No two of the same colour and shape, so that naming both names one."""
    rng = canvas.rng
    pairs = rng.sample([(c, s) for c in COLOURS for s in SHAPES], count)
    for colour, shape in pairs:
        size = rng.randint(max(13, canvas.font_size[0]), max(14, canvas.font_size[1]))
        side = size * (2.9 if shape in ("triangle", "diamond") else 2.1)
        place = canvas.room(side, side, 30)
        if place is None:
            continue
        x, y = place
        fill, outline = COLOURS[colour], canvas.ink
        if shape == "circle":
            canvas.draw.ellipse([x, y, x + side, y + side], fill=fill, outline=outline)
        elif shape == "square":
            canvas.draw.rectangle([x, y, x + side, y + side], fill=fill, outline=outline)
        elif shape == "triangle":
            canvas.draw.polygon([(x + side / 2, y), (x + side, y + side), (x, y + side)], fill=fill, outline=outline)
        else:
            half = side / 2
            points = [(x + half, y), (x + side, y + half), (x + half, y + side), (x, y + half)]
            canvas.draw.polygon(points, fill=fill, outline=outline)
        value = digits(rng, 2)
        width = canvas.font(size).getlength(value)
        drop = side - size * 1.25 if shape == "triangle" else (side - size * 1.15) / 2
        canvas.text(x + (side - width) / 2, y + drop, value, size, fill=(255, 255, 255))
        canvas.add(Kind.SHAPE, (colour, shape), value, (x, y, x + side, y + side))


def draw_records(canvas: Canvas, rows: list[tuple[Kind, tuple[str, str], str]]) -> None:
    """Line by line, wherever there is room; a few places stay empty."""
    rng = canvas.rng
    size = rng.randint(*canvas.font_size)
    sign = rng.choice((" ", ":", " = ", " - "))
    line = size * 1.2
    gap = max(5.0, size * 0.6)
    widest = max((canvas.font(size).getlength(f"{''.join(key)}{sign}{value}") for _, key, value in rows), default=0)
    places = []
    y = 3.0
    while y + line < SIZE - 2:
        x = 3.0 + rng.uniform(0, gap)
        while x + widest < SIZE - 2:
            places.append((x, y))
            x += widest + gap
        y += line + 1
    rng.shuffle(places)
    rows = list(rows)
    for x, y in places:
        if not rows:
            break
        if not canvas.claim(x + 1, y + 2, widest - 2, line - 5):  # lines of text may touch
            continue
        kind, key, value = rows.pop()
        width, _ = canvas.text(x, y, f"{''.join(key)}{sign if kind is Kind.RECORD else '>'}{value}", size)
        canvas.add(kind, key, value, (x, y, x + width, y + line))


def draw_page(rng: random.Random, spec: PageSpec) -> Page:
    """The same `rng` state and `spec` draw the same page."""
    paper = rng.randint(225, 255)
    ink = round(paper * (1 - rng.uniform(spec.contrast, 1.0)))
    canvas = Canvas(rng, Image.new("RGB", (SIZE, SIZE), (paper,) * 3), (ink,) * 3, rng.choice(FONTS[: spec.fonts]), spec.font_size)
    bars = rng.randint(3, 5) if spec.chart else 0
    keys = unused_keys(rng, spec.records + spec.links + bars)
    if spec.table:
        draw_table(canvas, list(LETTERS))
    if spec.chart:
        draw_chart(canvas, [keys.pop() for _ in range(bars)])
    draw_shapes(canvas, spec.shapes)
    for _ in range(spec.textures):
        draw_texture(canvas)
    rows = [(Kind.RECORD, key, digits(rng, 3)) for key in keys[: spec.records]]
    # A link's key names no record; its value names one.
    targets = rng.sample(rows, min(spec.links, len(rows)))
    links = [(Kind.LINK, key, "".join(to[1])) for key, to in zip(keys[spec.records :], targets)]
    linked = {to[1] for to in targets}
    rows.sort(key=lambda row: row[1] in linked)  # linked records are drawn first, while there is room
    draw_records(canvas, rows + links)
    return finish(canvas, spec)


def finish(canvas: Canvas, spec: PageSpec) -> Page:
    """Tilt and noise."""
    rng, paper = canvas.rng, canvas.image.getpixel((0, 0))
    angle = rng.uniform(-spec.tilt, spec.tilt)
    image = canvas.image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=paper)
    maps = [np.asarray(Image.fromarray(m.astype(np.int32), "I").rotate(angle)) for m in (canvas.item_map, canvas.glyph_map)]
    level = rng.uniform(0, spec.noise)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((SIZE, SIZE, 1), np.float32)
    image = Image.fromarray((np.asarray(image, np.float32) + noise * np.float32(level)).clip(0, 255).astype(np.uint8))
    items = []
    for i, (kind, key, value) in enumerate(canvas.items, 1):
        ys, xs = np.nonzero(maps[0] == i)
        if len(ys) == 0:
            continue  # tilted out of the page, or too small for the map
        box = (xs.min() * CELL, ys.min() * CELL, (xs.max() + 1) * CELL, (ys.max() + 1) * CELL)
        items.append(Item(kind, key, value, i, tuple(float(v) for v in box)))
    return Page(image, items, maps[0], maps[1], canvas.characters)
