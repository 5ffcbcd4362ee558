"""Outputs become class names with probabilities, labels, similarities; what they cannot become is named."""

import json

import numpy as np
import pytest

from edgert.errors import VerificationFailed
from edgert.runtime.answers import Answer, answer, parse_labels, transcripts
from edgert.task import Task

LABELS = ("cat", "dog", "eel", "fox", "gnu", "hen")


def classified(output: object, scores: str = "none", kind: str = "image-classification", **more: object) -> Answer:
    """Return the answer for one output called y."""
    outputs = {"y": np.asarray(output), **{name: np.asarray(value) for name, value in more.items()}}
    found = answer(Task(kind, "y", "labels.json", scores), outputs, LABELS)
    assert found is not None
    return found


def test_answer_softmax_gives_the_five_likeliest() -> None:
    """Logits become probabilities that sum to one over all classes; five are told, best first."""
    logits = np.array([[0.0, 3.0, 1.0, 2.0, -1.0, 500.0 - 500.0]], np.float32)
    (item,) = classified(logits, "softmax").items
    assert [entry.label for entry in item.classes] == ["dog", "fox", "eel", "cat", "hen"]
    assert item.classes[0].probability == pytest.approx(np.exp(3) / np.exp(logits).sum())
    assert (item.label, item.classes[0].index) == ("dog", 1)


def test_answer_softmax_of_large_logits_is_finite() -> None:
    """Scores of a quantized model may be in the hundreds."""
    (item,) = classified([[1000.0, -1000.0, 0, 0, 0, 0]], "softmax").items
    assert [entry.probability for entry in item.classes[:2]] == [1.0, 0.0]


def test_answer_sigmoid_gives_each_class_its_own_probability() -> None:
    """They do not sum to one, and a score of any size is finite."""
    (item,) = classified([[0.0, 1000.0, -1000.0, 0, 0, 0]], "sigmoid").items
    assert {entry.label: entry.probability for entry in item.classes}["dog"] == 1.0
    assert item.classes[1].probability == 0.5


def test_answer_none_leaves_probabilities_as_they_are() -> None:
    """A graph that ends in softmax is not normalised again; several rows are several items."""
    found = classified([[0.1, 0.9], [0.7, 0.3]])
    assert [item.classes[0].probability for item in found.items] == [0.9, 0.7]
    assert [item.label for item in found.items] == ["dog", "cat"]


@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 6, 1, 1)])
def test_answer_takes_a_vector_of_any_rank(shape: tuple[int, ...]) -> None:
    """A network that ends in pooling leaves axes of one behind."""
    (item,) = classified(np.arange(6.0).reshape(shape)).items
    assert item.label == "hen"


def test_answer_of_one_probability_and_two_names_has_both() -> None:
    """A binary model gives the probability of the second class."""
    found = answer(Task("text-classification", "y", "l.json", "sigmoid"), {"y": np.zeros((1, 1))}, ("no", "yes"))
    assert found is not None
    assert [(entry.label, entry.probability) for entry in found.items[0].classes] == [("no", 0.5), ("yes", 0.5)]


def test_answer_without_names_gives_indices() -> None:
    """A class beyond the list of names is its number."""
    found = classified(np.eye(1, 9, 8))
    assert found.items[0].label == "8"


def test_answer_of_a_classifier_takes_the_label_that_it_says() -> None:
    """scikit-learn's own label counts, text or number, where there is one beside the probabilities."""
    probabilities = np.array([[0.4, 0.6], [0.5, 0.5]], np.float32)
    for told, expected in ((["b", "a"], ["b", "a"]), ([7, 9], ["7", "9"])):
        found = classified(probabilities, kind="classification", label=told)
        assert [item.label for item in found.items] == expected
        assert found.items[0].classes[0].probability == pytest.approx(0.6)


def test_answer_of_a_classifier_without_probabilities_is_the_label() -> None:
    """Where the output that matters is the label itself, there is nothing else to tell."""
    for output in (np.array(["spam", "ham"], object), np.array([1, 0])):
        found = classified(output, kind="classification")
        assert [item.label for item in found.items] == [str(value) for value in output]
        assert found.items[0].classes == ()


def test_answer_of_quantized_scores_is_a_classification() -> None:
    """Whole numbers in a row for each picture are scores, not labels."""
    (item,) = classified(np.array([[3, 200, 5]], np.uint8)).items
    assert (item.label, item.classes[0].probability) == ("dog", 200.0)


def test_answer_of_embeddings_is_the_cosine_of_each_pair() -> None:
    """Length does not matter; a vector of zeros is like nothing."""
    rows = np.array([[1, 0], [5, 5], [-2, 0], [0, 0]], np.float32)
    found = answer(Task("sentence-embedding", "y"), {"y": rows})
    assert found is not None
    expected = [[1, 0.5**0.5, -1, 0], [0.5**0.5, 1, -(0.5**0.5), 0], [-1, -(0.5**0.5), 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.cosine, expected, atol=1e-7)


def test_answer_has_nothing_to_say_of_features_or_one_embedding() -> None:
    """The outputs speak for themselves."""
    assert answer(Task("feature-extraction", "y"), {"y": np.ones((2, 3))}) is None
    assert answer(Task("sentence-embedding", "y"), {"y": np.ones((1, 3))}) is None


@pytest.mark.parametrize(
    ("kind", "output", "words"),
    [
        ("sentence-embedding", np.ones((2, 3, 4)), "one row for each text"),
        ("image-classification", np.full((1, 3), np.nan), "not finite"),
        ("image-classification", np.ones((0, 3)), "empty"),
    ],
)
def test_answer_of_an_output_that_does_not_fit_is_verification_failed(
    kind: str, output: np.ndarray, words: str
) -> None:
    """The output is named, and nothing is made up."""
    with pytest.raises(VerificationFailed, match="output 'y'") as caught:
        answer(Task(kind, "y", scores="softmax"), {"y": output}, LABELS)
    assert words in caught.value.message


def test_answer_of_a_missing_output_is_verification_failed() -> None:
    """The task names what the model has."""
    with pytest.raises(VerificationFailed, match="no output 'y'"):
        answer(Task("classification", "y"), {"z": np.ones(1)})


@pytest.mark.parametrize("data", [b"", b"{}", b'["a", 1]', b'["a\\u0007"]', b'["a", ""]', b"\xff", b'"cat"'])
def test_parse_labels_that_are_no_names_is_verification_failed(data: bytes) -> None:
    """A list of printable texts, or an error that names the file."""
    with pytest.raises(VerificationFailed, match=r"labels\.json"):
        parse_labels(data, "labels.json")


def test_parse_labels_reads_names_in_their_order() -> None:
    """Names may be in any language."""
    assert parse_labels('["Füchse", "猫"]'.encode(), "labels.json") == ("Füchse", "猫")


def test_answer_to_json_holds_plain_values() -> None:
    """Each form is what `run --json` prints."""
    task = Task("speech-to-text", "y")
    assert transcripts(task, ["hello"]).to_json() == {"kind": "speech-to-text", "items": [{"transcript": "hello"}]}
    found = classified(np.array([[0.25, 0.75]], np.float32)).to_json()
    assert json.loads(json.dumps(found))["items"][0] == {
        "label": "dog",
        "classes": [
            {"label": "dog", "index": 1, "probability": 0.75},
            {"label": "cat", "index": 0, "probability": 0.25},
        ],
    }
