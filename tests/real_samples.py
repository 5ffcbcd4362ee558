"""Seeded samples for the real models of the tests, as `--calibration tests.real_samples:NAME` takes them.

They are made, not collected: rendered text, drawn shapes, synthetic tones, and bytes of the standard library. Some take
a count and a seed, for benchmarks that need more of them.
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


def ppocr_cls(count: int = COUNT, seed: int = 2) -> Iterator[Sample]:
    """Yield lines of text, every other one upside down, the second first, [1, 3, 48, 192]."""
    for number, line in enumerate(render_lines(count, seed)):
        yield {"x": _line(line.picture.rotate(180 * (number % 2)), 192)}


def ppocr_det(count: int = COUNT, seed: int = 3) -> Iterator[Sample]:
    """Yield pages of eight lines, [1, 3, 320, 320], with ImageNet's mean and standard deviation."""
    lines = list(render_lines(8 * count, seed))
    for page in range(count):
        image = Image.new("RGB", (320, 320), (235, 232, 225))
        for row, line in enumerate(lines[8 * page : 8 * page + 8]):
            small = line.picture.resize((max(1, line.picture.width * 24 // 48), 24))
            image.paste(small, (6 + 11 * (row % 3), 4 + 39 * row))
        pixels = np.asarray(image)[:, :, ::-1].astype(np.float32) / 255
        pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        yield {"x": pixels.astype(np.float32).transpose(2, 0, 1)[None]}


def opennsfw(count: int = COUNT, seed: int = 4) -> Iterator[Sample]:
    """Yield blurred drawings of shapes, [1, 224, 224, 3], blue first, minus the mean colour of the model's paper."""
    random = np.random.default_rng(seed)
    for _ in range(count):
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


def silero_vad_jit() -> Iterator[Sample]:
    """Yield what `silero_vad` does, under the names of the TorchScript module."""
    for sample in silero_vad():
        yield {"x": sample["input"], "state": sample["state"]}


def basic_pitch_source() -> Iterator[Sample]:
    """Yield what `basic_pitch` does, under the name that its SavedModel and TFLite have for the input."""
    for sample in basic_pitch():
        yield {"input_2": next(iter(sample.values()))}


def face_detection(count: int = COUNT, seed: int = 7) -> Iterator[Sample]:
    """Yield drawn faces, [1, 128, 128, 3] in -1..1."""
    for face in _faces(128, count, seed):
        yield {"input": (face / 127.5 - 1)[None]}


def face_mesh(count: int = COUNT, seed: int = 8) -> Iterator[Sample]:
    """Yield drawn faces that fill the picture, [1, 192, 192, 3] in 0..1."""
    for face in _faces(192, count, seed):
        yield {"input_1": (face / 255)[None]}


def wakeword() -> Iterator[Sample]:
    """Yield random int8 features of 30 ms, [1, 3, 40], with states as such features leave them behind."""
    random = np.random.default_rng(9)
    states = {"10": (14, 64), "11": (16, 64), "6": (2, 40), "7": (2, 64), "8": (8, 64), "9": (12, 64)}
    for _ in range(COUNT):
        sample = {"input_audio": random.integers(-128, 128, (1, 3, 40)).astype(np.int8)}
        for name, (length, width) in states.items():
            values = random.integers(-128, 64, (1, length, 1, width))
            sample[f"stream_{name}_states"] = values.astype(np.int8)
        yield sample


def _faces(size: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float32 [size, size, 3], 0..255: an oval with eyes, brows, nose and mouth, blurred, in noise."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        image = Image.new("RGB", (256, 256), tuple(int(part) for part in random.integers(60, 200, 3)))
        draw = ImageDraw.Draw(image)
        x, y, wide = (int(part) for part in random.integers((70, 50, 90), (100, 80, 120)))
        skin = tuple(int(part) for part in random.integers((170, 120, 90), (250, 200, 170)))
        draw.ellipse((x, y, x + wide, y + 1.35 * wide), fill=skin)
        for eye in (0.3, 0.7):
            draw.ellipse((x + (eye - 0.1) * wide, y + 0.5 * wide, x + (eye + 0.1) * wide, y + 0.6 * wide), fill="white")
            draw.ellipse(
                (x + (eye - 0.05) * wide, y + 0.5 * wide, x + (eye + 0.05) * wide, y + 0.6 * wide), fill="black"
            )
            draw.line((x + (eye - 0.12) * wide, y + 0.42 * wide, x + (eye + 0.12) * wide, y + 0.4 * wide), "black", 4)
        draw.polygon(
            [(x + 0.5 * wide, y + 0.6 * wide), (x + 0.42 * wide, y + 0.85 * wide), (x + 0.58 * wide, y + 0.85 * wide)],
            "brown",
        )
        draw.ellipse((x + 0.32 * wide, y + 0.98 * wide, x + 0.68 * wide, y + 1.1 * wide), fill="darkred")
        small = image.filter(ImageFilter.GaussianBlur(1.5)).resize((size, size))
        yield np.clip(np.asarray(small, np.float32) + random.normal(0, 4, (size, size, 3)), 0, 255).astype(np.float32)


def _line(picture: Image.Image, width: int) -> np.ndarray:
    pixels = np.asarray(picture)[:, :width, ::-1].astype(np.float32)
    padded = np.zeros((48, width, 3), np.float32)
    padded[:, : pixels.shape[1]] = (pixels - 127.5) / 127.5
    return padded.transpose(2, 0, 1)[None]
