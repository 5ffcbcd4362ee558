"""The arithmetic of the metrics, by values worked out by hand."""

import numpy as np
import pytest

from converters.verify.boxes import Box, box_reader, check_probabilities, map_boxes, mean_average_precision, overlap
from converters.verify.metrics import (
    METRICS,
    characters,
    check_metric,
    edit_distance,
    similarities,
    spearman,
    sqnr_agreement,
    words,
)
from converters.verify.text_readers import line_output, line_text
from edgert.errors import BadInput, UsageError
from edgert.manifest import TensorSpec


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("typed", "meant"), [("cosin", "cosine"), ("top-1", "top1"), ("mAP", "map"), ("WER", "wer")])
def test_metric_typo_names_the_nearest_word(typed: str, meant: str) -> None:
    """One list of words holds for all that judge, and a typo is answered from it."""
    with pytest.raises(UsageError, match="unknown metric") as caught:
        check_metric(typed)
    assert f"'{meant}'" in caught.value.remedy or meant in caught.value.remedy.split(", ")


def test_metrics_say_which_need_answers_and_which_way_is_better() -> None:
    """Only what compares with the truth needs labels; only error rates are better when lower."""
    assert {word for word, metric in METRICS.items() if metric.needs_labels} == {"top1", "top5", "cer", "wer"}
    assert {word for word, metric in METRICS.items() if not metric.higher_is_better} == {"cer", "wer"}


@pytest.mark.parametrize(
    ("decibels", "agreement"), [(None, 1.0), (20.0, 0.9), (40.0, 0.99), (0.0, 0.0), (-999.0, -1.0)]
)
def test_sqnr_agreement_is_one_minus_the_relative_error(decibels: float | None, agreement: float) -> None:
    """40 dB are an error of one in a hundred, so that --max-drop 0.01 asks for them; nothing is below -1."""
    assert sqnr_agreement(decibels) == pytest.approx(agreement)


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), (["a", "b"], ["b", "a"], 2)],
)
def test_edit_distance_counts_inserted_deleted_and_replaced(left: str, right: str, distance: int) -> None:
    """The textbook's values, and of words like of letters."""
    assert edit_distance(left, right) == edit_distance(right, left) == distance


def test_texts_are_compared_without_what_is_no_reading_error() -> None:
    """Composed and decomposed letters are one; words know no case, hyphens or punctuation."""
    assert characters(" cafe\u0301\n au  lait ") == "caf\u00e9 au lait"
    assert words("Well-known: isn't it?") == ["well", "known", "isnt", "it"]


@pytest.mark.parametrize(
    ("left", "right", "correlation"),
    [
        ((1, 2, 3, 4), (10, 20, 30, 400), 1.0),
        ((1, 2, 3, 4), (4, 3, 2, 1), -1.0),
        ((1, 2, 3, 4, 5), (2, 1, 4, 3, 5), 0.8),  # 1 - 6 * 4 / (5 * 24)
        ((1, 2, 2, 3), (1, 2, 3, 4), 0.9486832981),  # ranks 0, 1.5, 1.5, 3: 4.5 / sqrt(4.5 * 5)
        ((5, 5, 5), (7, 7, 7), 1.0),
        ((5, 5, 5), (1, 2, 3), 0.0),
        ((1, 2, 3), (1, 2, np.nan), 0.0),
        ((1, np.inf, 3), (1, np.inf, 3), 1.0),
    ],
)
def test_spearman_of_known_ranks(left: tuple[float, ...], right: tuple[float, ...], correlation: float) -> None:
    """Only the order counts; ties share their rank; a constant or a NaN says nothing."""
    assert spearman(floats(*left), floats(*right)) == pytest.approx(correlation)


def test_similarities_are_the_cosines_of_all_pairs() -> None:
    """Three rows have three pairs, in the order of the upper triangle; a zero row is like none."""
    rows = np.array([[1, 0], [2, 2], [0, 0]], np.float32)
    assert similarities(rows) == pytest.approx([np.sqrt(0.5), 0.0, 0.0])


def test_overlap_of_boxes() -> None:
    """Intersection over union: a third for two squares that share a half, 0 without an area."""
    assert overlap(Box(0, 0, 2, 2, 1), Box(1, 0, 3, 2, 1)) == pytest.approx(1 / 3)
    assert overlap(Box(0, 0, 1, 1, 1), Box(2, 2, 3, 3, 1)) == 0.0
    assert overlap(Box(0, 0, 0, 0, 1), Box(0, 0, 0, 0, 1)) == 0.0


A, B, C = Box(0, 0, 10, 10, 0.9), Box(20, 0, 30, 10, 0.8), Box(40, 0, 50, 10, 0.7)
STRAY = Box(90, 90, 99, 99, 0.95)


@pytest.mark.parametrize(
    ("found", "precision"),
    [
        ([[A, B, C]], 1.0),
        ([[A, B]], 2 / 3),
        ([[]], 0.0),
        ([[STRAY, A, B, C]], 3 / 4),  # precision 1/2, 2/3, 3/4, and no later one is better than 3/4
        ([[A, B, C, Box(90, 90, 99, 99, 0.1)]], 1.0),  # surer of all true ones than of the stray one
        ([[A, A, B, C]], (1 + 3 / 4 + 3 / 4) / 3),  # the second A is a stray one
        ([[Box(6, 0, 16, 10, 0.9), B, C]], (2 / 3 + 2 / 3) / 3),  # overlaps a quarter: not the same box
    ],
)
def test_map_of_known_boxes(found: list[list[Box]], precision: float) -> None:
    """The area under precision over recall, boxes taken in the order of their scores."""
    assert mean_average_precision(found, [[A, B, C]]) == pytest.approx(precision)


def test_map_keeps_pages_and_classes_apart() -> None:
    """A box on another page or of another class is no hit; classes count alike."""
    dog = Box(0, 0, 10, 10, 0.9, kind=1)
    assert mean_average_precision([[], [A]], [[A], []]) == 0.0
    assert mean_average_precision([[dog]], [[A]]) == 0.0
    assert mean_average_precision([[A, dog]], [[A, B, dog]]) == pytest.approx((0.5 + 1.0) / 2)
    assert mean_average_precision([[]], [[]]) == 1.0


def test_map_boxes_are_the_islands_that_are_dark_enough() -> None:
    """Of four islands one is pale, one a speck; the diagonal does not join two. Boxes grow as PaddleOCR grows them."""
    ink = np.zeros((40, 60), np.float32)
    ink[5:9, 10:30] = 0.9
    ink[9:19, 30:40] = 0.8  # touches the first at a corner only
    ink[25:30, 10:30] = 0.4
    ink[38, 50:55] = 1.0
    first, second = map_boxes(ink)
    grow = 20 * 4 * 1.5 / (2 * (20 + 4))
    assert (first.left, first.top, first.right, first.bottom) == (10 - grow, 5 - grow, 30 + grow, 9 + grow)
    assert (first.score, second.score) == (pytest.approx(0.9), pytest.approx(0.8))
    assert second.right - second.left == pytest.approx(10 + 2 * 10 * 10 * 1.5 / 40)


def test_map_boxes_join_the_arms_of_one_island() -> None:
    """A U is one island although its arms start apart, and so is a ring."""
    ink = np.zeros((20, 20), np.float32)
    ink[2:12, 2:4] = ink[2:12, 10:12] = ink[10:12, 2:12] = 1.0
    assert len(map_boxes(ink)) == 1
    ink[2:4, 2:12] = 1.0
    assert len(map_boxes(ink)) == 1


def test_box_reader_reads_lists_of_boxes() -> None:
    """Outputs called boxes, scores and labels, as torchvision exports them."""
    outputs = (
        TensorSpec("boxes", "float32", ("n", 4)),
        TensorSpec("scores", "float32", ("n",)),
        TensorSpec("labels", "int64", ("n",)),
    )
    found = {"boxes": np.float32([[0, 1, 2, 3]]), "scores": floats(0.5), "labels": np.int64([7])}
    assert box_reader(outputs)(found) == [Box(0, 1, 2, 3, 0.5, 7)]


@pytest.mark.parametrize(("axes", "shape"), [((1, 1, "H", "W"), (1, 1, 20, 40)), ((1, "H", "W", 1), (1, 20, 40, 1))])
def test_box_reader_reads_a_map_in_both_layouts(axes: tuple[int | str, ...], shape: tuple[int, ...]) -> None:
    """The one channel is before or after the pixels."""
    ink = np.zeros((20, 40), np.float32)
    ink[4:9, 10:30] = 1.0
    (box,) = box_reader([TensorSpec("p", "float32", axes)])({"p": ink.reshape(shape)})
    assert (box.bottom - box.top) < (box.right - box.left)


@pytest.mark.parametrize(
    "outputs",
    [
        [TensorSpec("y", "float32", (1, 10))],
        [TensorSpec("a", "float32", (1, 1, 8, 8)), TensorSpec("b", "float32", (1, 1, 8, 8))],
        [TensorSpec("masks", "float32", (4, 1, 8, 8))],
        [TensorSpec("boxes", "float32", (1, 5, 4))],
    ],
)
def test_box_reader_refuses_what_has_no_boxes(outputs: list[TensorSpec]) -> None:
    """A classifier, two maps, a batch, boxes without scores: the error lists what there is."""
    with pytest.raises(BadInput, match=outputs[0].name):
        box_reader(outputs)


def test_map_of_something_else_than_probabilities_is_refused() -> None:
    """A depth map has islands too; they would mean nothing."""
    check_probabilities({"p": floats(0.0, 1.0)})
    with pytest.raises(BadInput, match="holds 0 to 7"):
        check_probabilities({"depth": floats(0.0, 7.0)})


def test_line_text_merges_runs_and_drops_blanks() -> None:
    """a a blank a b space b: a blank between two like letters keeps both."""
    classes = np.eye(4, dtype=np.float32)
    rows = classes[[0, 1, 1, 0, 1, 2, 3, 2, 0]][None]
    assert line_text(rows, ["a", "b"]) == "aab b"
    assert line_text(rows.transpose(1, 0, 2), ["a", "b"]) == "aab b"
    assert line_text(rows[..., :3], ["a", "b"]) == "aab b".replace(" ", "")


@pytest.mark.parametrize("shape", [(1, 9, 7), (2, 9, 4)])
def test_line_text_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Another number of classes, or two lines at once."""
    with pytest.raises(BadInput, match="is no line of 3 or 4 classes"):
        line_text(np.zeros(shape, np.float32), ["a", "b"])


def test_line_output_is_the_one_with_a_class_for_each_character() -> None:
    """With or without a class for the space; a free number of classes is looked at later."""
    specs = [TensorSpec("other", "float32", (1, 40, 9)), TensorSpec("lines", "float32", (1, "T", 4))]
    assert line_output(specs, ["a", "b"]) == "lines"
    assert line_output(specs, ["a", "b", "c"]) == "lines"
    assert line_output(specs, ["a"]) is None
    assert line_output([TensorSpec("y", "float32", (1, 2))], []) is None
    assert line_output([TensorSpec("y", "float32", (1, "T", "C"))], ["a"]) == "y"
