"""What the library transformers makes of the pictures, sounds and texts in a folder; run by the Python that has it.

    python transformers_reference.py FOLDER

Reads FOLDER/pictures/*.png, FOLDER/sounds.npz, FOLDER/tokenizer.json and FOLDER/texts.json; writes FOLDER/expected.npz,
whose keys are the subject and the name, as in `clip-96.tall`.
"""

import json
import sys
from pathlib import Path

import numpy as np


def pictures(folder: Path) -> dict[str, np.ndarray]:
    """Return float32 [3, height, width] for each processor and picture; nothing where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return {}
    from transformers import CLIPImageProcessor, ConvNextImageProcessor, MobileNetV2ImageProcessor, ViTImageProcessor

    square = {"height": 96, "width": 96}
    processors = {
        "vit-96": ViTImageProcessor(size=square),
        "clip-96": CLIPImageProcessor(size={"shortest_edge": 96}, crop_size=square),
        "clip-96-in-112": CLIPImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 96, "width": 80}),
        "clip-96-of-64": CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=square),
        "convnext-97": ConvNextImageProcessor(size={"shortest_edge": 97}, crop_pct=0.875),
        "mobilenet-96": MobileNetV2ImageProcessor(size={"shortest_edge": 109}, crop_size=square),
        "vit-lanczos-50": ViTImageProcessor(size={"height": 50, "width": 70}, resample=Image.Resampling.LANCZOS),
        "vit-nearest-50": ViTImageProcessor(size={"height": 50, "width": 70}, resample=Image.Resampling.NEAREST),
    }
    return {
        f"{name}.{path.stem}": np.asarray(processor(Image.open(path).convert("RGB"))["pixel_values"][0], np.float32)
        for path in sorted(folder.glob("*.png"))
        for name, processor in processors.items()
    }


def sounds(path: Path) -> dict[str, np.ndarray]:
    """Return Whisper's features of 5 seconds, and Wav2Vec2's input, as it is and padded to 6 seconds."""
    from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    whisper, wav2vec = WhisperFeatureExtractor(chunk_length=5), Wav2Vec2FeatureExtractor()
    found = {}
    with np.load(path) as waves:
        for name in waves.files:
            as_arrays = {"sampling_rate": 16000, "return_tensors": "np"}
            padded = {**as_arrays, "padding": "max_length", "max_length": 96_000, "truncation": True}
            padded["return_attention_mask"] = True  # without it the padding counts in mean and variance
            found[f"whisper.{name}"] = whisper(waves[name], **as_arrays)["input_features"][0]
            found[f"wav2vec2.{name}"] = wav2vec(waves[name], **as_arrays)["input_values"][0]
            found[f"wav2vec2-6s.{name}"] = wav2vec(waves[name], **padded)["input_values"][0]
    return found


def texts(tokenizer: Path, path: Path) -> dict[str, np.ndarray]:
    """Return ids, mask and types of all texts in one batch, cut to 16 tokens."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), pad_token="[PAD]")
    batch = fast(
        json.loads(path.read_text(encoding="utf-8")),
        padding=True,
        truncation=True,
        max_length=16,
        return_token_type_ids=True,
        return_tensors="np",
    )
    return {f"tokens.{name}": batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    expected = {
        **pictures(folder / "pictures"),
        **sounds(folder / "sounds.npz"),
        **texts(folder / "tokenizer.json", folder / "texts.json"),
    }
    np.savez(folder / "expected.npz", **expected)
