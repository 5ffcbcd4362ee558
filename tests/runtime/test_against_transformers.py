"""Pictures, sounds and texts become the very input that the library transformers makes of them.

One child process, in the environment `huggingface`, makes everything that is compared here.
"""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.images import load_image
from edgert.runtime.mel import fit_length, log_mel, normalised
from edgert.runtime.tokens import Tokenizer
from edgert.task import AudioSpec, TextSpec
from tests.runtime.task_files import save_word_tokenizer, tones

SCRIPT = Path(__file__).with_name("transformers_reference.py")
SIZES = {"wide": (331, 200), "tall": (131, 257), "square": (128, 128), "small": (40, 61)}
TEXTS = ["a dog", "the cat sat on the mat", "unknown wörds, and " + "more " * 30, ""]

OPENAI = {
    "mean": tuple(255 * value for value in (0.48145466, 0.4578275, 0.40821073)),
    "std": tuple(255 * value for value in (0.26862954, 0.26130258, 0.27577711)),
}
HALF = {"mean": (127.5,), "std": (127.5,)}
SPECS: Mapping[str, tuple[ImageSpec, tuple[int, int]]] = {
    "vit-96": (ImageSpec(**HALF), (96, 96)),
    "clip-96": (ImageSpec(**OPENAI, resize="crop", filter="bicubic", shortest_edge=96), (96, 96)),
    "clip-96-in-112": (ImageSpec(**OPENAI, resize="crop", filter="bicubic", shortest_edge=112), (96, 80)),
    "clip-96-of-64": (ImageSpec(**OPENAI, resize="crop", filter="bicubic", shortest_edge=64), (96, 96)),
    "convnext-97": (ImageSpec(**HALF, resize="crop", shortest_edge=int(97 / 0.875)), (97, 97)),
    "mobilenet-96": (ImageSpec(**HALF, resize="crop", shortest_edge=109), (96, 96)),
    "vit-lanczos-50": (ImageSpec(**HALF, filter="lanczos"), (50, 70)),
    "vit-nearest-50": (ImageSpec(**HALF, filter="nearest"), (50, 70)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures of noise, tones, a tokenizer and texts."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "pictures").mkdir()
    random = np.random.default_rng(3)
    for name, (width, height) in SIZES.items():
        smooth = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
        pixels = 0.6 * smooth + 0.4 * random.integers(0, 256, (height, width, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / f"{name}.png")
    np.savez(folder / "sounds.npz", **tones())
    save_word_tokenizer(folder / "tokenizer.json")
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, source_environment: Callable[[str], Path]) -> Mapping[str, np.ndarray]:
    """Return what the library makes of the folder, by subject and name."""
    done = subprocess.run(
        [source_environment("huggingface"), SCRIPT, folder],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", SPECS)
def test_load_image_equals_the_image_processor(folder: Path, expected: Mapping[str, np.ndarray], name: str) -> None:
    """Every filter, the shorter side, odd sizes and pictures smaller than the input: no pixel differs."""
    spec, (height, width) = SPECS[name]
    if not any(key.startswith("vit") for key in expected):
        pytest.skip("Pillow is not installed in the environment huggingface")
    for picture in SIZES:
        values = load_image(folder / "pictures" / f"{picture}.png", spec, (1, 3, height, width), "float32")
        np.testing.assert_allclose(values[0], expected[f"{name}.{picture}"], atol=2e-5, err_msg=picture)


@pytest.mark.parametrize("name", tones())
def test_log_mel_equals_whisper_feature_extractor(expected: Mapping[str, np.ndarray], name: str) -> None:
    """Features of speech-like sound, of a tone at full scale and of silence are within 1e-4."""
    spec = AudioSpec("x", "log-mel", 16000, 5.0, n_fft=400, hop=160, mels=80)
    features = log_mel(fit_length(tones()[name], 80_000), spec)
    np.testing.assert_allclose(features, expected[f"whisper.{name}"], atol=1e-4)


@pytest.mark.parametrize("name", tones())
def test_normalised_equals_wav2vec2_feature_extractor(expected: Mapping[str, np.ndarray], name: str) -> None:
    """Mean and variance are those of the sound, not of the zeros after it."""
    wave = tones()[name]
    padded = fit_length(normalised(wave[:96_000]), 96_000)
    np.testing.assert_allclose(normalised(wave), expected[f"wav2vec2.{name}"], atol=1e-5)
    np.testing.assert_allclose(padded, expected[f"wav2vec2-6s.{name}"], atol=1e-5)


def test_encode_equals_the_fast_tokenizer(folder: Path, expected: Mapping[str, np.ndarray]) -> None:
    """Ids, mask and types of a batch, cut and padded, are the same to the number."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    tokenizer = Tokenizer.open(folder / "tokenizer.json", TextSpec("tokenizer.json", 16, *names))
    feeds = tokenizer.encode(TEXTS, [TensorSpec(name, "int64", ("batch", "sequence")) for name in names])
    for name in names:
        np.testing.assert_array_equal(feeds[name], expected[f"tokens.{name}"])
