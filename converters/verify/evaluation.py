"""The words of an evaluation: how a model is run and scored, and what becomes of a score. No work on models here."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgert.errors import BadInput
from edgert.manifest import TensorSpec

Array = np.ndarray
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]
"""Runs a model once: arrays by input name in, arrays by output name out."""

Measure = Callable[[Run, int | None], float]
"""The score of a model over at most so many samples, None for all; NaN for one that makes no numbers."""

FeedsOf = Callable[[int | None], Iterator[Feeds]]
"""Starts a pass over at most so many samples."""

AGREEMENT = "agreement with the original, not accuracy"
ACCURACY = "accuracy on labelled files"

PLACES = 9
"""So many digits of a gate value count: a fall of one in a hundred is 0.01, whatever a division's last bits say."""

BROKEN = -1.0
"""The gate value of a variant whose score is no number."""


@dataclass(frozen=True)
class Evaluation:
    """How variants are scored: by the word or function `metric`, over `samples` (None: only the function knows).

    `kind` is "labels", "function" or "agreement", where the original itself has 1.0. `note` says what a score is.
    `digest` is the SHA-256 of the file of labels, or of the function's. `of_part` makes the evaluation of the decoder
    that belongs to the model, given its inputs.
    """

    metric: str
    higher_is_better: bool
    kind: str
    measure: Measure
    note: str
    samples: int | None = None
    digest: str = ""
    of_part: Callable[[Sequence[TensorSpec]], "Evaluation"] | None = None

    def gate_value(self, score: float, original: float) -> float:
        """Return 1 - how much worse a score is than the original's, in the unit of the metric."""
        drop = original - score if self.higher_is_better else score - original
        return round(1.0 - drop, PLACES) if math.isfinite(drop) else BROKEN

    def original_score(self, run: Run, limit: int | None = None) -> float:
        """Return the score of the original itself; BadInput where it is no number, or no model could be worse."""
        if self.kind == "agreement":
            return 1.0
        score = self.measure(run, limit)
        if not math.isfinite(score):
            raise BadInput(f"'{self.metric}' gives {score} for the original model", "correct what computes it")
        if limit is None and self.kind == "labels" and (score <= 0 if self.higher_is_better else score >= 1):
            raise BadInput(
                f"the original has {self.metric} {score:g} over {self.samples} labelled files: it gets nothing right",
                "check that the labels are of these files and of this model's classes, and give the --image rules",
            )
        return score

    def recipe_json(self) -> dict[str, object]:
        """Return what a recipe keeps of it: nothing that was measured."""
        return {"metric": self.metric, "kind": self.kind, "samples": self.samples, "digest": self.digest}
