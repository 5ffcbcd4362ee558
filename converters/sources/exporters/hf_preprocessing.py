"""What comes before a Hugging Face model and after it, as steps that edgert declares: pictures, sound, text, labels.

What a step cannot say is a warning. Whether the rules for pictures say all is not guessed: they are compared with what
the folder's own image processor makes of two pictures.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from protocol import Failed
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerFast

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the number that Pillow gives them, which is what `resample` holds."""

LARGEST_DIFFERENCE = 0.02
"""Of a normalised pixel; rounding of 8-bit pixels is below."""

LONGEST_TEXT = 1 << 16
"""Tokens. A tokenizer with no limit of its own says 1e30."""

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Pictures:
    """The rules for an input of pictures as `ImageSpec` JSON, and the size that they end in."""

    rules: Mapping[str, object]
    height: int
    width: int


def pictures(folder: Path) -> tuple[Pictures | None, list[str]]:
    """Return how the folder's image processor prepares pictures, and what of it cannot be declared."""
    if not (folder / "preprocessor_config.json").is_file():
        return None, ["there is no preprocessor_config.json: say with --image how pictures are prepared"]
    try:
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **_LOCAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return None, [f"preprocessor_config.json cannot be used ({exc}): say with --image how pictures are prepared"]
    found = _rules(processor)
    if found is None:
        return None, ["pictures are resized to no fixed size: say with --image and --shape how they are prepared"]
    apart = _difference(processor, found)
    if apart <= LARGEST_DIFFERENCE:
        return found, []
    what = f"{type(processor).__name__} prepares pictures in a way that cannot be declared in full"
    return found, [f"{what}: values differ by up to {apart:.3g}"]


def _rules(processor: Any) -> Pictures | None:
    size = _size(processor, "size")
    edge, target = _resized(processor, size)
    if target is None:
        return None
    mean, std = _scale(processor)
    rules: dict[str, object] = {
        "color": "bgr" if getattr(processor, "do_flip_channel_order", False) else "rgb",
        "mean": mean,
        "std": std,
        "resize": "crop" if edge else "stretch",
        "filter": FILTERS[int(getattr(processor, "resample", 2))],
    }
    if edge:
        rules["shortest_edge"] = edge
    return Pictures(rules, *target)


def _size(processor: Any, name: str) -> dict[str, int]:
    value = getattr(processor, name, None) or {}
    return {"height": int(value), "width": int(value)} if isinstance(value, int) else dict(value)


def _resized(processor: Any, size: Mapping[str, int]) -> tuple[int, tuple[int, int] | None]:
    """Return the length of the shorter side before the middle is cut, 0 for none, and (height, width) of the end."""
    crop = _size(processor, "crop_size") if getattr(processor, "do_center_crop", False) else {}
    shortest = size.get("shortest_edge", 0) if getattr(processor, "do_resize", True) else 0
    if shortest and getattr(processor, "crop_pct", None):  # ConvNeXT
        whole = shortest >= 384
        return 0 if whole else int(shortest / processor.crop_pct), (shortest, shortest)
    if shortest and "Levit" in type(processor).__name__:
        shortest = int(256 / 224 * shortest)
    if "height" in crop:
        return shortest, (crop["height"], crop["width"])
    return 0, (size["height"], size["width"]) if "height" in size else None


def _scale(processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and std for pixels of 0..255."""
    rescale = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    mean, std = np.zeros(1), np.ones(1)
    if getattr(processor, "do_normalize", True):
        mean, std = np.atleast_1d(processor.image_mean), np.atleast_1d(processor.image_std)
    if getattr(processor, "rescale_offset", False):  # EfficientNet: to -1..1 first
        mean = mean + 1.0
    if getattr(processor, "include_top", False):  # EfficientNet: divided by std a second time
        std = std * np.atleast_1d(processor.image_std)
    return [float(value) for value in mean / rescale], [float(value) for value in std / rescale]


def _difference(processor: Any, found: Pictures) -> float:
    """Return how far the rules are from the processor, over a wide and a tall picture of smooth colours."""
    worst = 0.0
    for width, height in ((640, 427), (331, 500)):
        picture = _picture(width, height)
        theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])
        ours = _prepared(picture, found)
        if theirs.shape != ours.shape:
            return math.inf
        worst = max(worst, float(np.abs(theirs - ours).max()))
    return worst


def _picture(width: int, height: int) -> Image.Image:
    across, down = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    waves = [np.sin(20 * across + phase) * np.cos(15 * down - phase) for phase in (0.0, 1.0, 2.0)]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8), "RGB")


def _prepared(picture: Image.Image, found: Pictures) -> np.ndarray:
    resample = Image.Resampling[str(found.rules["filter"]).upper()]
    edge = int(str(found.rules.get("shortest_edge", 0)))
    if edge:
        short, long = sorted(picture.size)
        longer = int(edge * long / short)
        size = (edge, longer) if picture.width <= picture.height else (longer, edge)
        left, top = (size[0] - found.width) // 2, (size[1] - found.height) // 2
        picture = picture.resize(size, resample).crop((left, top, left + found.width, top + found.height))
    else:
        picture = picture.resize((found.width, found.height), resample)
    pixels = np.asarray(picture, np.float64)
    pixels = pixels[:, :, ::-1] if found.rules["color"] == "bgr" else pixels
    return ((pixels - np.array(found.rules["mean"])) / np.array(found.rules["std"])).transpose(2, 0, 1)[None]


def sound(folder: Path, name: str) -> tuple[dict[str, object] | None, list[str]]:
    """Return the `AudioSpec` JSON for the input `name`, and what cannot be declared."""
    if not (folder / "preprocessor_config.json").is_file():
        return None, ["there is no preprocessor_config.json: feed the input as the model's makers say"]
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, **_LOCAL)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return None, [f"preprocessor_config.json cannot be used ({exc}): feed the input as the model's makers say"]
    spec: dict[str, object] = {"input": name, "sample_rate": int(extractor.sampling_rate)}
    maker = type(extractor).__name__
    if maker == "Wav2Vec2FeatureExtractor":
        return spec | {"features": "waveform", "normalise": bool(extractor.do_normalize)}, []
    if maker == "WhisperFeatureExtractor":
        return spec | {
            "features": "log-mel",
            "seconds": float(extractor.chunk_length),
            "n_fft": int(extractor.n_fft),
            "hop": int(extractor.hop_length),
            "mels": int(extractor.feature_size),
        }, []
    return None, [f"the features of {maker} cannot be declared: feed the input '{name}' yourself"]


def text(folder: Path, out: Path, inputs: Sequence[str], positions: int) -> tuple[dict[str, object] | None, list[str]]:
    """Write tokenizer.json into `out`; return the `TextSpec` JSON, and what cannot be declared.

    `positions` is how many tokens the model itself takes, 0 for any number.
    """
    limits = [limit for limit in (_longest(folder), positions) if limit]
    settings = _json(folder / "tokenizer_config.json")
    warnings = []
    if (folder / "tokenizer.json").is_file():
        _check_tokenizer(folder / "tokenizer.json")
        shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    else:
        try:
            AutoTokenizer.from_pretrained(folder, use_fast=True, **_LOCAL).backend_tokenizer.save(
                str(out / "tokenizer.json")
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as exc:
            told = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
            return None, [f"there is no tokenizer.json and none can be made ({told}): feed tokens yourself"]
    if settings.get("truncation_side") == "left":
        warnings.append("this tokenizer cuts long texts at their beginning; declared steps cut them at their end")
    if _json(folder / "sentence_bert_config.json").get("do_lower_case"):
        warnings.append("sentence-transformers makes texts lower-case first, which cannot be declared: do so yourself")
    known = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    spec: dict[str, object] = {key: name for key, name in known.items() if name in inputs}
    return spec | {"tokenizer": "tokenizer.json", "max_tokens": min(limits, default=512)}, warnings


def _check_tokenizer(path: Path) -> None:
    try:
        PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as exc:  # tokenizers raises plain Exception for whatever it cannot read
        raise Failed(f"{path}: cannot be read: {exc}", "copy the folder again") from exc


def _longest(folder: Path) -> int:
    """Return how many tokens a text is cut to; sentence-transformers says it in a file of its own. 0 for no limit."""
    own = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    limit = own or _json(folder / "tokenizer_config.json").get("model_max_length") or 0
    return int(limit) if limit <= LONGEST_TEXT else 0


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as exc:
        raise Failed(f"{path}: cannot be read: {exc}", "copy the folder again") from exc


def labels(config: Any, out: Path) -> dict[str, object]:
    """Write labels.json into `out`; return the members `labels` and `scores` of the task."""
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    (out / "labels.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    kind = config.problem_type
    if kind == "regression":
        return {"labels": "labels.json", "scores": "none"}
    many = kind == "multi_label_classification" or config.num_labels == 1
    return {"labels": "labels.json", "scores": "sigmoid" if many else "softmax"}
