"""Texts on the workbench: a model of text brings its sentences, and a static profile makes them all equally long."""

from pathlib import Path

import numpy as np
import pytest

from converters.bench import SENTENCES_WARNING, STATIC_TOKENS, open_bench
from converters.request import Request
from converters.sources.imported import Imported
from edgert.errors import UsageError
from edgert.profile import load_profile
from edgert.task import Task, TextSpec
from tests.runtime.task_files import embedder, save_net, save_word_tokenizer

NPU, CPU = "snapdragon-8-gen-3", "raspberry-pi-5"
INPUTS = ("input_ids", "attention_mask")


def text_model(folder: Path, max_tokens: int = 256) -> Imported:
    """Return a net that embeds texts of at most `max_tokens`, with its tokenizer."""
    task = Task("sentence-embedding", "embedding", text=TextSpec("tokenizer.json", max_tokens, *INPUTS))
    files = {"tokenizer.json": save_word_tokenizer(folder / "tokenizer.json")}
    return Imported("onnx", save_net(embedder(), folder / "embedder.onnx"), "0" * 64, task=task, files=files)


def samples_of(
    imported: Imported, folder: Path, *profiles: str, shapes: dict[str, tuple[int, ...]] | None = None
) -> tuple[list[dict[str, np.ndarray]], str, dict[str, tuple[int, ...]]]:
    """Return the samples that the profiles get, the warning about them, and the shapes that are static."""
    request = Request(imported.path, profiles, folder / "out", samples=8, shapes=shapes or {})
    with open_bench(request, imported, folder, [load_profile(name) for name in profiles]) as bench:
        return list(bench.samples), bench.samples.warning, dict(bench.static_shapes)


@pytest.mark.parametrize("profiles", [(NPU,), (CPU, NPU)])
def test_bench_texts_for_a_static_profile_have_one_length(tmp_path: Path, profiles: tuple[str, ...]) -> None:
    """Each of the built-in sentences is padded to 128 tokens, which the mask tells; the bundle says whose they are."""
    samples, warning, shapes = samples_of(text_model(tmp_path), tmp_path, *profiles)
    assert len(samples) == 8
    assert {array.shape for sample in samples for array in sample.values()} == {(1, STATIC_TOKENS)} == {(1, 128)}
    assert shapes == dict.fromkeys(INPUTS, (1, 128))
    for sample in samples:
        assert 2 < sample["attention_mask"].sum() < 128
        assert np.array_equal(sample["input_ids"] != 0, sample["attention_mask"] != 0)
    assert warning == SENTENCES_WARNING


def test_bench_texts_for_a_cpu_profile_keep_their_lengths(tmp_path: Path) -> None:
    """Where shapes may change no token is padding, and no shape is fixed."""
    samples, warning, shapes = samples_of(text_model(tmp_path), tmp_path, CPU)
    assert all(sample["attention_mask"].all() for sample in samples)
    assert len({sample["input_ids"].shape for sample in samples}) > 1
    assert max(sample["input_ids"].shape[1] for sample in samples) < STATIC_TOKENS
    assert not shapes
    assert warning == SENTENCES_WARNING


def test_bench_texts_of_a_model_with_a_shorter_limit_have_that(tmp_path: Path) -> None:
    """128 is no more than the model itself takes."""
    samples, _, _ = samples_of(text_model(tmp_path, max_tokens=16), tmp_path, NPU)
    assert {sample["input_ids"].shape for sample in samples} == {(1, 16)}


def test_bench_texts_have_the_length_that_is_asked_for(tmp_path: Path) -> None:
    """`--shape` goes before the 128."""
    shapes = dict.fromkeys(INPUTS, (1, 32))
    samples, _, found = samples_of(text_model(tmp_path), tmp_path, NPU, shapes=shapes)
    assert {sample["input_ids"].shape for sample in samples} == {(1, 32)}
    assert found == shapes


def test_bench_of_a_model_without_text_has_no_sentences(tiny_model: Path, tmp_path: Path) -> None:
    """A net of numbers needs --calibration: nothing is made up for it."""
    with pytest.raises(UsageError, match="no --calibration given"):
        samples_of(Imported("onnx", tiny_model, "0" * 64), tmp_path, CPU)
