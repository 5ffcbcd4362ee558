"""A decoder is judged by the tokens that it generates, not by single steps alone."""

from collections.abc import Mapping

import numpy as np

from converters.generation import FURTHER, TOKENS, Generation
from converters.verify.parity import ParityMeter, gate_value
from edgert.manifest import TensorSpec
from edgert.runtime.transcribe import generate
from edgert.task import GenerateSpec

END = 9
SPEC = GenerateSpec("decoder", "ids", "logits", prompt=(0,), end=(END,), max_tokens=40)
INPUTS = (TensorSpec("ids", "int64", (1, 1)),)


class Counter:
    """A decoder whose next token is the last one plus one; `slip` is what it says after 5 instead of 6."""

    inputs = INPUTS

    def __init__(self, slip: int = 6) -> None:
        self.slip = slip
        self.calls = 0

    def run(self, feeds: Mapping[str, np.ndarray], /) -> dict[str, np.ndarray]:
        """Return logits [1, 1, 10]."""
        self.calls += 1
        token = int(feeds["ids"][0, 0])
        logits = np.zeros((1, 1, 10), np.float32)
        logits[0, 0, self.slip if token == 5 else min(token + 1, END)] = 1
        return {"logits": logits}


def judged(variant: Counter) -> float:
    """Return the share of right tokens of a variant on two clips."""
    expected = generate({}, Counter(), SPEC)
    assert expected == [1, 2, 3, 4, 5, 6, 7, 8]
    generation = Generation(INPUTS, [{}, {}], SPEC, [expected, expected])
    meter = ParityMeter()
    generation.judge(variant.run, meter)
    result = meter.result()
    assert gate_value(result, "cosine") == result[TOKENS].agreement
    agreement = result[TOKENS].agreement
    assert agreement is not None
    return agreement


def test_judge_equal_decoder_has_all_tokens_right() -> None:
    """The same tokens, end and all, are an agreement of 1."""
    assert judged(Counter()) == 1.0


def test_judge_one_wrong_step_spoils_what_follows() -> None:
    """A single slip that ends the sentence early costs every token after it."""
    assert judged(Counter(slip=END)) == 5 / 8


def test_judge_decoder_that_never_ends_is_stopped() -> None:
    """A loop is stopped a few tokens after the original's length, and counts as wrong."""
    looping = Counter(slip=1)
    assert judged(looping) == 5 / (8 + FURTHER)
    assert looping.calls == 2 * (8 + FURTHER)
