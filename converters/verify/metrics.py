"""What a variant can be judged by: the words of `--metric`, and the arithmetic behind them. Pure.

Cosine, SQNR and equal classes are summed up in `parity`, boxes are in `boxes`; running models is left to `evaluate`.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgert.errors import EdgertError, UsageError, nearest

Array = np.ndarray


@dataclass(frozen=True)
class Metric:
    """One word of `--metric`: what it says, whether it needs the right answers, and which way it is better."""

    what: str
    needs_labels: bool = False
    higher_is_better: bool = True


METRICS = {
    "cosine": Metric("the mean cosine of the worst output to the original's"),
    "top1_agreement": Metric("the share of rows with the original's class"),
    "sqnr": Metric("1 - the error of the worst output relative to the original's, as root mean squares"),
    "spearman": Metric("the correlation of ranks with the original's"),
    "map": Metric("the mean average precision against the original's boxes"),
    "top1": Metric("the share of right classes", needs_labels=True),
    "top5": Metric("the share of right classes among the first five", needs_labels=True),
    "cer": Metric("the character error rate", needs_labels=True, higher_is_better=False),
    "wer": Metric("the word error rate", needs_labels=True, higher_is_better=False),
}
"""All words; an agreement is 1 for the original itself."""

LEAST_PLACES = 3
"""Ranks of fewer numbers say nothing."""


def check_metric(metric: str, error: type[EdgertError] = UsageError) -> None:
    """Raise `error` with the nearest word for a metric that is not known."""
    if metric not in METRICS:
        close = nearest(metric, METRICS)
        hint = f"did you mean '{close}'?" if close else f"use one of {', '.join(METRICS)}"
        raise error(f"unknown metric '{metric}'", hint)


def sqnr_agreement(sqnr_db: float | None) -> float:
    """Return 1 - the relative error that a ratio in dB stands for, -1 at least: 0.9 for 20 dB, 1 for None, no error."""
    return 1.0 if sqnr_db is None else max(-1.0, 1.0 - 10 ** (-sqnr_db / 20))


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return how many entries must be inserted, deleted or replaced to make one sequence the other."""
    row = list(range(len(right) + 1))
    for number, a in enumerate(left, 1):
        before, row[0] = row[0], number
        for column, b in enumerate(right, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (a != b))
    return row[-1]


def characters(text: str) -> str:
    """Return the characters of a text as they are compared: composed Unicode, one blank for any white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def words(text: str) -> list[str]:
    """Return the words of a text as they are compared: lower case, hyphens as blanks, no other punctuation."""
    plain = unicodedata.normalize("NFC", text).casefold().replace("-", " ")
    return re.sub(r"[^\w\s]", "", plain).split()


def spearman(left: Array, right: Array) -> float:
    """Return the correlation of the ranks of two flat arrays; equal entries share the mean of their ranks.

    Where one side is constant its ranks say nothing: 1 where both are, else 0. What is not finite makes it 0, unless
    both sides are equal.
    """
    if np.array_equal(left, right, equal_nan=True):
        return 1.0
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return 0.0
    a, b = (_ranks(side) - (side.size - 1) / 2 for side in (left, right))
    length = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    if length == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / length


def _ranks(values: Array) -> Array:
    """Return float64 ranks from 0, the mean of their places for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1.0
    means = last - (counts - 1) / 2
    ranks: Array = means[inverse.reshape(-1)]
    return ranks


def similarities(rows: Array) -> Array:
    """Return the cosines of all pairs of rows [N, D] as float64 [N * (N - 1) / 2]; of a zero row they are 0."""
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(lengths > 0, lengths, 1.0)
    pairs: Array = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return pairs
