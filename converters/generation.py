"""Does a variant of a decoder generate the tokens that the original does?

Each step hides small errors that the next ones build on: an int8 decoder with a cosine of 0.997 at every single step
made nonsense of whole sentences. So a decoder is judged by what it generates as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from converters.verify.parity import ParityMeter
from edgert.manifest import TensorSpec
from edgert.runtime.session import Session
from edgert.runtime.transcribe import generate
from edgert.task import GenerateSpec

Array = np.ndarray
Run = Callable[[Mapping[str, Array]], dict[str, Array]]

TOKENS = "generated tokens"
"""The name that the judgement has among the outputs in a parity."""

FURTHER = 8
"""How many tokens more than the original a variant may generate before it is stopped."""


@dataclass(frozen=True)
class Generation:
    """What the original generates from `encoded`, the main graph's outputs for some samples."""

    inputs: tuple[TensorSpec, ...]
    encoded: Sequence[Mapping[str, Array]]
    spec: GenerateSpec
    expected: Sequence[Sequence[int]]

    @classmethod
    def of(cls, original: Session, encoded: Sequence[Mapping[str, Array]], spec: GenerateSpec) -> "Generation":
        """Generate with the original."""
        return cls(original.inputs, encoded, spec, [generate(clip, original, spec) for clip in encoded])

    def judge(self, run: Run, meter: ParityMeter) -> None:
        """Generate with a variant, and add its tokens beside the expected ones to `meter`, place by place."""
        decoder = DecoderRun(self.inputs, run)
        for clip, expected in zip(self.encoded, self.expected, strict=True):
            most = min(self.spec.max_tokens, len(self.spec.prompt) + len(expected) + FURTHER)
            seen = generate(clip, decoder, replace(self.spec, max_tokens=most))
            length = max(len(expected), len(seen), 1)
            meter.add({TOKENS: _padded(expected, length)}, {TOKENS: _padded(seen, length)})


@dataclass(frozen=True)
class DecoderRun:
    """A decoder that is only a way to run it, with the inputs that it takes."""

    inputs: tuple[TensorSpec, ...]
    call: Run

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Run once."""
        return self.call(feeds)


def _padded(tokens: Sequence[int], length: int) -> Array:
    return np.array([*tokens, *[-1] * (length - len(tokens))], np.int64)
