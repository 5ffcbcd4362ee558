"""The reference profile: counts that add up, bins that never move, classes only where rows are probabilities."""

import json

import numpy as np
import pytest

from converters.reference import BINS, Pairs, distributions, reference_profile


def reference(pairs: Pairs, chosen) -> dict[str, object]:
    return reference_profile(distributions(pairs), pairs, chosen)


def profile(samples: list[np.ndarray], chosen=None):
    def outputs(x: np.ndarray) -> np.ndarray:
        exp = np.exp(x)
        return exp / exp.sum(axis=-1, keepdims=True)

    def pairs():
        return (({"x": x}, {"p": outputs(x)}) for x in samples)

    return reference(pairs, chosen or (lambda feeds: {"p": outputs(feeds["x"])}))


def test_reference_counts_every_value_once_between_the_extremes():
    """n is the number of values, and no value of the calibration data falls below the first edge."""
    samples = [np.random.default_rng(seed).normal(size=(2, 5)) for seed in range(4)]
    entry = profile(samples)["inputs"]["x"]
    assert entry["n"] == 40
    assert sum(entry["counts"]) == 40
    assert len(entry["edges"]) == BINS + 1
    assert len(entry["counts"]) == BINS + 2
    assert entry["counts"][0] == 0


def test_reference_histograms_of_two_halves_add_up_with_the_same_edges():
    """Counting is by value alone, so counts of parts add up exactly to the counts of the whole."""
    values = np.random.default_rng(0).normal(size=100)
    edges = np.asarray(profile([values[None]])["inputs"]["x"]["edges"])
    whole = np.bincount(np.searchsorted(edges, values, side="right"), minlength=BINS + 2)
    halves = [
        np.bincount(np.searchsorted(edges, part, side="right"), minlength=BINS + 2) for part in np.split(values, 2)
    ]
    assert (halves[0] + halves[1]).tolist() == whole.tolist() == profile([values[None]])["inputs"]["x"]["counts"]


def test_reference_constant_input_has_a_valid_histogram():
    """A tensor that is always one value has edges around it, not a zero-width bin."""
    entry = profile([np.zeros((1, 3))])["inputs"]["x"]
    assert entry["edges"][0] < 0 < entry["edges"][-1]
    assert sum(entry["counts"]) == 3


def test_reference_classes_count_winners_and_agreement():
    """Priors are the chosen variant's classes; agreement drops where its class is another."""
    samples = [np.array([[5.0, 0.0, 0.0]]), np.array([[0.0, 5.0, 0.0]])]
    same = profile(samples)["classes"]["p"]
    assert same["priors"] == {"0": 1, "1": 1}
    assert same["confidence"]["agreed"] == same["confidence"]["counts"]
    wrong = profile(samples, lambda feeds: {"p": np.array([[0.05, 0.05, 0.9]])})["classes"]["p"]
    assert wrong["priors"] == {"2": 2}
    assert sum(wrong["confidence"]["agreed"]) == 0
    assert sum(wrong["confidence"]["counts"]) == 2


def test_reference_without_probabilities_has_no_classes():
    """A regression output gets a histogram and no classes."""
    document = reference(
        lambda: iter([({"x": np.ones((1, 2))}, {"y": np.array([[3.0, 4.0]])})]),
        lambda feeds: {"y": np.array([[3.0, 4.0]])},
    )
    assert document["classes"] == {}


@pytest.mark.filterwarnings("error")
def test_reference_counts_what_is_not_finite_apart():
    """NaN and infinity are in no bin and in no edge; how many there were is kept."""
    rows = [np.array([[1.0, np.nan, -np.inf, 2.0]]), np.array([[np.inf, 3.0, 1.0, 2.0]])]
    lost = np.full((1, 2), np.nan)
    document = reference(
        lambda: iter([({"x": row}, {"y": row, "lost": lost}) for row in rows]), lambda feeds: {"y": feeds["x"]}
    )
    entry = document["outputs"]["y"]
    assert (entry["n"], sum(entry["counts"]), entry["nonfinite"]) == (5, 5, 3)
    assert (entry["edges"][0], entry["edges"][-1]) == (1.0, 3.0)
    assert (document["outputs"]["lost"]["n"], document["outputs"]["lost"]["nonfinite"]) == (0, 4)
    json.dumps(document, allow_nan=False)


def test_reference_counts_text_by_category():
    """Text of few different values is counted by value; free text has no entry, and takes no memory."""
    words = [np.array([["Rome"]], object), np.array([["Oslo"]], np.str_), np.array([["Rome"]], object)]
    free = [np.array([[str(10 * index + place) for place in range(50)]]) for index in range(3)]
    samples = [({"city": word, "note": note}, {"label": word}) for word, note in zip(words, free, strict=True)]
    document = reference(lambda: iter(samples), lambda feeds: {"label": feeds["city"]})
    assert document["inputs"] == {"city": {"categories": {"Oslo": 1, "Rome": 2}, "n": 3}}
    assert document["outputs"] == {"label": {"categories": {"Oslo": 1, "Rome": 2}, "n": 3}}
    json.dumps(document)
