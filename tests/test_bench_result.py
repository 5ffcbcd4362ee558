"""What the benchmark of conversions calls a good score, an accurate engine and the best peer."""

import numpy as np
import pytest

from tests import bench_scores
from tests.bench_peers.engines import OWN, PLAIN
from tests.bench_result import Result, Row, geometric_mean, ratio, show, summary


def page(*boxes: tuple[int, int, int, int], probability: float = 0.9) -> dict[str, np.ndarray]:
    """Return a detector's output, [1, 1, 64, 64], with filled boxes (left, top, right, bottom)."""
    ink = np.zeros((1, 1, 64, 64), np.float32)
    for left, top, right, bottom in boxes:
        ink[0, 0, top:bottom, left:right] = probability
    return {"map": ink}


def test_text_boxes_of_a_bent_island_are_one_box():
    """Pixels that touch by an edge belong together, however the runs of the rows meet; those at a corner do not."""
    ink = np.zeros((20, 20), np.float32)
    ink[2:12, 2:4] = ink[2:12, 8:10] = ink[10:12, 2:10] = 0.9
    ink[12:18, 10:16] = 0.9
    assert len(bench_scores.text_boxes(ink)) == 2


def test_text_boxes_of_weak_and_tiny_islands_are_none():
    """An island counts from PaddleOCR's score on, and from nine pixels."""
    assert bench_scores.text_boxes(page((4, 4, 40, 12), probability=0.5)["map"][0, 0]) == []
    assert bench_scores.text_boxes(page((4, 4, 6, 6))["map"][0, 0]) == []


def test_boxes_f1_counts_lost_and_invented_boxes():
    """Two of three found, and one that is not there: 2 * 2 / (3 + 3)."""
    truth = page((2, 2, 40, 10), (2, 20, 40, 28), (2, 40, 40, 48))
    found = page((2, 2, 40, 10), (2, 20, 40, 28), (50, 50, 62, 60))
    assert bench_scores.boxes_f1([found], [truth]) == pytest.approx(2 * 2 / 6)
    assert bench_scores.boxes_f1([truth], [truth]) == 1


def test_area_under_curve_leaves_unsure_samples_out():
    """The share of pairs in the right order, ties half; label -1 is in none."""
    outputs = [{"p": np.array([[value]])} for value in (0.9, 0.4, 0.4, 0.1, 1.0)]
    assert bench_scores.area_under_curve([1, 1, 0, 0, -1])(outputs, []) == pytest.approx(3.5 / 4)


def test_frames_f1_leaves_edges_out():
    """One right, one missed, one too many, and a frame without a label."""
    note = np.array([[[0.9, 0.1], [0.8, 0.9]]])
    labels = [np.array([[1, 1], [0, -1]])]
    assert bench_scores.frames_f1(labels, 0, 0.5)([{"note": note}], []) == pytest.approx(2 * 1 / (2 + 2))


def test_embeddings_turned_alike_lose_by_the_cosine_and_shuffled_by_the_rank():
    """Both have to hold: the direction of each vector, and the order of the similarities."""
    random = np.random.default_rng(0)
    floats = [{"e": random.normal(size=(1, 8))} for _ in range(6)]
    assert bench_scores.embeddings(floats, floats) == pytest.approx(1)
    assert bench_scores.embeddings([{"e": -one["e"]} for one in floats], floats) == pytest.approx(-1)
    assert bench_scores.embeddings(floats[::-1], floats) < 0.9


def test_face_boxes_move_with_the_anchor_that_is_chosen():
    """The same face told by a neighbouring anchor is the same face."""
    scores = np.full((1, 896, 1), -5.0)
    regressors = np.zeros((1, 896, 16))
    regressors[0, 40] = [0, 0, 50, 50] + [0, 0] * 6
    one, other = scores.copy(), scores.copy()
    one[0, 40] = other[0, 42] = 3.0
    moved = regressors.copy()
    moved[0, 42] = [-8, 0, 50, 50] + [-8, 0] * 6
    truth = {"regressors": regressors, "scores": one}
    assert bench_scores.face_boxes([{"regressors": moved, "scores": other}], [truth]) == pytest.approx(1)
    assert bench_scores.face_boxes([{"regressors": regressors, "scores": other}], [truth]) < 0.9


def result(*rows: Row) -> Result:
    return Result("m", "top-1", rows, "0.1")


def row(engine: str, milliseconds: float, score: float, runtime: str = "onnxruntime") -> Row:
    return Row(engine, runtime, "as it comes", score, [milliseconds] * 3, [milliseconds] * 3)


@pytest.mark.parametrize(("score", "accurate"), [(0.95, True), (0.89, True), (0.889, False), (0.0, False)])
def test_engine_within_a_point_of_float_is_accurate(score, accurate):
    """One point below the float model's 0.90 counts as equal, more does not, and better always does."""
    found = result(row(PLAIN, 10, 0.90), row("int8", 4, score))
    assert found.accurate(found.rows[1]) == accurate


def test_best_peer_is_accurate_and_not_our_own():
    """Neither a fast engine that is wrong nor our own is a peer to be measured against."""
    found = result(
        row(PLAIN, 10, 1.0), row(OWN, 1, 1.0), row("wrong", 2, 0.5), row("OpenVINO", 3, 1.0, "openvino"), row("q", 4, 1)
    )
    assert found.best_peer(None).engine == "OpenVINO"
    assert found.best_peer("onnxruntime").engine == "q"


def test_ratio_is_taken_round_by_round():
    """A round in which the machine was slow for both says the same as the others."""
    slow, fast = Row("a", "", turns_ms=[2, 20, 2]), Row("b", "", turns_ms=[1, 10, 1])
    assert ratio(slow, fast) == 2


def test_summary_names_what_is_not_accurate_and_leaves_failed_engines_out():
    """A variant that is fast and wrong is told; an engine that failed has its reason in the table, no part in means."""
    failed = Row("NNCF", "openvino", error="RuntimeError: no")
    found = result(row(PLAIN, 10, 1.0), row(OWN, 2.5, 0.5), failed)
    assert "not accurate: m" in summary([found])
    assert "geometric mean 4.00x" in summary([found])
    assert "RuntimeError: no" in show(found)
    assert geometric_mean([2, 8]) == pytest.approx(4)
