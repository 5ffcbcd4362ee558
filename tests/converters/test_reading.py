"""Models that read are scored by error rates: lines of text, and speech with its decoder."""

import csv
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.parts import open_parts
from converters.sources.imported import Imported
from edgert.image_spec import ImageSpec
from edgert.profile import load_profile
from examples.ocr.lines import render_lines
from tests.converters.evaluated import PROFILE, opened
from tests.runtime.task_files import SPEECH, decoder, encoder, save_net, save_word_tokenizer


def test_cer_of_lines_comes_from_the_characters_in_the_metadata(model_path, tmp_path: Path) -> None:
    """PP-OCR reads rendered lines: CER is the default with labels, and its rise is the drop."""
    lines = list(render_lines(5, 7))
    for number, line in enumerate(lines):
        line.picture.save(tmp_path / f"{number}.png")
    labels = tmp_path / "labels.csv"
    with labels.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows((f"{number}.png", line.text) for number, line in enumerate(lines[:4]))
    rules = {"x": ImageSpec("bgr", (127.5,), (127.5,), "pad")}
    given = {"calibration": str(tmp_path), "labels": labels, "images": rules, "shapes": {"x": (1, 3, 48, 320)}}
    with opened(model_path("ppocr-rec"), tmp_path / "out", **given) as job:
        assert job.request.metric == "cer"
        assert not job.shared.evaluation.higher_is_better
        assert 0 <= job.shared.reference_score < 0.2
        blank = job.evaluate(lambda feeds: {name: 0 * array for name, array in job.shared.original.run(feeds).items()})
        assert blank == 1.0
        assert job.gate({}, blank) == pytest.approx(job.shared.reference_score)


def _speech(folder: Path) -> Imported:
    return Imported(
        "onnx",
        save_net(encoder(), folder / "encoder.onnx"),
        "0" * 64,
        task=SPEECH,
        parts={"decoder": save_net(decoder(), folder / "decoder.onnx")},
        files={"tokenizer.json": save_word_tokenizer(folder / "tokenizer.json")},
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Return the labels of a quiet and a loud clip: "the dog cat" is said in the first, "cat dog cat" in the second."""
    for name, loudness in (("quiet", -5), ("loud", 0), ("rest", -5)):
        features = np.random.default_rng(0).normal(loudness, size=(1, 80, 100)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", features=features)
    labels = tmp_path / "labels.csv"
    labels.write_text('quiet.npz,"The dog, cat."\nloud.npz,the dog cat\n', encoding="utf-8")
    return labels


def test_wer_of_speech_runs_encoder_and_decoder(clips: Path, tmp_path: Path) -> None:
    """One word of six is wrong; an encoder that hears nothing makes the loud clip right, a deaf one by chance."""
    with opened(_speech(tmp_path), tmp_path / "out", calibration=str(tmp_path), labels=clips) as job:
        assert job.request.metric == "wer"
        assert job.shared.reference_score == pytest.approx(1 / 6)
        silent = job.evaluate(lambda feeds: {"hint": 0 * job.shared.original.run(feeds)["hint"]})
        assert silent == 0.0
        assert job.gate({}, silent) == pytest.approx(1 + 1 / 6)
        nonsense = job.evaluate(lambda feeds: {"hint": np.full((1, 18), np.nan, np.float32)})
        assert nonsense == 1.0


def test_wer_judges_the_decoder_with_the_original_encoder(clips: Path, tmp_path: Path) -> None:
    """The part has an evaluation of its own, with the same words; the labels belong to the whole model."""
    with (
        opened(_speech(tmp_path), tmp_path / "out", calibration=str(tmp_path), labels=clips) as job,
        ExitStack() as stack,
    ):
        (bench,) = [stack.enter_context(one) for one in open_parts(job.shared, [load_profile(PROFILE)])]
        part = replace(job, shared=bench)
        assert bench.request.metric == "wer"
        assert bench.reference_score == pytest.approx(1 / 6)

        def end(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = bench.original.run(feeds)
            return {**outputs, "logits": np.eye(18, dtype=np.float32)[3].reshape(1, 1, 18)}

        assert part.evaluate(end) == 1.0


def test_function_for_speech_leaves_the_decoder_to_its_tokens_and_says_so(
    clips: Path, tmp_path: Path, monkeypatch
) -> None:
    """A function gets the main graph; the part is judged by agreement, with a warning in its bundle."""
    (tmp_path / "judge_speech.py").write_text("def score(run):\n    return 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = {"calibration": str(tmp_path), "evaluate": "judge_speech:score"}
    with opened(_speech(tmp_path), tmp_path / "out", **given) as job, ExitStack() as stack:
        (bench,) = [stack.enter_context(one) for one in open_parts(job.shared, [load_profile(PROFILE)])]
        assert bench.evaluation is None
        assert bench.request.metric == "cosine"
        assert "judge_speech:score is of the whole model" in bench.samples.warning
