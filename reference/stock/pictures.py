"""Pictures drawn from a seed: some with structure of every kind, and one that could be a photograph."""

import numpy
from PIL import Image


def picture(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """Waves, a few rectangles and noise. `mode`: RGB, RGBA (with transparent parts), L or P."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    channels = []
    for _ in range(3):
        fx, fy, phase = random.uniform(0, 9, 3)
        wave = numpy.sin((x / width * fx + y / height * fy) * 2 * numpy.pi + phase)
        channels.append(128 + 80 * wave)
    pixels = numpy.stack(channels, -1)
    for _ in range(6):
        left, top = int(random.integers(0, width)), int(random.integers(0, height))
        right = left + 1 + int(random.integers(0, width))
        bottom = top + 1 + int(random.integers(0, height))
        pixels[top:bottom, left:right] = 0.5 * pixels[top:bottom, left:right] + random.uniform(0, 128, 3)
    # Blocks of noise instead of single pixels keep the files small.
    noise = (
        random.normal(0, 20, (-(-height // 4), -(-width // 4), 1)).repeat(4, 0).repeat(4, 1)[:height, :width]
    )
    pixels = numpy.clip(numpy.round(pixels + noise), 0, 255).astype(numpy.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        alpha = numpy.clip(numpy.round(255 * (x + y) / (width + height)), 0, 255).astype(numpy.uint8)
        image.putalpha(Image.fromarray(alpha))
        return image
    if mode == "P":
        # 32 colours, without dithering: small, and the same on every machine.
        return image.quantize(32, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return image.convert(mode)


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Noise that weakens with its frequency, as in photographs, in colours that go together."""
    random = numpy.random.default_rng(seed)
    light, tint = octaves(width, height, random), octaves(width, height, random)
    ground, sky = numpy.array([70.0, 90.0, 60.0]), numpy.array([200.0, 190.0, 170.0])
    pixels = (
        ground + (sky - ground) * light[..., None] + 40 * (tint[..., None] - 0.5) * numpy.array([1, 0, -1])
    )
    return Image.fromarray(numpy.clip(numpy.round(pixels), 0, 255).astype(numpy.uint8))


def octaves(width: int, height: int, random: numpy.random.Generator) -> numpy.ndarray:
    """Sum of noises, each twice as fine and half as strong as the one before, in 0..1. [height, width]"""
    total = numpy.zeros((height, width))
    cells = 4
    while cells <= max(width, height):
        coarse = Image.fromarray(random.random((cells, cells)).astype(numpy.float32))
        total += numpy.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / cells
        cells *= 2
    return (total - total.min()) / (total.max() - total.min())
