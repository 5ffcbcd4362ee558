"""Texts, sounds and pictures fill the inputs that the task and the image rules say, in shape and dtype."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgert.errors import UsageError
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.audio import read_sound
from edgert.runtime.prepare import Preparer, open_preparer
from edgert.task import AudioSpec, Task, TextSpec
from tests.runtime.task_files import save_wav, save_word_tokenizer

TEXT = Task("sentence-embedding", "y", text=TextSpec("tokenizer.json", 16, "ids", "mask"))


def file_of(folder: Path) -> Callable[[str], Path]:
    """Return how the files of a bundle in `folder` are found."""
    return lambda name: folder / name


def text_preparer(folder: Path, task: Task = TEXT, length: int | str = "n", pad_to: int | None = None) -> Preparer:
    """Return a preparer of texts for inputs [batch, length]."""
    save_word_tokenizer(folder / "tokenizer.json")
    inputs = [TensorSpec(name, "int64", ("batch", length)) for name in ("ids", "mask")]
    return open_preparer(task, inputs, file_of(folder), pad_to)


def sound_preparer(spec: AudioSpec, shape: tuple[int | str | None, ...], dtype: str = "float32") -> Preparer:
    """Return a preparer of sounds for one input."""
    return open_preparer(Task("audio-classification", "y", audio=spec), [TensorSpec("x", dtype, shape)], Path)


def test_preparer_says_what_it_takes(tmp_path: Path) -> None:
    """A converter asks before it looks for texts, sounds or pictures among the samples."""
    text = text_preparer(tmp_path)
    sound = sound_preparer(AudioSpec("x", "waveform", 8000), (1, "n"))
    picture = open_preparer(None, [TensorSpec("x", "float32", (1, 3, 8, 8), ImageSpec())], file_of(tmp_path))
    none = open_preparer(None, [TensorSpec("x", "str", (1,))], file_of(tmp_path))
    takes = [(item.takes_text, item.takes_sound, item.takes_picture) for item in (text, sound, picture, none)]
    assert takes == [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]


def test_preparer_of_two_picture_inputs_takes_none(tmp_path: Path) -> None:
    """Which of two inputs a picture is for is not guessed."""
    inputs = [TensorSpec(name, "float32", (1, 3, 8, 8), ImageSpec()) for name in ("left", "right")]
    assert not open_preparer(None, inputs, file_of(tmp_path)).takes_picture


def test_texts_with_pad_to_have_this_length(tmp_path: Path) -> None:
    """A converter for static shapes decides the length of every text, of all inputs alike."""
    feeds = text_preparer(tmp_path, pad_to=5).texts(["dog", "the cat sat on the mat"])
    assert {name: array.shape for name, array in feeds.items()} == {"ids": (2, 5), "mask": (2, 5)}
    assert feeds["mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


@pytest.mark.parametrize(
    ("mask", "shape", "most"),
    [("mask", ("b", "n"), None), ("mask", (1, "n"), 1), ("mask", (4, 8), 4), ("", ("b", "n"), 1), ("", ("b", 8), None)],
)
def test_most_texts_is_what_one_run_can_hold(
    tmp_path: Path, mask: str, shape: tuple[int | str, ...], most: int | None
) -> None:
    """A fixed batch limits it, and so does a missing mask where the length follows the longest text."""
    save_word_tokenizer(tmp_path / "tokenizer.json")
    task = Task("sentence-embedding", "y", text=TextSpec("tokenizer.json", 16, "ids", mask))
    inputs = [TensorSpec(name, "int64", shape) for name in ("ids", "mask")]
    assert open_preparer(task, inputs, file_of(tmp_path)).most_texts == most


@pytest.mark.parametrize("shape", [("rows", 1), ("rows",), (1, 1)])
def test_texts_for_a_model_that_takes_text_are_an_array_of_it(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    """Where the only input is text, texts go in as they are; a task says that this is what the model is for."""
    preparer = open_preparer(Task("classification", "y"), [TensorSpec("t", "str", shape)], file_of(tmp_path))
    array = preparer.texts(["a", "b"])["t"]
    assert array.shape == (2, 1) if len(shape) == 2 else (2,)
    assert array.ravel().tolist() == ["a", "b"]
    assert preparer.most_texts == (1 if shape[0] == 1 else None)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 400), (1, 400)),
        (("batch", "samples"), (1, 100)),
        (("samples",), (100,)),
        ((400,), (400,)),
        ((1, 400, 1), (1, 400, 1)),
        ((None, 1, 50), (1, 1, 50)),
    ],
)
def test_sound_fills_the_axis_of_the_samples(
    tmp_path: Path, shape: tuple[int | str | None, ...], expected: tuple[int, ...]
) -> None:
    """Samples are the last axis that is not one channel, cut or padded where its length is fixed."""
    save_wav(tmp_path / "x.wav", np.full(100, 0.5), 8000)
    array = sound_preparer(AudioSpec("x", "waveform", 8000), shape).sound(tmp_path / "x.wav")["x"]
    assert array.shape == expected
    kept = min(100, array.size)
    assert array.ravel()[:kept] == pytest.approx(0.5, abs=1e-4)
    assert not array.ravel()[kept:].any()


def test_sound_normalised_has_mean_and_variance_before_the_padding(tmp_path: Path) -> None:
    """The zeros after a short sound do not count."""
    save_wav(tmp_path / "x.wav", 0.2 + 0.1 * np.sin(np.arange(800)), 8000)
    spec = AudioSpec("x", "waveform", 8000, seconds=0.2, normalise=True)
    array = sound_preparer(spec, (1, "n"), "float16").sound(tmp_path / "x.wav")["x"]
    assert (array.shape, array.dtype) == ((1, 1600), np.float16)
    sound = array[0, :800].astype(np.float64)
    assert (sound.mean(), sound.var()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-2))
    assert not array[0, 800:].any()


def test_sound_as_log_mel_has_a_frame_per_hop(tmp_path: Path) -> None:
    """Features are [1, mels, frames], of the declared length whatever the sound's."""
    save_wav(tmp_path / "x.wav", 0.5 * np.sin(np.arange(3000)), 8000)
    spec = AudioSpec("x", "log-mel", 16000, seconds=2.0, n_fft=400, hop=160, mels=40)
    assert sound_preparer(spec, (1, 40, 200)).sound(tmp_path / "x.wav")["x"].shape == (1, 40, 200)


def test_windows_are_the_whole_sound(tmp_path: Path) -> None:
    """Two and a half seconds in windows of one are three, each as if it were a sound alone; a rest of 50 ms is left."""
    wave = np.repeat([0.1, 0.2, 0.3], 8000)[:20_000]
    save_wav(tmp_path / "x.wav", wave, 8000)
    preparer = sound_preparer(AudioSpec("x", "waveform", 8000, seconds=1.0), (1, 8000))
    found = [feeds["x"] for feeds in preparer.windows(tmp_path / "x.wav")]
    assert [array[0, 0] for array in found] == pytest.approx([0.1, 0.2, 0.3], abs=1e-3)
    assert not found[2][0, 4000:].any()
    save_wav(tmp_path / "x.wav", wave[:8400], 8000)
    assert len(list(preparer.windows(tmp_path / "x.wav"))) == 1


def test_windows_of_a_sound_shorter_than_a_rest_are_one(tmp_path: Path) -> None:
    """A sound of 10 ms is used as it is."""
    save_wav(tmp_path / "x.wav", np.ones(80), 8000)
    preparer = sound_preparer(AudioSpec("x", "waveform", 8000, seconds=1.0), (1, 8000))
    assert len(list(preparer.windows(tmp_path / "x.wav"))) == 1


@pytest.mark.parametrize("features", ["waveform", "log-mel"])
def test_wave_is_what_a_file_of_its_samples_is(tmp_path: Path, features: str) -> None:
    """A live sound takes the same steps as a file."""
    rules = {"n_fft": 400, "hop": 160, "mels": 40} if features == "log-mel" else {"normalise": True}
    shape = (1, 40, 50) if features == "log-mel" else (1, 8000)
    preparer = sound_preparer(AudioSpec("x", features, 16000, seconds=0.5, **rules), shape)  # type: ignore[arg-type]
    path = save_wav(tmp_path / "x.wav", 0.5 * np.sin(np.arange(6000)), 16000)
    wave = read_sound(path, preparer.sample_rate)
    np.testing.assert_array_equal(preparer.wave(wave)["x"], preparer.sound(path)["x"])
    assert (preparer.sample_rate, preparer.window) == (16000, 8000)


@pytest.mark.parametrize(
    ("length", "hop", "starts"),
    [(0, 0, [0]), (2000, 0, [0, 2000, 4000]), (2000, 1000, [0, 1000, 2000, 3000]), (2000, 3000, [0, 3000])],
)
def test_pieces_reach_the_end_once(length: int, hop: int, starts: list[int]) -> None:
    """Windows of a model that takes any length: no piece begins after one that has the end of the sound."""
    wave = np.arange(4900, dtype=np.float32)
    found = list(sound_preparer(AudioSpec("x", "waveform", 8000), (1, "n")).pieces(wave, length, hop))
    assert [piece[0] for piece in found] == starts
    assert [piece.size for piece in found] == [min(length or 4900, 4900 - start) for start in starts]


def test_picture_follows_the_rules_of_its_input(tmp_path: Path) -> None:
    """The feeds hold the input with image rules only."""
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    inputs = [TensorSpec("n", "int64", ()), TensorSpec("x", "float32", (1, 3, 2, 2), ImageSpec())]
    feeds = open_preparer(None, inputs, file_of(tmp_path)).picture(tmp_path / "red.png")
    assert list(feeds) == ["x"]
    assert feeds["x"][0, :, 0, 0].tolist() == [1, 0, 0]


def test_preparer_asked_for_what_the_model_does_not_take_says_why(tmp_path: Path) -> None:
    """The task is named, or that there is none, and what to do."""
    preparer = open_preparer(None, [TensorSpec("x", "float32", (1,))], file_of(tmp_path))
    for call in (
        lambda: preparer.texts(["a"]),
        lambda: preparer.sound(Path("x.wav")),
        lambda: preparer.picture(Path("x")),
    ):
        with pytest.raises(UsageError, match="it declares no task") as caught:
            call()
        assert "NAME=FILE.npy" in caught.value.remedy
    with pytest.raises(UsageError, match="its task, sentence-embedding, does not say how"):
        text_preparer(tmp_path).sound(Path("x.wav"))
