"""What a model of text lines or of speech reads, for error rates.

Text lines: greedy CTC with the characters that the model's metadata lists under `character`, as PaddleOCR's exporter
writes them. Speech: the tokens that the task's decoder generates.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from converters.generation import DecoderRun
from converters.verify.evaluation import Array, Feeds, Run
from edgert.errors import BadInput, VerificationFailed
from edgert.manifest import TensorSpec
from edgert.runtime.tokens import Tokenizer
from edgert.runtime.transcribe import Decoder, generate
from edgert.task import GenerateSpec

FeedsOf = Callable[[Path], Iterable[Feeds]]
"""Gives what is fed for a file: one run for a line, one for each window of a sound."""

MOST_TOKENS, FURTHER = 4, 16
"""Tokens that a character may need, and how many more are generated: what does not end is wrong long before."""


def charset(path: Path) -> list[str]:
    """Return the characters that the ONNX model at `path` says its classes are; empty where it says nothing."""
    found = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return found["character"].split("\n") if found.get("character") else []


def line_output(outputs: Sequence[TensorSpec], characters: Sequence[str]) -> str | None:
    """Return the output that has a class for each of the characters, None where there is none of either."""
    if not characters:
        return None
    counts = (len(characters) + 1, len(characters) + 2)
    fits = [spec for spec in outputs if spec.dtype.startswith("float") and len(spec.shape) in (2, 3)]
    return next((one.name for one in fits if one.shape[-1] in counts or not isinstance(one.shape[-1], int)), None)


def line_text(values: Array, characters: Sequence[str]) -> str:
    """Return the text of one line, [1, T, C], [T, 1, C] or [T, C], by greedy CTC: runs merged, blanks dropped.

    Class 0 is the blank. C is one more than the characters, or two where a space comes last; BadInput otherwise.
    """
    classes = ["", *characters, " "]
    if values.size > values.shape[-1] * max(values.shape[:-1]) or values.shape[-1] not in (
        len(classes) - 1,
        len(classes),
    ):
        raise BadInput(
            f"an output of shape {list(values.shape)} is no line of {len(classes) - 1} or {len(classes)} classes",
            "give one line in each sample, and a model whose metadata lists the characters it was trained with",
        )
    best = values.reshape(-1, values.shape[-1]).argmax(axis=1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)] if best.size else best
    return "".join(classes[index] for index in kept).strip()


@dataclass(frozen=True)
class LineReader:
    """Reads the one line of text in a file, from an output with a class for each of the characters."""

    output: str
    characters: Sequence[str]
    feeds_of: FeedsOf

    def read(self, run: Run, path: Path, truth: str) -> str:
        """Return the text; `truth` is not looked at."""
        return " ".join(line_text(run(feeds)[self.output], self.characters) for feeds in self.feeds_of(path))


@dataclass(frozen=True)
class SpeechReader:
    """Turns a sound into text with an encoder and the decoder that generates tokens."""

    tokenizer: Tokenizer
    spec: GenerateSpec
    feeds_of: FeedsOf
    encode: Run
    decoder: Decoder

    def read(self, run: Run, path: Path, truth: str) -> str:
        """Return the transcript with `run` as the encoder; `truth` bounds how long it may become."""
        return self.transcript(run, self.decoder, path, truth)

    def with_decoder(self, inputs: Sequence[TensorSpec]) -> "DecoderReader":
        """Return what reads with a decoder of these inputs."""
        return DecoderReader(self, tuple(inputs))

    def transcript(self, encode: Run, decoder: Decoder, path: Path, truth: str) -> str:
        """Return the transcript by an encoder and a decoder."""
        most = len(self.spec.prompt) + MOST_TOKENS * len(truth) + FURTHER
        spec = replace(self.spec, max_tokens=min(self.spec.max_tokens, most))
        return " ".join(self._window(encode(feeds), decoder, spec) for feeds in self.feeds_of(path)).strip()

    def _window(self, encoded: Mapping[str, Array], decoder: Decoder, spec: GenerateSpec) -> str:
        try:
            return self.tokenizer.decode(generate(encoded, decoder, spec))
        except VerificationFailed:  # logits that are not numbers: a broken variant
            return ""


@dataclass(frozen=True)
class DecoderReader:
    """Turns a sound into text with the original encoder and a decoder."""

    speech: SpeechReader
    inputs: tuple[TensorSpec, ...]

    def read(self, run: Run, path: Path, truth: str) -> str:
        """Return the transcript with `run` as the decoder; `truth` bounds how long it may become."""
        return self.speech.transcript(self.speech.encode, DecoderRun(self.inputs, run), path, truth)


Reader = LineReader | SpeechReader | DecoderReader
