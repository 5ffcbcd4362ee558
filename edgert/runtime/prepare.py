"""Texts, sounds and pictures as the inputs of a model, by the task and the image rules of its manifest.

What the outputs mean is left to `answers`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgert.errors import UsageError
from edgert.image_spec import ImageSpec
from edgert.manifest import TensorSpec
from edgert.runtime.audio import MAX_SAMPLES, read_sound
from edgert.runtime.images import frame_input, load_image
from edgert.runtime.mel import Wave, fit_length, log_mel, normalised
from edgert.runtime.tokens import Tokenizer
from edgert.task import AudioSpec, Task

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SHORTEST_REST_S = 0.1  # of a sound in windows: what is left of it after the last whole one, and shorter, says nothing


class Preparer:
    """Makes feeds; `takes_text`, `takes_sound`, `takes_picture` say of what. Made by `open_preparer`.

    The feeds hold the inputs that the text, sound or picture is for; other inputs of the model are the caller's.
    """

    def __init__(self, task: Task | None, inputs: Sequence[TensorSpec], tokenizer: Tokenizer | None) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._task = task
        self._tokenizer = tokenizer
        self._text_input = _text_input(task, inputs)
        self._picture = _picture_input(inputs)
        self._audio = task.audio if task is not None else None

    @property
    def takes_text(self) -> bool:
        """Whether `texts` works."""
        return self._tokenizer is not None or self._text_input is not None

    @property
    def takes_sound(self) -> bool:
        """Whether `sound` and `windows` work."""
        return self._audio is not None

    @property
    def takes_picture(self) -> bool:
        """Whether `picture` works: one input of the model, and no more, has image rules."""
        return self._picture is not None

    @property
    def sample_rate(self) -> int:
        """The samples a second of the sound that the model takes; UsageError where it takes none."""
        return self._sound_rules().sample_rate

    @property
    def window(self) -> int:
        """How many samples of sound one run takes, 0 for any number; UsageError where the model takes no sound."""
        audio = self._sound_rules()
        if audio.seconds or audio.features != "waveform":
            return round(audio.seconds * audio.sample_rate)
        length = self._inputs[audio.input].shape[_samples_axis(self._inputs[audio.input])]
        return length if isinstance(length, int) else 0

    @property
    def most_texts(self) -> int | None:
        """How many texts fit one run: None for any number, 1 also where a shorter text could not be masked."""
        spec = self._text_input
        if self._tokenizer is not None and self._task is not None and self._task.text is not None:
            spec = self._inputs[self._task.text.ids]
            if not self._task.text.mask and not isinstance(spec.shape[-1], int):
                return 1
        first = spec.shape[0] if spec is not None and spec.shape else None
        return first if isinstance(first, int) else None

    def texts(self, texts: Sequence[str]) -> Feeds:
        """Return the feeds of one run on several texts; UsageError where the model takes no text."""
        if self._text_input is not None:
            spec = self._text_input
            return {spec.name: np.array(texts, object).reshape([-1] + [1] * (len(spec.shape) - 1))}
        if self._tokenizer is None:
            raise _takes_no("text", self._task)
        return self._tokenizer.encode(texts, list(self._inputs.values()))

    def sound(self, path: Path, *, max_samples: int = MAX_SAMPLES) -> Feeds:
        """Return the feeds of one run on the beginning of a sound file, as much of it as fits."""
        audio = self._sound_rules()
        return self._sound_feeds(read_sound(path, audio.sample_rate, max_samples=max_samples), audio)

    def wave(self, wave: Wave) -> Feeds:
        """Return the feeds of one run on samples, mono at `sample_rate`, as `sound` does on a file of them."""
        return self._sound_feeds(wave, self._sound_rules())

    def windows(self, path: Path) -> Iterator[Feeds]:
        """Yield the feeds of one run after another on the whole of a sound file."""
        audio = self._sound_rules()
        for piece in self.pieces(read_sound(path, audio.sample_rate)):
            yield self._sound_feeds(piece, audio)

    def pieces(self, wave: Wave, length: int = 0, hop: int = 0) -> Iterator[Wave]:
        """Yield windows of a sound, `hop` samples from one to the next (0: one after another), until its end is in one.

        `length` is for a model that takes any number of samples; 0 is all of them.
        """
        length = self.window or length or wave.size
        shortest = min(length, round(SHORTEST_REST_S * self.sample_rate))
        for start in range(0, wave.size, hop or length or 1):
            piece = wave[start : start + length]
            if start == 0 or piece.size >= shortest:
                yield piece
            if start + length >= wave.size:
                return

    def picture(self, path: Path, *, max_pixels: int | None = None) -> Feeds:
        """Return the feeds of one run on a picture; UsageError where the model takes none."""
        spec, rules = self._picture_rules()
        return {spec.name: load_image(path, rules, spec.shape, spec.dtype, max_pixels=max_pixels)}

    def frame(self, pixels: Pixels, name: str) -> Feeds:
        """Return the feeds of one run on RGB pixels, uint8 [height, width, 3], as `picture` does on a file of them."""
        spec, rules = self._picture_rules()
        return {spec.name: frame_input(pixels, rules, spec.shape, spec.dtype, name)}

    def _picture_rules(self) -> tuple[TensorSpec, ImageSpec]:
        spec = self._picture
        if spec is None or spec.image is None:
            raise _takes_no("a picture", self._task)
        return spec, spec.image

    def _sound_rules(self) -> AudioSpec:
        if self._audio is None:
            raise _takes_no("sound", self._task)
        return self._audio

    def _sound_feeds(self, wave: Wave, audio: AudioSpec) -> Feeds:
        spec = self._inputs[audio.input]
        window = self.window
        wave = wave[:window] if window else wave
        wave = fit_length(normalised(wave) if audio.normalise else wave, window)
        if audio.features == "log-mel":
            return {audio.input: log_mel(wave, audio)[np.newaxis].astype(spec.dtype)}
        shape = [1] * len(spec.shape)
        shape[_samples_axis(spec)] = wave.size
        return {audio.input: wave.reshape(shape).astype(spec.dtype)}


def open_preparer(
    task: Task | None,
    inputs: Sequence[TensorSpec],
    file_of: Callable[[str], Path],
    pad_to: int | None = None,
) -> Preparer:
    """Return what makes the feeds of a model with these `inputs`.

    `file_of` finds the files that the task names. `pad_to` fixes the number of tokens of a text. Raises what
    `Tokenizer.open` raises.
    """
    tokenizer = None
    if task is not None and task.text is not None and task.text.ids:
        tokenizer = Tokenizer.open(file_of(task.text.tokenizer), task.text)
        if pad_to is not None:
            inputs = [_with_length(spec, pad_to) if spec.name == task.text.ids else spec for spec in inputs]
    return Preparer(task, inputs, tokenizer)


def _with_length(spec: TensorSpec, length: int) -> TensorSpec:
    return replace(spec, shape=(*spec.shape[:-1], length))


def _text_input(task: Task | None, inputs: Sequence[TensorSpec]) -> TensorSpec | None:
    """Return the input that takes text as it is: the model's only one, of dtype str."""
    if task is None or task.text is not None or len(inputs) != 1 or inputs[0].dtype != "str":
        return None
    return inputs[0]


def _picture_input(inputs: Sequence[TensorSpec]) -> TensorSpec | None:
    pictured = [spec for spec in inputs if spec.image is not None]
    return pictured[0] if len(pictured) == 1 else None


def _samples_axis(spec: TensorSpec) -> int:
    """Return the axis of the samples: the last one that is not a single channel."""
    axes = [axis for axis, size in enumerate(spec.shape) if size != 1]
    return axes[-1] if axes else len(spec.shape) - 1


def _takes_no(what: str, task: Task | None) -> UsageError:
    why = "it declares no task" if task is None else f"its task, {task.kind}, does not say how"
    takes = "give a sound file, such as clip.wav" if task is not None and task.audio is not None else ""
    takes = takes or ("give --text" if task is not None and task.text is not None and task.text.ids else "")
    return UsageError(
        f"the model cannot take {what}: {why}",
        takes
        or "convert it from a source that says so, such as a Hugging Face folder, or give arrays as NAME=FILE.npy",
    )
