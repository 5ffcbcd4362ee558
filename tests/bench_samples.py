"""What the benchmark's data is made of: lines and pages of text, eyes, notes, speech in noise, files of the machine."""

import gzip
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from edgert.errors import EnvironmentFailed
from examples.models import models_dir
from examples.ocr.lines import Line, draw, render_lines
from examples.whisper import prompts

Feeds = Mapping[str, np.ndarray]

KINDS = (
    "py",
    "so",
    "h",
    "js",
    "css",
    "html",
    "json",
    "png",
    "svg",
    "ttf",
    "xml",
    "gz",
    "md",
    "pyc",
    "txt",
    "toml",
    "c",
)
KIND_FOLDERS = ("/usr/share", "/usr/include", "/usr/lib")


FRAMES, FRAME, CONTEXT = 80, 512, 64
"""Of silero-vad: how many frames a clip gives, and how many sound samples are new and old in each."""

CHINESE = (
    "发票 金额 合计 日期 公司 地址 电话 数量 单价 北京 上海 广州 深圳 成都 火车 车站 机场 航班 办公室 会议 文件 报告 "
    "市场 产品 质量 检查 设备 温度 压力 开关 仓库 订单 快递 收件人 签名 合同 编号 学校 医院 图书馆 花园 桥梁 河流 森林 "
    "春天 夏天 秋天 冬天 早上 晚上 星期一 星期五 黄色 红色 蓝色 绿色 安全 出口 入口 停车场 阀门 水泵 电机 备件 维修"
).split()
FONT_PACKAGE, FONT = "fonts-wqy-microhei", Path("usr/share/fonts/truetype/wqy/wqy-microhei.ttc")


def mixed_lines(count: int, seed: int) -> list[Line]:
    """Return lines of one to three words, small, blurred, noisy; each third one is Chinese."""
    random = np.random.default_rng(seed)
    fonts = [chinese_font()]
    english = render_lines(count, seed)
    return [_chinese_line(random, fonts) if number % 3 == 2 else next(english) for number in range(count)]


def chinese_font() -> Path:
    """Return WenQuanYi Micro Hei: the system's, else one out of Debian's package, kept in the cache of models.

    EnvironmentFailed where there is neither.
    """
    kept = models_dir() / FONT.name
    for place in (Path("/") / FONT, kept):
        if place.is_file():
            return place
    models_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir()) as scratch:
        try:
            for command in (("apt-get", "download", FONT_PACKAGE), ("sh", "-c", "dpkg-deb --extract ./*.deb unpacked")):
                subprocess.run(command, cwd=scratch, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise EnvironmentFailed(
                f"the font of the Chinese lines cannot be had: {exc}", f"install {FONT_PACKAGE}, or put it at {kept}"
            ) from exc
        (Path(scratch) / "unpacked" / FONT).replace(kept)
    return kept


def _chinese_line(random: np.random.Generator, fonts: Sequence[Path]) -> Line:
    while True:
        words = [str(random.choice(CHINESE)) for _ in range(random.integers(1, 4))]
        if random.random() < 0.3:
            words[-1] = str(random.integers(10, 9999))
        text = "".join(words)
        picture = draw(text, random, fonts)
        if picture is not None:
            return Line(text, picture)


def page(lines: Iterator[Line], random: np.random.Generator) -> np.ndarray:
    """Return a page of paper and lines of text that do not touch, [1, 3, 320, 320], normalised as PaddleOCR does."""
    paper = tuple(int(part) for part in random.integers(150, 250, 3))
    image = Image.new("RGB", (320, 320), paper)
    top = int(random.integers(4, 12))
    while top < 290:
        high = int(random.integers(10, 29))
        picture = next(lines).picture
        wide = max(1, picture.width * high // picture.height)
        image.paste(picture.resize((wide, high)), (int(random.integers(0, max(1, 320 - wide))), top))
        top += high + int(random.integers(8, 24))
    pixels = np.asarray(image)[:, :, ::-1].astype(np.float32) / 255
    pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)[None])


def recognised(line: Line, width: int) -> np.ndarray:
    pixels = np.asarray(line.picture)[:, :width, ::-1].astype(np.float32)
    padded = np.zeros((48, width, 3), np.float32)
    padded[:, : pixels.shape[1]] = (pixels - 127.5) / 127.5
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])


def files_of_kinds(each: int) -> dict[str, list[Path]]:
    """Return so many files of each extension that has as many, spread over the machine; none is tiny."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for folder in (*KIND_FOLDERS, sysconfig.get_path("stdlib")):
        for place, _, names in islice(os.walk(folder), 4000):
            for name in names:
                kind = name.rpartition(".")[2]
                file = Path(place) / name
                if kind in found and not file.is_symlink() and file.stat().st_size > 400:
                    found[kind].append(file)
    spread = {kind: sorted(files)[:: max(1, len(files) // each)][:each] for kind, files in found.items()}
    return {kind: files for kind, files in spread.items() if len(files) == each}


def ends_of(file: Path) -> np.ndarray:
    """Return the first and last 1,024 bytes of a file, without white space around it; 256 where it is shorter."""
    data = file.read_bytes()
    features = np.full(2048, 256, np.int32)
    head = np.frombuffer(data[:4096].lstrip()[:1024], np.uint8)
    tail = np.frombuffer(data[-4096:].rstrip()[-1024:], np.uint8)
    features[: len(head)] = head
    features[2048 - len(tail) :] = tail
    return features[None]


def spoken_frames(clip: np.ndarray, random: np.random.Generator) -> tuple[list[Feeds], list[int]]:
    """Return frames of 1.3 s of noise and 1.3 s of speech in noise, labelled 0 and 1, and -1 in pauses of speech."""
    half = FRAMES // 2 * FRAME
    spoken = np.zeros(half, np.float32)
    begin = int(np.argmax(np.abs(clip) > 0.1 * np.abs(clip).max()))
    voice = clip[begin : begin + half]
    spoken[: len(voice)] = voice * (0.3 / np.abs(voice).max())
    clean = np.concatenate([np.zeros(half, np.float32), spoken])
    wave = clean + random.normal(0, random.uniform(0.03, 0.1), clean.size).astype(np.float32)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), wave])
    rate, state = np.array(16000, np.int64), np.zeros((2, 1, 128), np.float32)
    frames, labels = [], []
    for number in range(FRAMES):
        frames.append(
            {"input": padded[None, number * FRAME : (number + 1) * FRAME + CONTEXT], "state": state, "sr": rate}
        )
        loud = float(np.abs(clean[number * FRAME : (number + 1) * FRAME]).max())
        labels.append(1 if loud > 0.06 else 0 if number < FRAMES // 2 else -1)
    return frames, labels


def with_states(session: object, frames: Sequence[Feeds]) -> list[Feeds]:
    """Return the frames with the states that the model has when it gets there."""
    state, found = frames[0]["state"], []
    for frame in frames:
        found.append({**frame, "state": state})
        state = session.run(["stateN"], found[-1])[0]
    return found


def notes(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two seconds of three steady notes, [1, 43844, 1] at 22,050 Hz, and labels [172, 88]; -1 at their edges."""
    time, frames = np.arange(43844) / 22050, np.arange(172) * 256 / 22050
    wave, labels = random.normal(0, 0.002, time.size), np.zeros((172, 88), np.int8)
    for pitch in random.choice(np.arange(45, 82), 3, replace=False):
        begin = random.uniform(0.1, 0.8)
        end = begin + random.uniform(0.5, 1.0)
        ramp = np.clip(np.minimum(time - begin, end - time) / 0.01, 0, 1)
        frequency = 440 * 2 ** ((int(pitch) - 69) / 12)
        wave += 0.2 * ramp * sum(np.sin(2 * np.pi * frequency * k * time) / k**2 for k in range(1, 6))
        column = labels[:, int(pitch) - 21]
        column[(frames > begin - 0.05) & (frames < end + 0.05)] = -1
        column[(frames > begin + 0.05) & (frames < end - 0.05)] = 1
    return wave.astype(np.float32)[None, :, None], labels


def transcripts() -> list[str]:
    """Return what the prompts say, sentences of four words or more, in a seeded order, none twice."""
    archive = prompts.fetch() / prompts.TRANSCRIPTS.name
    lines = gzip.decompress(archive.read_bytes()).decode("utf-8", "replace").splitlines()
    texts = [line.partition(":")[2].strip() for line in lines]
    said = sorted({text for text in texts if len(text.split()) >= 4 and "[" not in text})
    return [said[index] for index in np.random.default_rng(10).permutation(len(said))]


def tokens(encoding: object) -> Feeds:
    arrays = {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }
    return {name: np.array([values], np.int64) for name, values in arrays.items()}


def eye(random: np.random.Generator) -> np.ndarray:
    """Return a drawn eye, float32 [1, 64, 64, 3] in 0..1."""
    skin = tuple(int(part) for part in random.integers((150, 100, 80), (250, 200, 170)))
    image = Image.new("RGB", (256, 256), skin)
    pen = ImageDraw.Draw(image)
    x, y, wide = (int(part) for part in random.integers((40, 90, 130), (70, 120, 170)))
    high = int(wide * random.uniform(0.35, 0.5))
    pen.ellipse((x, y, x + wide, y + high), fill="white")
    across, down = x + wide * random.uniform(0.35, 0.65), y + high * 0.5
    for radius, colour in (
        (0.48 * high, tuple(int(part) for part in random.integers(40, 140, 3))),
        (0.2 * high, (0, 0, 0)),
    ):
        pen.ellipse((across - radius, down - radius, across + radius, down + radius), fill=colour)
    pen.arc((x - 6, y - 14, x + wide + 6, y + high), 190, 350, fill=(60, 40, 30), width=7)
    small = image.filter(ImageFilter.GaussianBlur(2)).resize((64, 64))
    noisy = np.asarray(small, np.float32) + random.normal(0, 4, (64, 64, 3))
    return (np.clip(noisy, 0, 255) / 255).astype(np.float32)[None]
