"""Boxes that detectors find, and how well they match others: mean average precision.

Two kinds of detectors are read: a map of probabilities, whose islands are boxes (text detectors of the kind of DB,
https://arxiv.org/abs/1911.08947), and outputs of boxes with scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgert.errors import BadInput
from edgert.manifest import TensorSpec

Array = np.ndarray

INK, TEXT_SCORE, UNCLIP, LEAST_PIXELS = 0.3, 0.6, 1.5, 9
"""PaddleOCR's `thresh`, `box_thresh` and `unclip_ratio`; islands of fewer pixels are specks."""

OVERLAP = 0.5
"""Intersection over union from which two boxes are the same one, as in VOC and ICDAR."""

TRUE_SCORE = 0.5
"""From which score on a box of the original counts as true; what a variant is less sure of may be missed."""


@dataclass(frozen=True)
class Box:
    """One upright box in pixels or whatever the model counts in, with the class and score that it was found with."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    kind: int = 0


Reader = Callable[[Mapping[str, Array]], list[Box]]


def box_reader(outputs: Sequence[TensorSpec]) -> Reader:
    """Return what reads the boxes of one picture from a model's outputs; BadInput where they are no boxes."""
    maps = [spec for spec in outputs if _is_map(spec)]
    boxes = [spec for spec in outputs if "box" in spec.name.lower() and spec.shape[-1:] == (4,)]
    scores = [spec for spec in outputs if "score" in spec.name.lower() and "box" not in spec.name.lower()]
    if len(maps) == 1 and len(outputs) == 1:
        name = maps[0].name
        return lambda found: map_boxes(_plane(found[name]))
    if len(boxes) == 1 and len(scores) == 1:
        kinds = [spec.name for spec in outputs if "label" in spec.name.lower() or "class" in spec.name.lower()]
        names = boxes[0].name, scores[0].name, kinds[0] if kinds else None
        return lambda found: _listed(found, *names)
    seen = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in outputs)
    raise BadInput(
        f"--metric map needs one map of probabilities [1, 1, H, W], or boxes [N, 4] and scores; the outputs are {seen}",
        "use --metric cosine, or --evaluate with a function that finds the boxes",
    )


def _is_map(spec: TensorSpec) -> bool:
    if not spec.dtype.startswith("float") or len(spec.shape) != 4:
        return False
    return 1 in (spec.shape[1], spec.shape[3]) and (spec.shape[0] == 1 or not isinstance(spec.shape[0], int))


def _plane(found: Array) -> Array:
    plane: Array = found[0, 0] if found.shape[1] == 1 else found[0, :, :, 0]
    return plane


def check_probabilities(outputs: Mapping[str, Array]) -> None:
    """Raise BadInput where the one map that a model gives holds no probabilities: islands of it would mean nothing."""
    if len(outputs) != 1:
        return
    ((name, values),) = outputs.items()
    if values.size and not (np.isfinite(values).all() and values.min() >= -1e-3 and values.max() <= 1.001):
        raise BadInput(
            f"output '{name}' holds {values.min():g} to {values.max():g}, --metric map takes probabilities from 0 to 1",
            "use --metric cosine, or --evaluate with a function that finds the boxes",
        )


def map_boxes(ink: Array) -> list[Box]:
    """Return a box around each island of a [H, W] map of probabilities, grown as PaddleOCR's post-processing does."""
    found = []
    for rows, columns in _islands(ink > INK):
        score = float(ink[rows, columns].mean())
        if score < TEXT_SCORE or rows.size < LEAST_PIXELS:
            continue
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        wide, high = right - left, bottom - top
        grow = wide * high * UNCLIP / (2 * (wide + high))
        found.append(Box(left - grow, top - grow, right + grow, bottom + grow, score))
    return found


def _listed(found: Mapping[str, Array], boxes: str, scores: str, kinds: str | None) -> list[Box]:
    corners, sure = found[boxes].reshape(-1, 4), found[scores].reshape(-1)
    named = found[kinds].reshape(-1) if kinds else np.zeros(len(corners), np.int64)
    if not len(corners) == sure.size == named.size:
        raise BadInput(
            f"the model gives {len(corners)} boxes and {sure.size} scores",
            "use --evaluate with a function for its form",
        )
    edges = corners.astype(np.float64).T
    rows = zip(*edges.tolist(), sure.tolist(), named.tolist(), strict=True)
    return [Box(left, top, right, bottom, score, int(kind)) for left, top, right, bottom, score, kind in rows]


def mean_average_precision(found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Box]]) -> float:
    """Return the mean over classes of the area under precision over recall, at an overlap of 0.5.

    Both hold one list for each picture. A class counts where it has a true box; with none of any class it is 1 where
    nothing is found, else 0.
    """
    kinds = sorted({box.kind for page in truth for box in page})
    if not kinds:
        return float(not any(found))
    return float(np.mean([_average_precision(_of(found, kind), _of(truth, kind)) for kind in kinds]))


def _of(pages: Sequence[Sequence[Box]], kind: int) -> list[list[Box]]:
    return [[box for box in page if box.kind == kind] for page in pages]


def _average_precision(found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Box]]) -> float:
    free = [list(page) for page in truth]
    ranked = sorted(((box, page) for page, boxes in enumerate(found) for box in boxes), key=lambda one: -one[0].score)
    hits = np.array([_take(box, free[page]) for box, page in ranked], bool)
    precision = np.cumsum(hits) / np.arange(1, hits.size + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum()) / sum(len(page) for page in truth)


def _take(box: Box, free: list[Box]) -> bool:
    """Take the true box that overlaps most out of those that are `free`; False where none overlaps enough."""
    best = max(free, key=lambda other: overlap(box, other), default=None)
    if best is None or overlap(box, best) < OVERLAP:
        return False
    free.remove(best)
    return True


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union, 0..1; of boxes without an area it is 0."""
    wide = max(0.0, min(a.right, b.right) - max(a.left, b.left))
    high = max(0.0, min(a.bottom, b.bottom) - max(a.top, b.top))
    areas = sum(max(0.0, box.right - box.left) * max(0.0, box.bottom - box.top) for box in (a, b))
    union = areas - wide * high
    return wide * high / union if union > 0 else 0.0


def _islands(mask: Array) -> list[tuple[Array, Array]]:
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


def _runs(mask: Array) -> list[tuple[int, int, int]]:
    """Return (row, first column, column after the last) of each horizontal run of True, from the top left on."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return list(zip(rows.tolist(), begins.tolist(), ends.tolist(), strict=True))


def _pixels(runs: Sequence[tuple[int, int, int]]) -> tuple[Array, Array]:
    rows = np.concatenate([np.full(end - begin, row) for row, begin, end in runs])
    return rows, np.concatenate([np.arange(begin, end) for _, begin, end in runs])
