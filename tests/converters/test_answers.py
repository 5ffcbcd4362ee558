"""What the original gives is kept while there is room: it runs once per sample, and again only beyond the room."""

import numpy as np
import pytest

from converters.answers import Answers
from converters.samples import Samples

COUNT = 6


def _samples(read_back):
    """Return samples of 80 bytes each that note every pass over them."""

    def read():
        read_back.append("pass")
        return ({"x": np.full(10, number, np.float64)} for number in range(COUNT))

    return Samples("spec", "callable", COUNT, "digest", "", read)


def _answers(room, calls, reads=None):
    def run(feeds):
        calls.append(int(feeds["x"][0]))
        return {"y": feeds["x"] * 2}

    return Answers(run, _samples([] if reads is None else reads), room)


def _values(pairs):
    return [(int(feeds["x"][0]), int(outputs["y"][0])) for feeds, outputs in pairs]


def test_answers_run_the_original_once_where_all_fit():
    """Three passes over everything and one over two samples: one run per sample, and one pass over the files."""
    calls, reads = [], []
    answers = _answers(10_000, calls, reads)
    for _ in range(3):
        assert _values(answers.pairs()) == [(number, 2 * number) for number in range(COUNT)]
    assert _values(answers.pairs(2)) == [(0, 0), (1, 2)]
    assert calls == list(range(COUNT))
    assert reads == ["pass"]


def test_answers_beyond_the_room_are_given_again_each_time():
    """Room for two samples of 160 bytes: the other four run in every pass, in order, with right values."""
    calls = []
    answers = _answers(400, calls)
    for _ in range(2):
        assert _values(answers.pairs()) == [(number, 2 * number) for number in range(COUNT)]
    assert calls == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


def test_answers_of_a_short_pass_are_continued_by_a_longer_one():
    """What the first two samples gave is not asked for again; a limit beyond the samples is all of them."""
    calls = []
    answers = _answers(10_000, calls)
    assert len(list(answers.pairs(2))) == 2
    assert len(list(answers.pairs(99))) == COUNT
    assert calls == list(range(COUNT))


def test_answers_of_a_pass_that_was_broken_off_are_kept():
    """Who stops after the first sample leaves one answer behind, not a gap."""
    calls = []
    answers = _answers(10_000, calls)
    next(answers.pairs())
    next(answers.pairs())
    assert calls == [0]
    assert _values(answers.pairs()) == [(number, 2 * number) for number in range(COUNT)]


def test_answers_that_are_kept_cannot_be_written():
    """A candidate's session or a user's function that writes into a sample would change all later comparisons."""
    feeds, outputs = next(_answers(10_000, []).pairs())
    for array in (feeds["x"], outputs["y"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


@pytest.mark.parametrize(("room", "word"), [(0, None), (10_000, "text")])
def test_answers_without_room_keep_nothing(room, word):
    """No room, or text, whose size is not known: every pass runs the original."""
    calls = []

    def run(feeds):
        calls.append(0)
        return {"y": feeds["x"] if word is None else np.array([word])}

    answers = Answers(run, _samples([]), room)
    assert len(list(answers.pairs())) == len(list(answers.pairs())) == COUNT
    assert len(calls) == 2 * COUNT
