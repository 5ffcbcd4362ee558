"""Labelled data for the models of the benchmark: what calibrates, what scores, and the score; seeded, no overlap.

Rendered text (a third of it Chinese), drawn shapes and faces, synthetic tones, recorded prompts, files of this machine,
and photos where the folder with them is there. Inputs carry the names of the ONNX model that `path` is.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from edgert.errors import EnvironmentFailed
from edgert.image_spec import parse_image_spec
from edgert.runtime.audio import read_sound
from edgert.runtime.images import load_image
from edgert.runtime.plain import plain_session
from examples.efficientnet.top1 import RULES
from examples.models import fetch
from examples.ocr.lines import characters
from examples.whisper import prompts
from tests import bench_samples, bench_scores, real_samples
from tests.bench_scores import Score

ROOT = Path(__file__).resolve().parent.parent
SPLIT = Path(__file__).with_name("samples") / "imagenet_split.json"

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """What one model is calibrated and judged with; `carry` and `restart` are those of `bench_peers.protocol.Task`.

    `score` judges the outputs of the samples in `scoring`, which no engine sees before. `judge` does the same for those
    in `calibration`: what a converter may be told to choose by.
    """

    calibration: Sequence[Feeds]
    scoring: Sequence[Feeds]
    metric: str
    score: Score
    judge: Score
    carry: Mapping[str, str] = field(default_factory=dict)
    restart: int = 1


def ppocr_det(path: Path, quick: bool) -> Data:
    """Pages of lines 10 to 28 pixels high, 320 x 320: F1 of the text boxes against those of the float model."""
    calibration, scoring = _counts(48, 48, quick)
    random = np.random.default_rng(103)
    lines = iter(bench_samples.mixed_lines(14 * (calibration + scoring), 11))
    pages = [{"x": bench_samples.page(lines, random)} for _ in range(calibration + scoring)]
    return Data(
        pages[:calibration],
        pages[calibration:],
        f"F1 of boxes, {scoring} pages, against float",
        bench_scores.boxes_f1,
        bench_scores.boxes_f1,
    )


def ppocr_rec(path: Path, quick: bool) -> Data:
    """Lines of text, small, blurred, noisy, each third one Chinese: 1 - CER."""
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    calibration, scoring = _counts(48, 96, quick)
    known, lines = bench_samples.mixed_lines(calibration, 1), bench_samples.mixed_lines(scoring, 7)
    classes = characters(metadata["character"])
    return Data(
        [{"x": bench_samples.recognised(line, 320)} for line in known],
        [{"x": bench_samples.recognised(line, 320)} for line in lines],
        f"1 - CER, {scoring} lines",
        bench_scores.characters_right([line.text for line in lines], classes),
        bench_scores.characters_right([line.text for line in known], classes),
    )


def ppocr_cls(path: Path, quick: bool) -> Data:
    """Lines of text, every other one upside down: top-1."""
    calibration, scoring = _counts(48, 96, quick)
    return Data(
        list(real_samples.ppocr_cls(calibration, 102)),
        list(real_samples.ppocr_cls(scoring, 105)),
        f"top-1, {scoring} lines upright or not",
        bench_scores.top1([number % 2 for number in range(scoring)]),
        bench_scores.top1([number % 2 for number in range(calibration)]),
    )


def opennsfw(path: Path, quick: bool) -> Data:
    """Drawings: cosine to the float model's probabilities, which is agreement and no accuracy."""
    calibration, scoring = _counts(48, 48, quick)
    return Data(
        list(real_samples.opennsfw(calibration, 106)),
        list(real_samples.opennsfw(scoring, 107)),
        f"cosine, {scoring} drawings, against float",
        bench_scores.cosine,
        bench_scores.cosine,
    )


def magika(path: Path, quick: bool) -> Data:
    """Files of this machine: top-1, where an extension stands for what most of its calibration files are."""
    each = 2 if quick else 8
    pairs = [(kind, file) for kind, files in bench_samples.files_of_kinds(2 * each).items() for file in files]
    calibration = [(kind, {"bytes": bench_samples.ends_of(file)}) for kind, file in pairs[::2]]
    scoring = [(kind, {"bytes": bench_samples.ends_of(file)}) for kind, file in pairs[1::2]]
    session = plain_session(path, 2)
    votes: dict[str, Counter[int]] = {}
    for kind, feeds in calibration:
        votes.setdefault(kind, Counter())[int(np.argmax(session.run(None, feeds)[0]))] += 1
    known, labels = ([votes[kind].most_common(1)[0][0] for kind, _ in half] for half in (calibration, scoring))
    return Data(
        [feeds for _, feeds in calibration],
        [feeds for _, feeds in scoring],
        f"top-1, {len(scoring)} files of {len(votes)} kinds",
        bench_scores.top1(labels),
        bench_scores.top1(known),
    )


EVERY = 5
"""Of the frames of speech each fifth calibrates; they are near each other."""


def silero_vad(path: Path, quick: bool) -> Data:
    """Recorded prompts in noise at 16 kHz, frame by frame with the state carried on: area under the ROC curve."""
    calibration, scoring = _counts(4, 12, quick)
    clips = [read_sound(prompt.file, 16000) for prompt in prompts.prompts(calibration + scoring)]
    random = np.random.default_rng(8)
    made = [bench_samples.spoken_frames(clip, random) for clip in clips]
    session = plain_session(path, 2)
    warmed = [feeds for frames, _ in made[:calibration] for feeds in bench_samples.with_states(session, frames)]
    known = [label for _, labels in made[:calibration] for label in labels]
    return Data(
        warmed[::EVERY],
        [feeds for frames, _ in made[calibration:] for feeds in frames],
        f"AUC, {scoring} clips of {bench_samples.FRAMES} frames",
        bench_scores.area_under_curve([label for _, labels in made[calibration:] for label in labels]),
        bench_scores.area_under_curve(known[::EVERY]),
        {"state": "stateN"},
        bench_samples.FRAMES,
    )


def basic_pitch(path: Path, quick: bool) -> Data:
    """Steady synthetic notes: F1 of the frames of the note output."""
    name = onnx.load(path).graph.input[0].name
    calibration, scoring = _counts(24, 24, quick)
    random = np.random.default_rng(9)
    pieces = [bench_samples.notes(random) for _ in range(calibration + scoring)]
    feeds = [{name: wave} for wave, _ in pieces]
    return Data(
        feeds[:calibration],
        feeds[calibration:],
        f"frame F1 of notes, {scoring} pieces",
        bench_scores.frames_f1([label for _, label in pieces[calibration:]], 1, 0.3),
        bench_scores.frames_f1([label for _, label in pieces[:calibration]], 1, 0.3),
    )


def effnet_lite0(path: Path, quick: bool) -> Data:
    """Photos with one ImageNet class each, calibrating on one half of `imagenet_split.json`: top-1 on the other."""
    photos = photos_dir()
    labels = json.loads((photos / "labels.json").read_text(encoding="utf-8"))
    split = json.loads(SPLIT.read_text(encoding="utf-8"))
    rules = parse_image_spec(RULES)
    calibration, scoring = _counts(64, 125, quick)
    names = {half: split[half][:count] for half, count in (("calibrate", calibration), ("score", scoring))}
    feeds = {
        half: [{"image": load_image(photos / name, rules, (1, 3, 224, 224), "float32")} for name in files]
        for half, files in names.items()
    }
    return Data(
        feeds["calibrate"],
        feeds["score"],
        f"top-1, {scoring} photos",
        bench_scores.top1([labels[name]["class_index"] for name in names["score"]]),
        bench_scores.top1([labels[name]["class_index"] for name in names["calibrate"]]),
    )


def photos_dir() -> Path:
    """Return the folder of photos: `$EDGERT_PHOTOS`, else in `shared` beside this repository.

    EnvironmentFailed where it is not there: the photos may be measured with, not handed on.
    """
    chosen = os.environ.get("EDGERT_PHOTOS")
    folder = Path(chosen) if chosen else ROOT.parent / "shared" / "models" / "imagenet_sample"
    if not (folder / "labels.json").is_file():
        raise EnvironmentFailed(f"there are no photos in {folder}", "set EDGERT_PHOTOS to a folder with labels.json")
    return folder


def minilm_l6(path: Path, quick: bool) -> Data:
    """Transcripts of prompts: cosine of the embeddings, and Spearman's correlation of their similarities."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(fetch("minilm-l6") / "tokenizer.json"))
    tokenizer.no_padding()
    calibration, scoring = _counts(64, 128, quick)
    texts = bench_samples.transcripts()[: calibration + scoring]
    feeds = [bench_samples.tokens(tokenizer.encode(text)) for text in texts]
    middle = sorted(feeds[calibration:], key=lambda one: one["input_ids"].shape[1])
    middle[0], middle[len(middle) // 2] = middle[len(middle) // 2], middle[0]  # the first is the one that is timed
    return Data(
        feeds[:calibration],
        middle,
        f"cosine and Spearman, {scoring} sentences, against float",
        bench_scores.embeddings,
        bench_scores.embeddings,
    )


def face_detection(path: Path, quick: bool) -> Data:
    """Drawn faces: box and key points of the best one against the float model's."""
    calibration, scoring = _counts(48, 48, quick)
    return Data(
        list(real_samples.face_detection(calibration, 108)),
        list(real_samples.face_detection(scoring, 109)),
        f"1 - box and key point error / width, {scoring} drawn faces, against float",
        bench_scores.face_boxes,
        bench_scores.face_boxes,
    )


def face_mesh(path: Path, quick: bool) -> Data:
    """Drawn faces: landmarks against the float model's."""
    calibration, scoring = _counts(48, 48, quick)
    return Data(
        list(real_samples.face_mesh(calibration, 110)),
        list(real_samples.face_mesh(scoring, 111)),
        f"1 - landmark error / eye distance, {scoring} drawn faces, against float",
        bench_scores.face_landmarks,
        bench_scores.face_landmarks,
    )


def iris(path: Path, quick: bool) -> Data:
    """Drawn eyes: landmarks against the float model's."""
    calibration, scoring = _counts(48, 48, quick)
    random = np.random.default_rng(112)
    eyes = [{"input_1": bench_samples.eye(random)} for _ in range(calibration + scoring)]
    return Data(
        eyes[:calibration],
        eyes[calibration:],
        f"1 - landmark error / width, {scoring} drawn eyes, against float",
        bench_scores.eye_landmarks,
        bench_scores.eye_landmarks,
    )


def _counts(calibration: int, scoring: int, quick: bool) -> tuple[int, int]:
    return (max(2, calibration // 6), max(2, scoring // 6)) if quick else (calibration, scoring)


DATA: Mapping[str, Callable[[Path, bool], Data]] = {
    "ppocr-det": ppocr_det,
    "ppocr-rec": ppocr_rec,
    "ppocr-cls": ppocr_cls,
    "opennsfw": opennsfw,
    "magika": magika,
    "silero-vad": silero_vad,
    "silero-vad-16k": silero_vad,
    "basic-pitch": basic_pitch,
    "basic-pitch-tflite": basic_pitch,
    "effnet-lite0": effnet_lite0,
    "minilm-l6": minilm_l6,
    "face-detection": face_detection,
    "face-mesh": face_mesh,
    "iris": iris,
}
"""Model -> its data: called with the ONNX file and whether few samples do."""
