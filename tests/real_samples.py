"""Seeded samples for the real models of the tests, as `--calibration tests.real_samples:NAME` takes them.

They are made, not collected: rendered text, drawn shapes, synthetic tones, and bytes of the standard library.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from examples.ocr.lines import render_lines

COUNT = 12

Sample = dict[str, np.ndarray]


def ppocr_rec() -> Iterator[Sample]:
    """Yield lines of text, [1, 3, 48, 320] in -1..1, blue first, padded on the right with zeros."""
    for line in render_lines(COUNT, seed=1):
        yield {"x": _line(line.picture, 320)}


def ppocr_cls() -> Iterator[Sample]:
    """Yield lines of text, every other one upside down, [1, 3, 48, 192]."""
    for number, line in enumerate(render_lines(COUNT, seed=2)):
        yield {"x": _line(line.picture.rotate(180 * (number % 2)), 192)}


def ppocr_det() -> Iterator[Sample]:
    """Yield pages of eight lines, [1, 3, 320, 320], with ImageNet's mean and standard deviation."""
    lines = list(render_lines(8 * COUNT, seed=3))
    for page in range(COUNT):
        image = Image.new("RGB", (320, 320), (235, 232, 225))
        for row, line in enumerate(lines[8 * page : 8 * page + 8]):
            small = line.picture.resize((max(1, line.picture.width * 24 // 48), 24))
            image.paste(small, (6 + 11 * (row % 3), 4 + 39 * row))
        pixels = np.asarray(image)[:, :, ::-1].astype(np.float32) / 255
        pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        yield {"x": pixels.astype(np.float32).transpose(2, 0, 1)[None]}


def opennsfw() -> Iterator[Sample]:
    """Yield blurred drawings of shapes, [1, 224, 224, 3], blue first, minus the mean colour of the model's paper."""
    random = np.random.default_rng(4)
    for _ in range(COUNT):
        image = Image.new("RGB", (224, 224), tuple(int(part) for part in random.integers(0, 256, 3)))
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            x, y, w, h = (int(part) for part in random.integers(0, 200, 4))
            draw.ellipse((x, y, x + w, y + h), fill=tuple(int(part) for part in random.integers(0, 256, 3)))
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(3)))[:, :, ::-1].astype(np.float32)
        yield {"input:0": (pixels - (104.0, 117.0, 123.0)).astype(np.float32)[None]}


def magika() -> Iterator[Sample]:
    """Yield the first and last 1,024 bytes of files, 256 where a file is shorter, int32 [1, 2048]."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [*sorted(folder.glob("*.py"))[:COUNT], *sorted(folder.glob("lib-dynload/*.so"))[: COUNT // 2]]
    for file in files[:: max(1, len(files) // COUNT)][:COUNT]:
        data = np.frombuffer(file.read_bytes(), np.uint8).astype(np.int32)
        features = np.full(2048, 256, np.int32)
        features[: min(1024, len(data))] = data[:1024]
        features[2048 - min(1024, len(data)) :] = data[-1024:]
        yield {"bytes": features[None]}


def silero_vad() -> Iterator[Sample]:
    """Yield 36 ms of vowels of growing loudness in noise at 16 kHz, with states as speech leaves them behind."""
    random = np.random.default_rng(5)
    time = np.arange(576) / 16000
    for number in range(COUNT):
        vowel = sum(np.sin(2 * np.pi * (110 + 9 * number) * order * time) / order for order in range(1, 12))
        wave = 0.02 * number * vowel + random.normal(0, 0.01, 576)
        state = np.tanh(random.normal(0, 0.5, (2, 1, 128)))
        yield {
            "input": wave.astype(np.float32)[None],
            "state": state.astype(np.float32),
            "sr": np.array(16000, np.int64),
        }


def basic_pitch() -> Iterator[Sample]:
    """Yield two seconds of two synthetic notes at 22,050 Hz, [1, 43844, 1]."""
    random = np.random.default_rng(6)
    time = np.arange(43844) / 22050
    for _ in range(COUNT):
        wave = random.normal(0, 0.002, time.size)
        for pitch in random.integers(48, 84, 2):
            frequency = 440 * 2 ** ((int(pitch) - 69) / 12)
            start = random.uniform(0, 1)
            envelope = np.exp(-3 * np.clip(time - start, 0, None)) * (time > start)
            wave += 0.3 * envelope * sum(np.sin(2 * np.pi * frequency * k * time) / k**1.5 for k in range(1, 6))
        yield {"serving_default_input_2:0": wave.astype(np.float32)[None, :, None]}


def _line(picture: Image.Image, width: int) -> np.ndarray:
    pixels = np.asarray(picture)[:, :width, ::-1].astype(np.float32)
    padded = np.zeros((48, width, 3), np.float32)
    padded[:, : pixels.shape[1]] = (pixels - 127.5) / 127.5
    return padded.transpose(2, 0, 1)[None]
