"""Lines of text as pictures, noisy on purpose, and how well they are read back.

Rendering is seeded: the same numbers give the same pixels with the same fonts and the same Pillow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = (
    "invoice total amount street garden window number office market winter summer bridge river station ticket paper "
    "yellow orange silver golden copper harbor island valley forest meadow castle museum library theatre kitchen "
    "Monday Friday October London Vienna Madrid Oslo Turin train flight parcel sender receipt pump valve motor"
).split()
FONT_FOLDERS = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/truetype/liberation"))
HEIGHT, WIDTH = 48, 320


@dataclass(frozen=True)
class Line:
    """One rendered line: the text and an RGB picture, 48 pixels high and at most 320 wide."""

    text: str
    picture: Image.Image


def render_lines(count: int, seed: int) -> Iterator[Line]:
    """Yield `count` lines of one to three words and numbers: small, blurred, noisy, of low contrast."""
    random = np.random.default_rng(seed)
    fonts = font_files()
    produced = 0
    while produced < count:
        text = _text(random)
        picture = draw(text, random, fonts)
        if picture is not None:
            produced += 1
            yield Line(text, picture)


def draw(text: str, random: np.random.Generator, fonts: Sequence[Path]) -> Image.Image | None:
    """Return a picture of a text as `render_lines` makes it, or None where it is wider than the recogniser's input."""
    size = int(random.integers(11, 30))
    font = (
        ImageFont.truetype(random.choice(np.array(fonts, dtype=str)), size) if fonts else ImageFont.load_default(size)
    )
    left, top, right, bottom = font.getbbox(text)
    width, height = int(right - left) + 8, int(bottom - top) + 8
    paper, ink = int(random.integers(170, 256)), int(random.integers(0, 90))
    image = Image.new("RGB", (width, height), (paper,) * 3)
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, font=font, fill=(ink,) * 3)
    scaled = round(width * HEIGHT / height)
    if scaled > WIDTH:
        return None
    image = image.resize((scaled, HEIGHT), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.0, 1.4))))
    noise = random.normal(0.0, random.uniform(2.0, 24.0), (HEIGHT, scaled, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def font_files() -> list[Path]:
    """Return the DejaVu and Liberation fonts of the system, sorted; empty where there are none."""
    return sorted(
        file
        for folder in FONT_FOLDERS
        for file in folder.glob("*.ttf")
        if "Mono" not in file.name and "Condensed" not in file.name
    )


def characters(metadata: str) -> list[str]:
    """Return the recogniser's classes from the `character` entry of its metadata: blank first, space last."""
    return ["", *metadata.split("\n"), " "]


def decode(probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """Return the text of one line from [T, C] probabilities by greedy CTC: runs merged, blanks dropped."""
    best = probabilities.argmax(axis=-1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(classes[index] for index in kept if index < len(classes)).strip()


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance of two strings."""
    row = list(range(len(right) + 1))
    for number, a in enumerate(left, 1):
        before, row[0] = row[0], number
        for column, b in enumerate(right, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (a != b))
    return row[-1]


def character_error_rate(truths: Sequence[str], readings: Sequence[str]) -> float:
    """Return the edits needed over all lines divided by the characters of the truths."""
    edits = sum(edit_distance(truth, reading) for truth, reading in zip(truths, readings, strict=True))
    return edits / max(1, sum(len(truth) for truth in truths))


def _text(random: np.random.Generator) -> str:
    words = [str(random.choice(WORDS)) for _ in range(random.integers(1, 4))]
    if random.random() < 0.4:
        words[-1] = str(random.integers(10, 99999))
    return " ".join(words)
