"""Golden vectors: a few inputs with the original model's outputs, and the check of a session against them.

`golden.npz` holds arrays named `<i>.input.<name>` and `<i>.output.<name>`, i from 0, and never a pickle.
Making them is left to the converter; what to do after a failed check to `model`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgert.bundle import Bundle
from edgert.errors import BadInput, EdgertError, VerificationFailed
from edgert.runtime.arrays import read_npz, storable

Array = np.ndarray[Any, Any]

_KINDS = "biufcU"  # dtypes that a tensor can have


@dataclass(frozen=True)
class GoldenVector:
    """One sample: arrays by input name, and the original model's by output name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class GoldenResult:
    """How the check went: samples checked, the least nearness per output (see `compare`), the first failure or ""."""

    checked: int
    cosine: Mapping[str, float]
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output of every checked sample was near enough."""
        return not self.failure


class Runner(Protocol):
    """What the check needs of a session."""

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Run once."""


def write_golden(path: Path, vectors: Sequence[GoldenVector]) -> None:
    """Write the vectors as `golden.npz`; the same vectors give the same bytes."""
    arrays: dict[str, Array] = {}
    for index, vector in enumerate(vectors):
        arrays |= {f"{index}.input.{name}": array for name, array in vector.inputs.items()}
        arrays |= {f"{index}.output.{name}": array for name, array in vector.outputs.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: storable(array, name) for name, array in arrays.items()})


def load_golden(bundle: Bundle, limit: int | None = None) -> tuple[GoldenVector, ...]:
    """Return the first `limit` golden vectors of a bundle; VerificationFailed when the file does not hold them."""
    golden = bundle.manifest.golden
    count = golden.count if limit is None else min(limit, golden.count)
    inputs = [spec.name for spec in bundle.manifest.inputs]
    outputs = [spec.name for spec in bundle.manifest.outputs]
    names = [f"{index}.input.{name}" for index in range(count) for name in inputs]
    names += [f"{index}.output.{name}" for index in range(count) for name in outputs]
    try:
        arrays = read_npz(bundle.file(golden.file), names)
    except BadInput as exc:
        raise _not_golden(bundle, exc.message) from exc
    strange = next((name for name, array in arrays.items() if array.dtype.kind not in _KINDS), None)
    if strange is not None:
        raise _not_golden(bundle, f"'{strange}' is {arrays[strange].dtype}")
    return tuple(
        GoldenVector(
            {name: arrays[f"{index}.input.{name}"] for name in inputs},
            {name: arrays[f"{index}.output.{name}"] for name in outputs},
        )
        for index in range(count)
    )


def _not_golden(bundle: Bundle, reason: str) -> VerificationFailed:
    golden = bundle.manifest.golden
    return VerificationFailed(
        f"{golden.file} does not hold the {golden.count} golden vectors that the manifest says: {reason}",
        "convert the model again",
    )


def check_golden(session: Runner, bundle: Bundle, variant: str, *, limit: int | None = None) -> GoldenResult:
    """Run the first `limit` golden vectors (None: all) and compare with what the manifest asks of `variant`.

    An output fails when its shape differs, when it is not finite where the original is, or when its cosine to
    the original, of labels the share of equal ones, is below the limit. An error of the session is a failure too.
    """
    seen: dict[str, float] = {}
    least = bundle.manifest.golden.min_cosine.get(variant)
    if least is None:
        return GoldenResult(0, seen, f"the manifest gives no least cosine for variant '{variant}'")
    vectors = load_golden(bundle, limit)
    for index, vector in enumerate(vectors):
        try:
            outputs = session.run(vector.inputs)
        except EdgertError as exc:
            return GoldenResult(index, seen, f"golden vector {index}: {exc.message}")
        for name, expected in vector.outputs.items():
            if name not in outputs:
                return GoldenResult(index, seen, f"golden vector {index}: there is no output '{name}'")
            value, defect = compare(outputs[name], expected)
            seen[name] = min(value, seen.get(name, 1.0))
            if not defect and value < least:
                measure = "equal labels" if is_label(expected) else "cosine"
                defect = f"has {measure} {value:.4f}, at least {least:g} is allowed"
            if defect:
                return GoldenResult(index, seen, f"golden vector {index}: output '{name}' {defect}")
    return GoldenResult(len(vectors), seen)


def compare(got: Array, expected: Array) -> tuple[float, str]:
    """Return the nearness of two outputs and what makes them incomparable ("" when nothing does).

    It is their cosine, -1..1, and of labels (`is_label`) the share of equal ones, 0..1.
    """
    if got.shape != expected.shape:
        return 0.0, f"has shape {list(got.shape)}, {list(expected.shape)} is expected"
    if is_label(expected) or got.dtype.kind not in "biuf":
        text = expected.dtype.kind not in "biuf" or got.dtype.kind not in "biuf"
        same = (got.astype(np.str_) == expected.astype(np.str_)) if text else (got == expected)
        return float(np.mean(same)) if expected.size else 1.0, ""
    left, right = (array.astype(np.float64).ravel() for array in (got, expected))
    finite = np.isfinite(right)
    if not np.array_equal(np.isfinite(left), finite):
        return 0.0, "is not finite where the original is"
    return cosine(left[finite], right[finite]), ""


def is_label(array: Array) -> bool:
    """Return whether the entries are names of something, with no distance: text, bool, integers of 32 and 64 bits."""
    return array.dtype.kind not in "iufc" or (array.dtype.kind in "iu" and array.dtype.itemsize >= 4)


def cosine(left: Array, right: Array) -> float:
    """Return the cosine of two float64 vectors; 1 when both are zero, 0 when one is."""
    # Scaled first, so that squares neither overflow nor vanish.
    left_peak, right_peak = (float(np.max(np.abs(side), initial=0.0)) for side in (left, right))
    if left_peak == 0.0 or right_peak == 0.0:
        return float(left_peak == right_peak)
    left, right = left / left_peak, right / right_peak
    product = float(left @ right) / float(np.sqrt((left @ left) * (right @ right)))
    return max(-1.0, min(1.0, product))
