"""Every model of `bench_convert`, converted for a phone's NPU, an integrated GPU, a board, a PC: what holds the gate.

    python -m tests.bench_gates                   all models
    python -m tests.bench_gates iris face-mesh    these alone
    python -m tests.bench_gates --quick           a sixth of the samples

The gate is the default one, the mean cosine to the original's outputs within 0.01. A row tells what was chosen and its
gate value, or why nothing was, with the best that was found. Times are left to `bench_convert`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from converters.pipeline import convert
from converters.request import BundleReport, ProfileFailure
from edgert.commands.printing import table
from edgert.errors import EdgertError
from examples.models import fetch
from tests.bench_convert import CASES, Case, as_onnx, write_samples
from tests.bench_data import DATA

PROFILES = ("snapdragon-8-gen-3", "intel-core-ultra-s2-igpu", "raspberry-pi-5", "x86-avx512-vnni")
HEADINGS = ("model", "profile", "chosen", "gate", "float", "what became of it")
MOST_WORDS = 300

Row = tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 unless a model could not be converted at all for another reason than missing data."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_gates", description=__doc__)
    parser.add_argument("ids", nargs="*", metavar="MODEL", help=", ".join(case.id for case in CASES))
    parser.add_argument("--quick", action="store_true", help="a sixth of the samples")
    asked = parser.parse_args(arguments)
    rows: list[Row] = []
    for case in (case for case in CASES if not asked.ids or case.id in asked.ids):
        start = time.monotonic()
        try:
            found = list(_rows(case, asked.quick))
        except EdgertError as error:
            found = [(case.id, "-", "-", "-", "-", error.message)]
        rows += found
        for row in found:
            print(" | ".join(row), flush=True)
        print(f"# {case.id}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(table(HEADINGS, rows))
    return 0


def _rows(case: Case, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="edgert-gates-") as folder:
        work = Path(folder)
        source = fetch(case.id)
        data = DATA[case.id](as_onnx(case, source, work), quick)
        write_samples(work / "samples", data.calibration)
        shapes = {name: array.shape for name, array in data.calibration[0].items() if array.ndim} if case.static else {}
        conversion = convert(
            source,
            PROFILES,
            calibration=str(work / "samples"),
            output=work / "out",
            shapes=shapes,
            license="NOASSERTION",
            **case.source,
        )
        for entry in conversion.bundles:
            yield _row(case.id, entry)


def _row(model: str, entry: BundleReport | ProfileFailure) -> Row:
    floats = sum(layer.decision == "float" for layer in entry.layers)
    kept = f"{floats} of {len(entry.layers)} tensors" if entry.layers else "-"
    if isinstance(entry, ProfileFailure):
        gates = [one.gate for one in entry.candidates if one.gate is not None]
        said = " ".join(entry.message.split())[:MOST_WORDS]
        return model, entry.profile, "none", f"{max(gates):.4f}" if gates else "-", kept, said
    chosen = next(one for one in entry.candidates if one.outcome.startswith("chosen"))
    return model, entry.profile, chosen.variant, f"{chosen.gate or 0:.4f}", kept, entry.reason


if __name__ == "__main__":
    sys.exit(main())
