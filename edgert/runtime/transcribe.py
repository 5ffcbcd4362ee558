"""Tokens one by one, greedily, from a decoder that takes its own cache, as a task's GenerateSpec says.

The decoder is anything with `inputs` and `run`. Making the features is left to `prepare`, text to `tokens`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from edgert.errors import VerificationFailed
from edgert.manifest import TensorSpec
from edgert.task import GenerateSpec

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

_REMEDY = "convert the model again"


class Decoder(Protocol):
    """What generation needs of a model or a session."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that it takes."""

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Run once."""


def generate(encoded: Mapping[str, Array], decoder: Decoder, spec: GenerateSpec) -> list[int]:
    """Return the tokens after the prompt, without the end, for what the main graph made of one clip.

    VerificationFailed when the decoder is not what the spec says; else what the decoder's `run` raises.
    """
    return [token for _, token in _steps(encoded, decoder, spec) if token is not None and token not in spec.end]


def decoder_feeds(encoded: Mapping[str, Array], decoder: Decoder, spec: GenerateSpec) -> Iterator[Feeds]:
    """Yield what the decoder is fed at each step of `generate`: samples of its inputs."""
    for feeds, _ in _steps(encoded, decoder, spec):
        yield feeds


def _steps(encoded: Mapping[str, Array], decoder: Decoder, spec: GenerateSpec) -> Iterator[tuple[Feeds, int | None]]:
    """Yield what the decoder was fed at each step and the token that it chose, None within the prompt.

    Ends after a token of `end`, or with prompt and answer at `max_tokens`.
    """
    inputs = {tensor.name: tensor for tensor in decoder.inputs}
    _check_inputs(inputs, encoded, spec)
    cross = {name: encoded[output] for output, name in spec.cross.items()}
    cache = {name: np.zeros(_empty(inputs[name]), inputs[name].dtype) for name in spec.cache}
    tokens = list(spec.prompt)
    for position in range(spec.max_tokens - 1):
        ids = np.full([1] * len(inputs[spec.ids].shape), tokens[position], inputs[spec.ids].dtype)
        feeds = {spec.ids: ids, **cross, **cache}
        outputs = decoder.run(feeds)
        missing = sorted({spec.logits, *spec.cache.values()} - outputs.keys())
        if missing:
            raise VerificationFailed(f"the decoder has no output '{missing[0]}', which the task names", _REMEDY)
        cache = {name: outputs[output] for name, output in spec.cache.items()}
        if position < len(spec.prompt) - 1:
            yield feeds, None
            continue
        tokens.append(_choose(outputs, spec, first=position == len(spec.prompt) - 1))
        yield feeds, tokens[-1]
        if tokens[-1] in spec.end:
            return


def _check_inputs(inputs: Mapping[str, TensorSpec], encoded: Mapping[str, Array], spec: GenerateSpec) -> None:
    """Raise VerificationFailed unless the spec fills exactly the inputs that the decoder has."""
    filled = {spec.ids, *spec.cross.values(), *spec.cache}
    stray = sorted(filled ^ inputs.keys())
    if stray:
        holder = "decoder" if stray[0] in inputs else "task"
        raise VerificationFailed(f"only the {holder} has the decoder's input '{stray[0]}'", _REMEDY)
    absent = sorted(spec.cross.keys() - encoded.keys())
    if absent:
        raise VerificationFailed(f"the model has no output '{absent[0]}', which the decoder takes", _REMEDY)


def _empty(spec: TensorSpec) -> list[int]:
    """Return the shape of an empty cache: one batch, and 0 where the length is free."""
    return [size if isinstance(size, int) else int(axis == 0) for axis, size in enumerate(spec.shape)]


def _choose(outputs: Mapping[str, Array], spec: GenerateSpec, *, first: bool) -> int:
    """Return the likeliest token that may come."""
    logits = outputs[spec.logits]
    scores = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float64)
    for token in (*spec.suppress, *(spec.suppress_first if first else ())):
        if token >= scores.size:
            raise VerificationFailed(f"the task names token {token}, the decoder has {scores.size}", _REMEDY)
        scores[token] = -np.inf
    if np.isnan(scores).any():
        raise VerificationFailed(f"the decoder's output '{spec.logits}' is not a number", _REMEDY)
    return int(scores.argmax())
