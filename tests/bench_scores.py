"""How good the outputs of an engine are for the task, as one number each: 1 is perfect, and 0.01 is one point.

All are functions of the outputs alone, so that every engine is judged by the same code; what is compared with the float
model gets that model's outputs too.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from examples.ocr.lines import character_error_rate, decode

Outputs = Mapping[str, np.ndarray]
Score = Callable[[Sequence[Outputs], Sequence[Outputs]], float]
"""Called with an engine's outputs and the float model's, both in the order of the samples."""

Box = tuple[float, float, float, float]

INK, TEXT_SCORE, UNCLIP, OVERLAP = 0.3, 0.6, 1.5, 0.5
"""PaddleOCR's `thresh`, `box_thresh` and `unclip_ratio`; the overlap is ICDAR's."""


def top1(labels: Sequence[int]) -> Score:
    """Score the share of samples whose largest value of the first output is the label's."""

    def score(own: Sequence[Outputs], _: Sequence[Outputs]) -> float:
        hits = [int(np.argmax(_first(one))) == label for one, label in zip(own, labels, strict=True)]
        return float(np.mean(hits))

    return score


def characters_right(texts: Sequence[str], classes: Sequence[str]) -> Score:
    """Score 1 - CER of greedily decoded lines."""

    def score(own: Sequence[Outputs], _: Sequence[Outputs]) -> float:
        return 1 - character_error_rate(texts, [decode(_first(one)[0], classes) for one in own])

    return score


def cosine(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return the mean over samples of the smallest cosine of any output to the float model's."""
    return float(np.mean([min(_cosine(a[name], b[name]) for name in b) for a, b in zip(own, floats, strict=True)]))


def embeddings(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return the smaller of two: the mean cosine, and Spearman's correlation of the similarities of all pairs."""
    left, right = (np.concatenate([_first(one).reshape(1, -1) for one in side]) for side in (own, floats))
    return min(cosine(own, floats), spearman(_similarities(left), _similarities(right)))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Return the correlation of the ranks of two vectors without ties."""
    ranks = [np.argsort(np.argsort(side)).astype(np.float64) for side in (left, right)]
    return float(np.corrcoef(*ranks)[0, 1])


def area_under_curve(labels: Sequence[int]) -> Score:
    """Score how well the first output tells samples with label 1 from those with 0; label -1 does not count."""
    truth = np.array(labels)

    def score(own: Sequence[Outputs], _: Sequence[Outputs]) -> float:
        values = np.array([float(_first(one).reshape(-1)[0]) for one in own])
        voiced, silent = values[truth == 1][:, None], values[truth == 0]
        return float(((voiced > silent) + 0.5 * (voiced == silent)).mean())

    return score


def frames_f1(labels: Sequence[np.ndarray], output: int, threshold: float) -> Score:
    """Score F1 of the frames of an output above `threshold` against bool labels; those that are None do not count."""

    def score(own: Sequence[Outputs], _: Sequence[Outputs]) -> float:
        found = np.concatenate([list(one.values())[output][0] > threshold for one in own])
        truth = np.concatenate(list(labels))
        sure = truth >= 0
        right = np.count_nonzero(found[sure] & (truth[sure] == 1))
        return float(2 * right / max(1, np.count_nonzero(found[sure]) + np.count_nonzero(truth == 1)))

    return score


def boxes_f1(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return F1 of the text boxes against those of the float model, over all pages."""
    right = found = wanted = 0
    for one, other in zip(own, floats, strict=True):
        boxes, truth = text_boxes(_first(one)[0, 0]), text_boxes(_first(other)[0, 0])
        right += _matched(boxes, truth)
        found += len(boxes)
        wanted += len(truth)
    return 2 * right / max(1, found + wanted)


def text_boxes(ink: np.ndarray) -> list[Box]:
    """Return the upright boxes (left, top, right, bottom) of the islands of a [H, W] map of probabilities."""
    boxes = []
    for rows, columns in _islands(ink > INK):
        if ink[rows, columns].mean() < TEXT_SCORE or len(rows) < 9:
            continue
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        wide, high = right - left, bottom - top
        grow = wide * high * UNCLIP / (2 * (wide + high))
        boxes.append((float(left - grow), float(top - grow), float(right + grow), float(bottom + grow)))
    return boxes


def landmarks(size: float, ends: tuple[int, int] | None, width: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return a function of two flat arrays of points with `width` numbers each: mean distance of the first two of them.

    In units of the distance of the points `ends` in the second array, or of `size` where that is None.
    """

    def error(own: np.ndarray, other: np.ndarray) -> float:
        a, b = (side.reshape(-1, width)[:, :2].astype(np.float64) for side in (own, other))
        unit = size if ends is None else float(np.linalg.norm(b[ends[0]] - b[ends[1]]))
        return float(np.linalg.norm(a - b, axis=1).mean()) / unit

    return error


def face_landmarks(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return 1 - the mean distance of the 468 landmarks to the float model's, in distances of the outer eye corners."""
    error = landmarks(192.0, (33, 263), 3)
    return 1 - float(np.mean([error(_first(a), _first(b)) for a, b in zip(own, floats, strict=True)]))


def eye_landmarks(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return 1 - the mean distance of the points of eye and iris to the float model's, in widths of the picture."""
    error = landmarks(64.0, None, 3)
    each = [error(a[name], b[name]) for a, b in zip(own, floats, strict=True) for name in b]
    return 1 - float(np.mean(each))


def face_boxes(own: Sequence[Outputs], floats: Sequence[Outputs]) -> float:
    """Return 1 - the mean distance of the best face's box and key points to the float model's, in widths of its box."""
    each = []
    for one, other in zip(own, floats, strict=True):
        a, b = _best_face(one), _best_face(other)
        each.append(float(np.abs(a - b).mean() / max(1e-6, abs(b[1, 0]))))
    return 1 - float(np.mean(each))


def _best_face(outputs: Outputs) -> np.ndarray:
    """Return [8, 2] pixels of the anchor with the largest score: centre, size, six key points."""
    regressors, scores = outputs.values()
    best = int(np.argmax(scores))
    cells, each = (16, 2) if best < 512 else (8, 6)
    cell = (best if best < 512 else best - 512) // each
    centre = (np.array([cell % cells, cell // cells]) + 0.5) * (128 / cells)
    points = regressors[0, best].reshape(8, 2).astype(np.float64)
    points[[0, 2, 3, 4, 5, 6, 7]] += centre
    return points


def _islands(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows and columns of the pixels of each 4-connected island of a bool [H, W]."""
    runs = _runs(mask)
    roots = list(range(len(runs)))

    def root(number: int) -> int:
        while roots[number] != number:
            roots[number] = roots[roots[number]]
            number = roots[number]
        return number

    above: list[int] = []
    here: list[int] = []
    for number, (row, begin, end) in enumerate(runs):
        if here and runs[here[0]][0] != row:
            above, here = [other for other in here if runs[other][0] == row - 1], []
        here.append(number)
        for other in above:
            if runs[other][1] < end and begin < runs[other][2]:
                roots[root(other)] = root(number)
    islands: dict[int, list[tuple[int, int, int]]] = {}
    for number, run in enumerate(runs):
        islands.setdefault(root(number), []).append(run)
    return [_pixels(island) for island in islands.values()]


def _runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (row, first column, column after the last) of each horizontal run of True, from the top left on."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return list(zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True))


def _pixels(runs: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([np.full(end - begin, row) for row, begin, end in runs])
    return rows, np.concatenate([np.arange(begin, end) for _, begin, end in runs])


def _matched(boxes: Sequence[Box], truth: Sequence[Box]) -> int:
    """Return how many boxes have a partner of their own that overlaps enough."""
    free = list(truth)
    for box in boxes:
        best = max(free, key=lambda other: _overlap(box, other), default=None)
        if best is not None and _overlap(box, best) >= OVERLAP:
            free.remove(best)
    return len(truth) - len(free)


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, high)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def _similarities(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    a, b = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float(np.array_equal(a, b))


def _first(outputs: Outputs) -> np.ndarray:
    return next(iter(outputs.values()))
