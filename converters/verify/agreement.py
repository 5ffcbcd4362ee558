"""Scores of a variant against the original on the same samples: agreement, which is not accuracy."""

from collections.abc import Mapping

import numpy as np

from converters.verify.boxes import TRUE_SCORE, Box, box_reader, check_probabilities, mean_average_precision
from converters.verify.evaluation import Array, FeedsOf, Measure, Run
from converters.verify.metrics import LEAST_PLACES, similarities, spearman
from converters.verify.parity import ParityMeter, gate_value
from edgert.errors import BadInput
from edgert.runtime.session import Session


def parity_agreement(metric: str, original: Session, feeds_of: FeedsOf) -> Measure:
    """Return what scores by the worst output's cosine, SQNR or equal classes."""

    def measure(run: Run, limit: int | None) -> float:
        meter = ParityMeter()
        for feeds in feeds_of(limit):
            meter.add(original.run(feeds), run(feeds))
        return gate_value(meter.result(), metric)

    return measure


def rank_agreement(original: Session, feeds_of: FeedsOf) -> Measure:
    """Return what scores by Spearman's correlation of the values of each output, the worst output's.

    It is the mean over samples; outputs of fewer than three values are ranked over all samples instead.
    """

    def measure(run: Run, limit: int | None) -> float:
        each: dict[str, list[float]] = {}
        small: dict[str, list[tuple[Array, Array]]] = {}
        for feeds in feeds_of(limit):
            expected, seen = original.run(feeds), run(feeds)
            for name in _floats(expected):
                left, right = expected[name].ravel(), seen[name].ravel()
                if left.size >= LEAST_PLACES:
                    each.setdefault(name, []).append(spearman(left, right))
                else:
                    small.setdefault(name, []).append((left, right))
        values = [float(np.mean(found)) for found in each.values()]
        for pairs in small.values():
            left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
            values.append(spearman(left, right))
        return min(values)

    return measure


def similarity_agreement(original: Session, output: str, feeds_of: FeedsOf) -> Measure:
    """Return what scores embeddings by Spearman's correlation of the similarities of all pairs of samples."""

    def measure(run: Run, limit: int | None) -> float:
        rows: tuple[list[Array], list[Array]] = ([], [])
        for feeds in feeds_of(limit):
            for side, outputs in zip(rows, (original.run(feeds), run(feeds)), strict=True):
                side.append(outputs[output].reshape(-1, outputs[output].shape[-1]))
        left, right = (np.concatenate(side) for side in rows)
        if len(left) < LEAST_PLACES and limit is None:
            raise BadInput(f"--metric spearman needs three samples or more, there are {len(left)}", "give more")
        if not np.isfinite(right).all():
            return 0.0
        return spearman(similarities(left), similarities(right))

    return measure


def box_agreement(original: Session, feeds_of: FeedsOf) -> Measure:
    """Return what scores a detector by its mean average precision against the boxes of the original.

    BadInput where the outputs hold no boxes, or the original finds none at all.
    """
    read = box_reader(original.outputs)
    known: list[list[Box]] = []

    def measure(run: Run, limit: int | None) -> float:
        if not known:
            for feeds in feeds_of(None):
                outputs = original.run(feeds)
                check_probabilities(outputs)
                known.append([box for box in read(outputs) if box.score >= TRUE_SCORE])
            if not any(known):
                raise BadInput(f"the original finds no box in {len(known)} samples", "give samples with some")
        found = [read(run(feeds)) for feeds in feeds_of(limit)]
        return mean_average_precision(found, known[: len(found)])

    return measure


def _floats(outputs: Mapping[str, Array]) -> list[str]:
    return [name for name, values in outputs.items() if values.dtype.kind == "f"]
