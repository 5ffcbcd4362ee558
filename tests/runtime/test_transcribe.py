"""Greedy generation: the prompt is fed first, the cache is carried on, suppressed tokens never come, the end ends."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from edgert.errors import VerificationFailed
from edgert.manifest import TensorSpec
from edgert.runtime.transcribe import decoder_feeds, generate
from edgert.task import GenerateSpec

VOCABULARY = 12
SPEC = GenerateSpec("d", "ids", "logits", (1, 2), (9,), 20, cross={"enc": "cross"}, cache={"past": "present"})
ENCODED = {"enc": np.arange(3, dtype=np.float32)[None]}


class Follower:
    """A decoder that prefers the token after the one it is fed, then the one after that, and records its feeds."""

    def __init__(self, dtype: str = "int64") -> None:
        self.inputs = (
            TensorSpec("ids", dtype, ("batch", "tokens")),
            TensorSpec("cross", "float32", ("batch", 3)),
            TensorSpec("past", "float16", ("batch", 2, "length", 4)),
        )
        self.fed: list[Mapping[str, np.ndarray]] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.fed.append(feeds)
        token = int(feeds["ids"][0, -1])
        logits = np.full((1, 1, VOCABULARY), -5, np.float32)
        logits[0, 0, token + 1 : token + 3] = [2, 1][: VOCABULARY - token - 1]
        entry = np.full((1, 2, 1, 4), token, np.float16)
        return {"logits": logits, "present": np.concatenate([feeds["past"], entry], axis=2)}


def test_generate_follows_the_likeliest_token_to_the_end() -> None:
    """Neither the prompt nor the end is part of the answer."""
    assert generate(ENCODED, Follower(), SPEC) == [3, 4, 5, 6, 7, 8]


def test_generate_feeds_prompt_cross_and_cache() -> None:
    """One token at a time in the decoder's dtype; the encoder's output each time; a cache that is empty, then grows."""
    decoder = Follower("int32")
    generate(ENCODED, decoder, SPEC)
    assert [int(feeds["ids"][0, 0]) for feeds in decoder.fed] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {feeds["ids"].shape for feeds in decoder.fed} == {(1, 1)}
    assert decoder.fed[0]["ids"].dtype == np.int32
    assert all(feeds["cross"] is ENCODED["enc"] for feeds in decoder.fed)
    assert (decoder.fed[0]["past"].shape, decoder.fed[0]["past"].dtype) == ((1, 2, 0, 4), np.float16)
    assert decoder.fed[4]["past"][0, 0, :, 0].tolist() == [1, 2, 3, 4]


def test_generate_suppresses_tokens_always_and_at_the_first_place() -> None:
    """The next best one comes instead."""
    assert generate(ENCODED, Follower(), replace(SPEC, suppress=(5,))) == [3, 4, 6, 7, 8]
    assert generate(ENCODED, Follower(), replace(SPEC, suppress_first=(3, 5))) == [4, 5, 6, 7, 8]


def test_generate_stops_at_the_most_tokens() -> None:
    """The prompt counts: two tokens of it and three of the answer are five."""
    decoder = Follower()
    assert generate(ENCODED, decoder, replace(SPEC, max_tokens=5)) == [3, 4, 5]
    assert len(decoder.fed) == 4


def test_decoder_feeds_are_those_of_generate() -> None:
    """The converter's samples of a decoder are what it will be fed."""
    decoder = Follower()
    generate(ENCODED, decoder, SPEC)
    yielded = list(decoder_feeds(ENCODED, Follower(), SPEC))
    assert len(yielded) == len(decoder.fed)
    for ours, theirs in zip(yielded, decoder.fed, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_decoder_feeds_runs_no_further_than_asked() -> None:
    """Four samples cost four steps of a generation, not all of it."""
    decoder = Follower()
    steps = decoder_feeds(ENCODED, decoder, SPEC)
    for _ in range(4):
        next(steps)
    assert len(decoder.fed) == 4


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(SPEC, ids="tokens"), "decoder's input 'ids'"),
        (replace(SPEC, cache={}), "only the decoder has the decoder's input 'past'"),
        (replace(SPEC, cross={"enc": "crossed"}), "'cross'"),
        (replace(SPEC, cross={"hidden": "cross"}), "the model has no output 'hidden'"),
        (replace(SPEC, logits="scores"), "no output 'scores'"),
        (replace(SPEC, cache={"past": "new"}), "no output 'new'"),
        (replace(SPEC, suppress=(5000,)), "token 5000"),
    ],
)
def test_generate_with_a_spec_that_does_not_fit_is_verification_failed(spec: GenerateSpec, words: str) -> None:
    """What the task names and the decoder lacks is named."""
    with pytest.raises(VerificationFailed) as caught:
        generate(ENCODED, Follower(), spec)
    assert words in caught.value.message


def test_generate_of_logits_that_are_no_numbers_is_verification_failed() -> None:
    """A decoder that computes NaN does not become a transcript."""

    class Broken(Follower):
        def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = super().run(feeds)
            outputs["logits"][:] = np.nan
            return outputs

    with pytest.raises(VerificationFailed, match="'logits' is not a number"):
        generate(ENCODED, Broken(), SPEC)
