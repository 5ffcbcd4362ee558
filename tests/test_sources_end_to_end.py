"""The command line from another framework's model to an answer in words: convert, then run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from examples.whisper import ct2
from examples.whisper.prompts import prompts
from examples.whisper.words import words

ROOT = Path(__file__).resolve().parent.parent
PHOTO_RULES = "color=rgb,mean=127,std=128,resize=crop,filter=bicubic,shortest_edge=232"

Ask = Callable[..., str]


@pytest.fixture(scope="session")
def edgert() -> Ask:
    """Return a function that runs the command line, expects success, and returns what it prints on stdout."""

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgert", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def measurements(bundle: Path, ask: Ask) -> dict[str, Any]:
    """Return the measurements that a bundle carries."""
    document: dict[str, Any] = json.loads(ask("inspect", bundle, "--json"))["measurements"]
    return document


def test_sentence_embedder_converted_without_samples_compares_texts(
    edgert: Ask, model_path: Callable[[str], Path], source_environment: Callable[[str], Path], tmp_path: Path
) -> None:
    """A Hugging Face folder and a profile are enough; near sentences are nearer than others, and the source agrees."""
    source_environment("huggingface")
    told = edgert("convert", model_path("minilm-l6"), "-p", "raspberry-pi-5", "--name", "minilm", "-o", tmp_path)
    assert "built-in English sentences" in told
    bundle = tmp_path / "minilm-raspberry-pi-5.edgert"
    near, far = (
        float(
            re.search(r"cosine similarity (-?[0-9.]+)", edgert("run", bundle, "--text", "A cat sits.", "--text", text))[
                1
            ]
        )
        for text in ("A kitten is sitting.", "The stock market fell.")
    )
    assert near > 0.5 > far + 0.2
    found = measurements(bundle, edgert)
    assert found["source"]["reference"] == "source"
    assert found["source"]["outputs"]["sentence_embedding"]["sqnr_db"] > 80
    references = [check["reference"] for variant in found["variants"] for check in variant["checks"]]
    assert set(references) == {"onnx", "source"}


def test_whisper_converted_transcribes_a_clip(
    edgert: Ask, model_path: Callable[[str], Path], source_environment: Callable[[str], Path], tmp_path: Path
) -> None:
    """The bundle of encoder and decoder prints what is said, without the framework."""
    source_environment("huggingface")
    folder, clips = tmp_path / "whisper", tmp_path / "clips"
    ct2.convert(model_path("whisper-tiny-en"), folder)
    clips.mkdir()
    spoken = prompts(4)
    for clip in spoken[:2]:
        (clips / clip.file.name).write_bytes(clip.file.read_bytes())
    edgert("convert", folder, "-p", "x86-avx2", "--precision", "fp32", "--calibration", clips, "-o", tmp_path)
    bundle = tmp_path / "whisper-x86-avx2.edgert"
    answer = json.loads(edgert("run", bundle, spoken[3].file, "--json"))["answer"]
    assert words(answer["items"][0]["transcript"]) == words(spoken[3].text)
    part = measurements(bundle, edgert)["parts"]["decoder"]
    judged = part["variants"][0]["checks"][0]["outputs"]
    assert judged["generated tokens"]["agreement"] == 1.0
    assert judged["logits"]["cosine"] > 0.9999


@pytest.fixture(scope="session")
def efficientnet(
    edgert: Ask,
    model_path: Callable[[str], Path],
    source_environment: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the bundle of EfficientNet-Lite0 in float32, from its state_dict."""
    source_environment("torch", "huggingface")
    out = tmp_path_factory.mktemp("efficientnet")
    photos = out / "photos"
    photos.mkdir()
    for index in range(3):
        Image.effect_mandelbrot((320, 280), (-2 + index / 4, -1, 1, 1), 60).convert("RGB").save(photos / f"{index}.png")
    edgert(
        *("convert", model_path("effnet-lite0"), "--factory", "examples.efficientnet.model:build"),
        *("-p", "x86-avx2", "--precision", "fp32", "--calibration", photos, "--image", PHOTO_RULES),
        *("--classes", model_path("imagenet-classes"), "--name", "effnet", "-o", out),
    )
    return out / "effnet-x86-avx2.edgert"


def test_image_classifier_run_prints_the_five_likeliest_class_names(
    edgert: Ask, efficientnet: Path, model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """A picture gives five names of the list, the likeliest first."""
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 80).convert("RGB").save(tmp_path / "photo.jpg")
    lines = re.findall(r"^ +([0-9.]+) +(.+)$", edgert("run", efficientnet, tmp_path / "photo.jpg"), re.MULTILINE)
    names = json.loads(model_path("imagenet-classes").read_text("utf-8"))
    assert len(lines) == 5
    assert all(name in names for _, name in lines)
    shares = [float(share) for share, _ in lines]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1.001


@pytest.mark.shared
def test_image_classifier_run_knows_a_fish(edgert: Ask, efficientnet: Path, shared_folder: Path) -> None:
    """A photo of a tench is called a tench."""
    photo = shared_folder / "models" / "imagenet_sample" / "n01440764.jpg"
    answer = json.loads(edgert("run", efficientnet, photo, "--json"))["answer"]
    assert answer["items"][0]["classes"][0]["label"] == "tench"


def test_run_and_help_never_import_a_framework(edgert: Ask, efficientnet: Path) -> None:
    """What a device runs imports neither a framework nor the converter."""
    code = (
        "import sys; from edgert.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print([name for name in ('torch', 'tensorflow', 'sklearn', 'transformers',"
        " 'paddle', 'onnx', 'converters') if name in sys.modules])"
    )
    for arguments in (["--help"], ["inspect", str(efficientnet)], ["run", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=dict(os.environ), check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"
